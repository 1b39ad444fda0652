"""Sentences of answers with the passages that they cite, labelled by hand: see eval/labelled.

`test` is what a support check is judged on, `fit` what its parameters are fitted on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rag.errors import InvalidInput
from rag.types import Context, Passage, Scores

FOLDER = Path(__file__).parent / "labelled"
FILES = {"test": ("citations.jsonl", "contexts.jsonl"), "fit": ("fit.jsonl", "fit_contexts.jsonl")}
SUPPORTED = ("verbatim", "reworded", "paraphrased")
EDITED = ("number", "name", "negation", "passage")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A sentence that points at passage `cites`; `span` is that passage's words that support it."""

    id: str
    question: str
    context: Context
    sentence: str
    cites: int
    supported: bool
    kind: str
    pair: str | None
    span: str | None

    @property
    def passage(self) -> Passage:
        """The passage that it cites."""
        return self.context.passages[self.cites - 1]


def load(which: Literal["test", "fit"]) -> list[Labelled]:
    """Every sentence of a set. Raises InvalidInput for a row that contradicts itself."""
    sentences, contexts = (_rows(FOLDER / name) for name in FILES[which])
    known = {row["id"]: row for row in contexts}
    return [_labelled(row, known[row["context"]]) for row in sentences]


def _labelled(row: dict[str, Any], context: dict[str, Any]) -> Labelled:
    passages = tuple(_passage(one) for one in context["passages"])
    found = Labelled(
        id=row["id"],
        question=context["question"],
        context=Context(passages, 0),
        **{name: row[name] for name in ("sentence", "cites", "supported", "kind", "pair", "span")},
    )
    if found.kind not in (SUPPORTED if found.supported else EDITED):
        raise InvalidInput(f"{found.id} is of kind {found.kind!r}, and its label is another.")
    if found.supported != (found.span is not None and found.span in found.passage.text):
        raise InvalidInput(f"{found.id} has a span that its passage does not hold.")
    return found


def _passage(row: dict[str, Any]) -> Passage:
    text = row["text"]
    return Passage(
        number=row["number"],
        document_id=row["source"],
        title=row["title"],
        text=text,
        start=0,
        end=len(text),
        tokens=0,
        page=None,
        headings=(),
        source=row["source"],
        scores=Scores(),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]
