"""`rag trace` and `rag replay`: why an answer says what it says, what else it would have said."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.errors import InvalidInput
from rag.replay import CHANGEABLE
from rag.settings import Settings, load_settings
from services.reach import reached
from services.schemas import AskResponse
from services.trace_words import CandidateOut, TraceOut, TraceRowOut

SHOWN = 20  # candidates


def split_changes(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what the question is to be asked with, settings that are to be otherwise)."""
    asked = {name: value for name, value in changes.items() if name in CHANGEABLE}
    settings = {name: value for name, value in changes.items() if name not in CHANGEABLE}
    if unknown := sorted(settings.keys() - Settings.model_fields.keys()):
        raise InvalidInput(
            f"There is no setting {unknown[0]!r}.",
            hint=f"Of a question there are {', '.join(sorted(CHANGEABLE))}; all others are those"
            " of RAG_<NAME>.",
        )
    return asked, settings


def run_replay(
    trace_id: str, changes: Mapping[str, Any], settings: Settings
) -> tuple[TraceOut, AskResponse]:
    """(the trace, the answer with these changes)."""
    asked, others = split_changes(changes)
    with reached(settings) as folder:
        trace = folder.trace(trace_id)
        if not others:
            return trace, folder.replay(trace_id, asked)
        folder.refuse_settings(sorted(others))
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    with reached(load_settings(**{**given, **others})) as folder:
        return trace, folder.replay(trace_id, asked)


def show_replay(
    console: Console, trace: TraceOut, now: AskResponse, changes: Mapping[str, Any]
) -> None:
    """Both answers, and which passages came, went or moved."""
    console.print(f"[bold]{escape(trace.question)}[/]\n")
    console.print(f"[dim]as it was, {trace.created_at:%Y-%m-%d %H:%M}[/]")
    console.print(escape(trace.answer.answer))
    said = ", ".join(f"{name}={value}" for name, value in changes.items()) or "nothing changed"
    console.print(f"\n[dim]with {escape(said)}[/]")
    console.print(escape(now.answer))
    table = Table("passage", "rank", "now", "cited", "now", box=None, pad_edge=False)
    for row in _moved(trace.candidates, now):
        table.add_row(*row)
    console.print()
    console.print(table)


def _moved(before: Sequence[CandidateOut], now: AskResponse) -> list[tuple[str, ...]]:
    """Passages that are among the hits before or now: name, ranks, whether cited."""
    old = {(one.document_id, one.start): one for one in before if one.passage is not None}
    new = {(hit.document_id, hit.start): rank for rank, hit in enumerate(now.hits, 1)}
    spans = [(cited.document_id, cited.start) for cited in now.citations]
    titles = {(hit.document_id, hit.start): (hit.title, hit.end) for hit in now.hits}
    titles |= {key: (one.title, one.end) for key, one in old.items()}
    rows: list[tuple[str, ...]] = []
    for key in sorted(
        {*old, *new}, key=lambda k: (new.get(k, 10**6), old[k].rank if k in old else 0)
    ):
        title, end = titles[key]
        cited = any(document == key[0] and key[1] <= start < end for document, start in spans)
        rows.append((
            f"{escape(title)} ({escape(key[0])}, {key[1]})",
            str(old[key].rank) if key in old else "-",
            str(new[key]) if key in new else "-",
            "yes" if key in old and old[key].cited else "",
            "yes" if cited else "",
        ))  # fmt: skip
    return rows


def show_trace(console: Console, trace: TraceOut) -> None:
    """The answer, then every candidate with its scores and what became of it."""
    console.print(f"[bold]{escape(trace.question)}[/]  [dim]{trace.created_at:%Y-%m-%d %H:%M}[/]")
    if trace.searched != trace.question:
        console.print(f"[dim]searched for: {escape(trace.searched)}[/]")
    console.print(escape(trace.answer.answer))
    for said in trace.feedback:
        console.print(f"[yellow]{said.rating}[/] {escape(said.correction or said.comment)}")
    columns = ("", "passage", "dense", "bm25", "fused", "rerank", "what became of it")
    table = Table(*columns, box=None, pad_edge=False)
    for one in trace.candidates[:SHOWN]:
        scores = (one.scores.dense, one.scores.bm25, one.scores.fused, one.scores.rerank)
        fate = f"passage {one.passage}{', cited' if one.cited else ''}" if one.passage else one.why
        table.add_row(
            str(one.rank),
            f"{escape(one.title)} ({escape(one.document_id)}, {one.start})",
            *("" if score is None else f"{score:.3f}" for score in scores),
            escape(fate),
        )
    console.print(table)
    if (more := len(trace.candidates) - SHOWN) > 0:
        console.print(f"[dim]and {more} more; --json shows them, the prompt and the settings[/]")


def show_rows(console: Console, rows: Sequence[TraceRowOut]) -> None:
    """A list of traces."""
    table = Table("trace", "at", "collection", "question", "rated", box=None, pad_edge=False)
    for row in rows:
        at = f"{row.created_at:%Y-%m-%d %H:%M}"
        table.add_row(row.id, at, row.collection, escape(row.question[:80]), row.rating or "")
    console.print(table)
