"""Questions put to Ragstone, some of which nothing there answers, and what is kept of each answer.

An unanswerable question is one whose relevant documents are held out by a filter on their ids: to
that question the collection is the one that `Dataset.without` makes. So one ingestion serves every
sample, and a user's own collection is only read. What else in the collection might answer it is
unknown where judgements are incomplete.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eval.datasets import Dataset, folded
from eval.judge import Judge
from eval.squad import holds
from rag.cite import MARKER, sentences_of
from rag.errors import InvalidInput, NotFound
from rag.orchestrator import Orchestrator
from rag.types import Answer

ALWAYS = {"least_support": 0.0}  # answer whatever the support
UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Question:
    """One question to ask. `held_out` are the documents that it must not see."""

    id: str
    text: str
    held_out: tuple[str, ...] = ()

    @property
    def answerable(self) -> bool:
        """Whether what answers it is there."""
        return not self.held_out


@dataclass(frozen=True, slots=True)
class Cited:
    """A citation: its document and the words that it quotes."""

    document: str
    quote: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of one question.

    `text` is the answer without its markers. `forced` is what is said in the place of an abstention
    when the support does not count, None where there was none. `sentences` counts those of the
    answer, `marked` those with a citation. `grade` is the judge's, `unread` where it could not be
    read, None where it was not asked.
    """

    question: str
    answerable: bool
    text: str
    abstained: bool
    support: float | None
    how: str
    in_context: bool
    cited: tuple[Cited, ...]
    sentences: int
    marked: int
    seconds: Mapping[str, float]
    context_tokens: int
    prompt_tokens: int
    completion_tokens: int
    forced: str | None = None
    grade: int | str | None = None
    relevant: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Asked":
        """From a file."""
        tuples = {name: tuple(row[name]) for name in ("relevant", "accepted")}
        return cls(**{**row, **tuples, "cited": tuple(Cited(**one) for one in row["cited"])})


def pick(dataset: Dataset, count: int | None, seed: int) -> list[Question]:
    """So many questions, None for all; every second one has its relevant documents held out.

    Only questions with a relevant document and an accepted answer can be asked, and of several
    with the same words the first one is. Raises InvalidInput for more than there are, and for none.
    """
    known: dict[str, str] = {}
    for query in dataset.judged:
        if dataset.relevant(query) and dataset.answers.get(query):
            known.setdefault(folded(dataset.queries[query]), query)
    if not known:
        raise InvalidInput(
            f"{dataset.name} has no question with a relevant document and an accepted answer.",
            hint='answers.jsonl has them, a line each: {"_id": question, "answers": ["text"]}.',
        )
    if count is not None and not 1 <= count <= len(known):
        raise InvalidInput(
            f"{dataset.name} has {len(known)} different questions with a relevant document and an"
            f" accepted answer: {count} cannot be asked.",
            hint=f"Ask 1 to {len(known)} with --questions, or all without it.",
        )
    picked = random.Random(seed).sample(sorted(known.values()), count or len(known))
    return [
        Question(q, dataset.queries[q], dataset.relevant(q) if at % 2 else ())
        for at, q in enumerate(picked)
    ]


def check_there(
    rag: Orchestrator, collection: str, dataset: Dataset, asked: Sequence[Question]
) -> None:
    """Raise InvalidInput when a relevant document is not in the collection: nothing would count."""
    for question in asked:
        for document in dataset.relevant(question.id):
            try:
                rag.parts.catalog.document(rag.scope, collection, document)
            except NotFound:
                raise InvalidInput(
                    f"Document {document!r}, judged for question {question.id!r}, is not in"
                    f" collection {collection!r}.",
                    hint="Judgements are of document ids; `rag ls COLLECTION` lists them.",
                ) from None


def put(
    rag: Orchestrator,
    collection: str,
    dataset: Dataset,
    question: Question,
    judge: Judge | None = None,
) -> Asked:
    """Ask one question; an answerable one that gets no answer again, whatever the support.

    The second time tells what a lower threshold would let through, and counts in nothing else.
    """
    filter = {"not": {"document_id": list(question.held_out)}} if question.held_out else None
    answer = rag.ask(question.text, collection=collection, filter=filter)
    accepted = dataset.answers[question.id]
    forced = None
    if answer.abstained and question.answerable:
        again = rag.ask(question.text, collection=collection, instead=ALWAYS)
        forced = "" if again.abstained else unmarked(again.text)
    grade: int | str | None = None
    if judge is not None and question.answerable and not answer.abstained:
        grade = judge.grade(question.text, accepted, unmarked(answer.text))
        grade = UNREAD if grade is None else grade
    return _asked(question, answer, accepted, dataset.relevant(question.id), forced, grade)


def _asked(
    question: Question,
    answer: Answer,
    accepted: Sequence[str],
    relevant: tuple[str, ...],
    forced: str | None,
    grade: int | str | None,
) -> Asked:
    sentences = [one for one in sentences_of(answer.text) if one.strip()]
    return Asked(
        question=question.id,
        answerable=question.answerable,
        text=unmarked(answer.text),
        abstained=answer.abstained,
        support=answer.support,
        how=answer.models["support"],
        in_context=any(holds(passage.text, accepted) for passage in answer.passages),
        cited=tuple(Cited(one.document_id, one.quote) for one in answer.citations),
        sentences=len(sentences),
        marked=sum(bool(MARKER.search(one)) for one in sentences),
        seconds=dict(answer.timings),
        context_tokens=sum(passage.tokens for passage in answer.passages),
        prompt_tokens=answer.usage.prompt_tokens,
        completion_tokens=answer.usage.completion_tokens,
        forced=forced,
        grade=grade,
        relevant=relevant,
        accepted=tuple(accepted),
    )


def unmarked(text: str) -> str:
    """An answer without its `[n]`."""
    return MARKER.sub("", text).strip()
