"""How far an ingestion is: a bar in a terminal, elsewhere a line now and then."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bars

from rag.types import DocumentReport
from services.destination import Standing

LINE_SECONDS = 10.0
DONE = ("ingested", "replaced")
FAILED = ("failed", "cancelled")


@dataclass(slots=True)
class Tally:
    """Files and bytes that there are, and how many of them are done with.

    `worked` are the bytes of documents that were embedded; what was there already took no time.
    `begun` is when the first document was on its way.
    """

    files: int = 0
    size: int = 0
    done: int = 0
    done_size: int = 0
    worked: float = 0
    failed: int = 0
    chunks: int = 0
    tokens: int = 0
    running_chunks: int = 0
    running_size: float = 0
    begun: float | None = None

    def end(self, report: DocumentReport, size: int) -> None:
        """One is done with."""
        self.done += 1
        self.done_size += size
        self.failed += report.status in FAILED
        if report.status in DONE:
            self.worked += size
            self.chunks += report.chunks
            self.tokens += report.tokens

    def tokens_per_second(self, now: float) -> float | None:
        """That the embedder reads. Those of chunks whose document is not done yet are estimated."""
        if self.begun is None or now <= self.begun or not self.chunks:
            return None
        per_chunk = self.tokens / self.chunks
        return (self.tokens + self.running_chunks * per_chunk) / (now - self.begun)

    def seconds_left(self, now: float) -> float | None:
        """By the bytes that are left, as if there was something to do for all of them."""
        worked = self.worked + self.running_size
        if self.begun is None or now <= self.begun or not worked:
            return None
        left = max(0.0, self.size - self.done_size - self.running_size)
        return left * (now - self.begun) / worked

    def line(self, now: float) -> str:
        """All of it, in words."""
        said = [f"{self.done:,}/{self.files:,} files"]
        said.append(f"{self.chunks + self.running_chunks:,} chunks")
        if (rate := self.tokens_per_second(now)) is not None:
            said.append(f"{rate:,.0f} tokens/s")
        if self.failed:
            said.append(f"{self.failed:,} failed")
        if (left := self.seconds_left(now)) is not None and self.done < self.files:
            said.append(f"{duration(left)} left")
        return ", ".join(said)


class Progress:
    """Shows a tally as it grows. For one thread."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.tally = Tally()
        self._console = console
        self._clock = clock
        self._bars: Bars | None = None
        if console.is_terminal:
            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bars = Bars(*columns, console=console, transient=True)
            self._bar = self._bars.add_task("", total=None)
        self._said_at = clock()

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def expect(self, files: int, size: int) -> None:
        """So much more is to be done."""
        self.tally.files += files
        self.tally.size += size
        self._show()

    def working(self) -> None:
        """Something is on its way from now on."""
        if self.tally.begun is None:
            self.tally.begun = self._clock()

    def moved(self, standings: Sequence[Standing], size_of: Callable[[str], int]) -> None:
        """The documents at work are so far; `size_of` gives the bytes of one by its id."""
        at_work = [one for one in standings if one.report is None and one.total]
        self.tally.running_chunks = sum(one.done for one in at_work)
        self.tally.running_size = sum(size_of(one.id) * one.done / one.total for one in at_work)
        self._show()

    def ended(self, report: DocumentReport, size: int) -> None:
        """One more is done with."""
        self.tally.end(report, size)
        self._show()

    def note(self, text: str) -> None:
        """Say something that whoever waits has to know."""
        self._console.print(f"[dim]{escape(text)}[/]")

    def _show(self) -> None:
        now = self._clock()
        if self._bars is not None:
            tally = self.tally
            part = (tally.done_size + tally.running_size) / tally.size if tally.size else None
            self._bars.update(
                self._bar, description=escape(tally.line(now)), completed=part or 0,
                total=None if part is None else 1.0,
            )  # fmt: skip
        elif now - self._said_at >= LINE_SECONDS:
            self._said_at = now
            self._console.print(self.tally.line(now))


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
