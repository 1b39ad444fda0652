"""What readers said of answers, as a test collection of their own questions.

A thumbs up judges the cited documents relevant and their quotes right. A thumbs down with a
correction says what the right answer is; relevant are documents that hold it, of those that were
found. Of several ratings of a question the latest counts.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from eval.datasets import Dataset, folded, write_judgements
from rag.claims import content_words
from rag.errors import InvalidInput
from rag.orchestrator import Orchestrator
from rag.trace import Trace

HELD = 0.74  # share of a correction's content words that a passage must hold more than

Judged = tuple[Mapping[str, int], list[str]]
"""(relevance by document, accepted answers)."""


def judgements(rag: Orchestrator, collection: str) -> tuple[Dataset, Mapping[str, int]]:
    """(questions that were rated, how many ratings say nothing by why).

    Raises InvalidInput where none says anything.
    """
    rag.parts.catalog.collection(rag.scope, collection)
    latest = {
        folded(trace.answer.question): trace
        for trace in sorted(
            rag.parts.traces.rated(rag.scope, collection),
            key=lambda trace: trace.feedback[-1].created_at,
        )
    }
    queries, qrels, answers = {}, {}, {}
    left_out = Counter[str]()
    for trace in latest.values():
        found = _judged(rag, collection, trace)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        queries[trace.id] = trace.answer.question
        qrels[trace.id], answers[trace.id] = found
    if not queries:
        raise InvalidInput(
            f"No feedback on answers from {collection!r} says which document is right.",
            hint="POST /v1/feedback takes a rating and, where an answer was wrong, a correction.",
        )
    return Dataset(collection, {}, {}, queries, qrels, answers), dict(left_out)


def _judged(rag: Orchestrator, collection: str, trace: Trace) -> Judged | str:
    """What a trace's latest feedback judges, or why it judges nothing."""
    said = trace.feedback[-1]
    if said.rating == "up":
        cited = trace.answer.citations
        if trace.answer.abstained or not cited:
            return "a thumbs up for an answer without citations"
        return dict.fromkeys((one.document_id for one in cited), 1), [one.quote for one in cited]
    if not said.correction:
        return "a thumbs down without a correction"
    wanted = content_words(said.correction)
    holding = {}
    for one in trace.candidates:
        text = rag.text(one.document_id, collection=collection)[one.start : one.end]
        if wanted and len(wanted & content_words(text)) > HELD * len(wanted):
            holding[one.document_id] = 1
    return (holding, [said.correction]) if holding else "a correction that no passage found holds"


def write(console: Console, rag: Orchestrator, collection: str, folder: Path) -> None:
    """Write the set as `rag eval` reads it, and say what was left out."""
    if (folder / "queries.jsonl").exists():
        raise InvalidInput(f"{folder} holds a set already.", hint="Name another with --folder.")
    dataset, left_out = judgements(rag, collection)
    write_judgements(folder, dataset)
    why = ", ".join(f"{count} ({reason})" for reason, count in left_out.items()) or "nothing"
    console.print(
        f"{len(dataset.queries)} questions that readers rated: {folder}. Left out: {why}.",
        markup=False,
        soft_wrap=True,
    )
