"""How fast a reranker reads on this machine, now: what a latency budget can be spent on."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

PAST = 0.7  # weight of the past in the mean: after five passes the new speed is four fifths of it


class Pace:
    """Bytes of text read per second, an exponential mean over passes. Thread-safe.

    Bytes, because a reranker's boundary carries texts: in UTF-8 a token takes three to five of them
    in most scripts, while characters per token differ fourfold between them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._per_second: float | None = None
        self._guard = threading.Lock()

    @property
    def per_second(self) -> float | None:
        """Bytes per second; None before the first pass."""
        with self._guard:
            return self._per_second

    @contextmanager
    def measure(self, size: int) -> Iterator[None]:
        """Time the pass over `size` bytes that runs inside; one that fails tells nothing."""
        start = self.clock()
        yield
        speed = size / max(self.clock() - start, 1e-6)
        with self._guard:
            before = speed if self._per_second is None else self._per_second
            self._per_second = PAST * before + (1 - PAST) * speed

    def affordable(self, sizes: Sequence[int], seconds: float) -> int | None:
        """How many of the first `sizes` are read within `seconds`; None before the first pass."""
        speed = self.per_second
        if speed is None:
            return None
        room, count = seconds * speed, 0
        for size in sizes:
            room -= size
            if room < 0:
                break
            count += 1
        return count


def text_bytes(text: str) -> int:
    """The length of a text in UTF-8."""
    return len(text.encode("utf8", "surrogatepass"))
