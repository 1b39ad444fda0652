"""Answers, hits and progress as a person reads them in a terminal."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rag.types import DocumentReport
from rag.types import Progress as DocumentProgress
from services.events import AnswerWire, TokenEvent
from services.schemas import AskResponse, CitationOut, HitOut, SearchResponse

QUOTE_CHARS = 300


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """How many are done, and how many of them failed."""
    columns = (TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what)

        def told(done: int, failed: int) -> None:
            progress.update(task, description=f"{done} {what}, {failed} failed")

        yield told


@contextmanager
def watched(console: Console, documents: int) -> Iterator[Callable[[DocumentProgress], None]]:
    """A bar over documents, and for each how many of its chunks are embedded."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        total = bars.add_task("documents", total=documents)
        current = bars.add_task("", total=None)

        def on_progress(progress: DocumentProgress) -> None:
            if progress.stage == "parse":
                bars.reset(current, description=escape(progress.source[:40]), total=None)
                return
            bars.update(current, completed=progress.done, total=progress.total)
            if progress.done == progress.total:
                bars.advance(total)

        yield on_progress


def show_reports(
    console: Console,
    reports: Sequence[DocumentReport],
    skipped: Mapping[str, int] | None = None,
    *,
    summary: bool = True,
) -> None:
    """What happened, counted; failures and warnings one by one.

    `skipped` says how many files of which extension no parser reads.
    """
    for report in reports:
        if report.status == "failed":
            console.print(f"[red]failed[/] {escape(report.source)}: {escape(report.error)}")
            if report.hint:
                console.print(f"       [dim]{escape(report.hint)}[/]")
        for warning in report.warnings:
            console.print(f"[yellow]warning[/] {escape(report.source)}: {escape(warning)}")
    if skipped:
        counted = ", ".join(f"{count} {name}" for name, count in sorted(skipped.items()))
        console.print(f"skipped, of types that no parser reads: {escape(counted)}")
    if summary:
        console.print(_summary(reports, sum((skipped or {}).values())))


def _summary(reports: Sequence[DocumentReport], skipped: int) -> str:
    counts = Counter(report.status for report in reports)
    counts["skipped"] += skipped
    order = ("ingested", "replaced", "unchanged", "failed", "cancelled", "skipped")
    said = ", ".join(f"{counts[status]} {status}" for status in order if counts[status])
    made = [report for report in reports if report.status in ("ingested", "replaced")]
    chunks, tokens = (sum(getattr(one, name) for one in made) for name in ("chunks", "tokens"))
    lost = sum(report.truncated_tokens or 0 for report in made)
    return f"{said or 'no files'}: {chunks} chunks, {tokens} tokens embedded, {lost} cut off"


def show_answer(
    console: Console, events: Iterable[AnswerWire], *, quiet: bool = False
) -> AskResponse:
    """Print the text as it comes, then the citations; `quiet` prints nothing."""
    streamed = ""
    for event in events:
        if quiet:
            continue
        if isinstance(event, TokenEvent):
            console.print(escape(event.text), end="")
            streamed += event.text
    assert isinstance(event, AskResponse)
    if quiet:
        return event
    console.print()
    if event.answer != streamed:  # markers were checked after the text had been shown
        console.print(f"\n[bold]Checked:[/] {escape(event.answer)}")
    show_citations(console, event)
    show_footer(console, event)
    return event


def show_citations(console: Console, answer: AskResponse) -> None:
    """Every citation with its place and its quote; the nearest passages when there is none."""
    for citation in answer.citations:
        console.print(f"\n  [bold]\\[{citation.marker}][/] {escape(place(citation))}")
        console.print(f"      [italic]“{escape(shortened(citation.quote))}”[/]")
    if answer.abstained and answer.hits:
        console.print("\n  [dim]Nearest passages:[/]")
        for hit in answer.hits[:3]:
            console.print(f"  [dim]- {escape(hit_place(hit))}[/]")


def show_footer(console: Console, answer: AskResponse) -> None:
    """Timings, models, and what was cut or had no effect."""
    console.print(f"\n  [dim]{stages(answer.timings)}[/]")
    names = ", ".join(f"{role} {name}" for role, name in answer.models.items())
    console.print(f"  [dim]{escape(names)}[/]")
    for note in answer.notes:
        console.print(f"  [yellow]note:[/] {escape(note)}")
    for cut in answer.cuts:
        console.print(f"  [dim]left out: {escape(cut.what)} ({escape(cut.why)})[/]")


def show_hits(console: Console, found: SearchResponse) -> None:
    """Hits with the score of every stage."""
    for rank, hit in enumerate(found.hits, start=1):
        scores = hit.scores
        stages_seen = {
            "dense": scores.dense,
            "bm25": scores.bm25,
            "fused": scores.fused,
            "rerank": scores.rerank,
        }
        seen = "  ".join(f"{k} {v:.3f}" for k, v in stages_seen.items() if v is not None)
        console.print(f"[bold]{rank}.[/] {escape(hit_place(hit))}  [dim]{seen}[/]")
        console.print(f"   {escape(shortened(' '.join(hit.text.split())))}")
    if not found.hits:
        console.print("No hits.")
    console.print(f"[dim]{stages(found.timings)}[/]")


def place(citation: CitationOut) -> str:
    """Where a quote stands: title, page, headings, characters."""
    parts = [citation.title]
    if citation.page:
        parts.append(f"page {citation.page}")
    parts += [heading for heading in citation.headings if heading != citation.title]
    return f"{', '.join(parts)} ({citation.document_id}, {citation.start}-{citation.end})"


def hit_place(hit: HitOut) -> str:
    """Where a hit stands."""
    page = f", page {hit.page}" if hit.page else ""
    headings = "".join(f", {h}" for h in hit.headings if h != hit.title)
    return f"{hit.title}{page}{headings}"


def stages(timings: Mapping[str, float]) -> str:
    """Seconds of each stage that took a millisecond, and the sum."""
    shown = [f"{name} {1000 * s:.0f} ms" for name, s in timings.items() if s >= 0.001]
    return f"{', '.join(shown)}; {sum(timings.values()):.2f} s"


def shortened(text: str) -> str:
    """A text that fits a few lines."""
    return text if len(text) <= QUOTE_CHARS else f"{text[: QUOTE_CHARS - 1]}…"


def print_json(value: object) -> None:
    """Standard output for scripts: one JSON document, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")
