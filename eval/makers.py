"""Documents -> candidates for an evaluation set, by rules and, where there is one, by an LM."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil

import numpy as np
from rich.progress import track

from eval.datasets import Dataset
from eval.lm_questions import lm_questions
from eval.loosen import Vocabulary, loosened, vocabulary
from rag import parsed
from rag.embed import Embedder
from rag.errors import NotFound
from rag.generate import LanguageModel
from rag.known_items import Made, Words, made_of
from rag.orchestrator import Orchestrator
from rag.parse import text_document
from rag.types import Document

LOOSE = "in other words"
LM = "language model"
ALIKE = 0.9  # cosine of two questions that ask the same


@dataclass(frozen=True, slots=True)
class Shelf:
    """The documents that questions are made of. `read` gives None for one that is gone."""

    ids: Sequence[str]
    read: Callable[[str], Document | None]

    def documents(self, label: str, show: bool) -> Iterator[tuple[str, Document]]:
        """(id, document), read one after the other."""
        for id_ in track(self.ids, label, disable=not show):
            if (document := self.read(id_)) is not None:
                yield id_, document


@dataclass(frozen=True, slots=True)
class Question:
    """A question, how it was made, of which document, and the words there that answer it.

    `relevant` are the documents that are judged relevant; `document` is the first of them.
    """

    id: str
    text: str
    how: str
    document: str
    evidence: str
    relevant: tuple[str, ...] = ()


def shelf_of_dataset(dataset: Dataset) -> Shelf:
    """The passages of a test collection as documents."""

    def read(id_: str) -> Document | None:
        text = dataset.texts[id_]
        return text_document(text, title=dataset.titles[id_]) if text.strip() else None

    return Shelf(sorted(dataset.texts), read)


def shelf_of_collection(rag: Orchestrator, name: str) -> Shelf:
    """The live documents of a collection in Ragstone."""
    parts, scope = rag.parts, rag.scope
    found = parts.catalog.collection(scope, name)

    def read(id_: str) -> Document | None:
        try:
            return parsed.stored(parts.objects, parts.catalog.document(scope, found, id_))
        except NotFound:  # deleted since its id was read
            return None

    return Shelf(parts.builds.ids(found), read)


def by_rules(
    shelf: Shelf, embedder: Embedder, wanted: int, seed: int, *, show: bool = True
) -> list[Question]:
    """About `wanted` questions, spread over the documents and the kinds; half in other words."""
    collection = Words()
    for _, document in shelf.documents("counting words", show):
        collection.add(document.text)
    others = vocabulary(collection, embedder)
    each = ceil(wanted / max(1, collection.documents))
    found: list[Question] = []
    for id_, document in shelf.documents("making questions", show):
        if len(found) >= wanted:
            break
        rng = random.Random(f"{seed} {id_}")
        for made in _spread(made_of(document, collection, f"{seed} {id_}"), each):
            found.append(_question(id_, document, made, others, collection, rng))
    return found


def by_lm(
    shelf: Shelf, lm: LanguageModel, wanted: int, seed: int, left_out: Counter[str], *, show: bool
) -> list[Question]:
    """Questions that a language model asks of passages; what it writes wrong is counted."""
    found: list[Question] = []
    for id_, document in shelf.documents(f"{lm.id}: asking", show):
        if len(found) >= wanted:
            break
        asked, rejected = lm_questions(lm, document, random.Random(f"{seed} {id_}"))
        left_out.update(f"{LM}: {why}" for why in rejected)
        found += [
            Question(question_id(one.text, id_), one.text, LM, id_, one.quote) for one in asked
        ]
    return found


def without_near_duplicates(
    questions: Sequence[Question], embedder: Embedder, left_out: Counter[str]
) -> list[Question]:
    """Those that ask what none before them asks."""
    if not questions:
        return []
    vectors = embedder.embed_queries([one.text for one in questions])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    kept: list[int] = []
    known = np.empty_like(vectors)  # those that are kept, so that none is copied again and again
    for at in range(len(questions)):
        if kept and float((known[: len(kept)] @ vectors[at]).max()) >= ALIKE:
            left_out["near-duplicate of another question"] += 1
        else:
            known[len(kept)] = vectors[at]
            kept.append(at)
    return [questions[at] for at in kept]


def _spread(made: Sequence[Made], each: int) -> list[Made]:
    """The first `each` of them, the kinds in turn."""
    seen = Counter[str]()
    turns = []
    for one in made:
        turns.append((seen[one.kind], one))
        seen[one.kind] += 1
    return [one for _, one in sorted(turns, key=lambda pair: pair[0])[:each]]


def _question(
    id_: str,
    document: Document,
    made: Made,
    others: Vocabulary,
    collection: Words,
    rng: random.Random,
) -> Question:
    loose = rng.random() < 0.5 and made.kind != "heading"
    text = loosened(made.text, others, collection, rng) if loose else made.text
    how = f"{made.kind}, {LOOSE}" if text != made.text else made.kind
    evidence = " ".join(document.text[made.start : made.end].split())
    return Question(question_id(text, id_), text, how, id_, evidence)


def question_id(text: str, document: str) -> str:
    """Of question and document: the same question keeps its id when the set is made again."""
    key = "\0".join([document, text])
    return f"made-{sha256(key.encode()).hexdigest()[:12]}"
