"""The sample collection (about lighthouses, CC0) and the four questions that the demo asks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag.sources import Source
from rag.types import Answer

FOLDER = Path(__file__).parent / "collection"
QUESTIONS = Path(__file__).parent / "questions.json"


@dataclass(frozen=True, slots=True)
class Question:
    """A question with what a right answer cites: these documents, by quotes holding these texts.

    An unanswerable one expects no document: the right answer is that there is none.
    """

    question: str
    kind: str
    expect_documents: tuple[str, ...]
    expect_text: tuple[str, ...]

    def faults(self, answer: Answer) -> Iterator[str]:
        """What is wrong with an answer; nothing when it is right."""
        if not self.expect_documents:
            if not answer.abstained:
                yield "it should have said that the documents do not tell"
            return
        if answer.abstained:
            yield "it found no answer"
        quotes = {(citation.document_id, citation.quote) for citation in answer.citations}
        for document, text in zip(self.expect_documents, self.expect_text, strict=True):
            if not any(cited == document and text in quote for cited, quote in quotes):
                yield f"no citation of {document} says {text!r}"


def documents() -> list[Source]:
    """The sample files, known by their names wherever the package is installed."""
    return [
        Source(name=path.name, origin=path.name, id=path.name, path=path)
        for path in sorted(FOLDER.iterdir())
    ]


def questions() -> list[Question]:
    """The questions, in the order in which they are asked."""
    rows = json.loads(QUESTIONS.read_text(encoding="utf8"))
    return [
        Question(
            row["question"],
            row["kind"],
            tuple(row["expect_documents"]),
            tuple(row["expect_text"]),
        )
        for row in rows
    ]
