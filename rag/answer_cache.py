"""Answers that were given before, given again to the same question of the same documents. Off by
default.

What an answer depends on is its key: the collection in the version that it had (any document that
comes, changes or goes makes another), the scope, models, parameters, the conversation. Within one
key the same question is found by its words, and a near one by its vector; that two questions ask
the same is then confirmed by what tells questions apart: numbers, names, negation, opposites and
question words, late interaction in both directions, and a cross-encoder where one reranks. Answers
that are drawn at random are not kept: whoever asks for those wants another one.
"""

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rag import access, claims
from rag.catalog import Collection
from rag.check import Meaning
from rag.generate import Generator
from rag.odds import sigmoid
from rag.question import Asked
from rag.settings import QUOTE
from rag.trace import Trace
from rag.types import Answer, AnswerEvent, Message, Retrieved, Scope, TextPiece

Logit = Callable[[str, str], float]
_QUESTION_WORDS = frozenset("can does how should what when where which who whose why will".split())  # noqa: SIM905 - easier to read
LEAST_MEANT = 0.8  # mean of the best cosines of one question's words in the other
LEAST_WORD = 0.5  # the same of the word that is meant least
LEAST_CROSSED = 0.5  # what a cross-encoder gives, of 1


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer with its trace, None where none is kept; `vector` is the question's, (dim,)."""

    question: str
    vector: NDArray[np.float32]
    answer: Answer
    trace: Trace | None


class AnswerCache:
    """The latest answers of this process, at most `most`. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def find(
        self,
        key: str,
        question: str,
        vector: Callable[[], NDArray[np.float32]],
        least: float,
        same: Callable[[str, str], bool],
    ) -> Kept | None:
        """The answer to this question, or to the nearest one that asks the same.

        `least` is the cosine from which on `same` is asked whether they do.
        """
        exact = (key, _folded(question))
        with self._guard:
            if exact in self._kept:
                self._kept.move_to_end(exact)
                return self._kept[exact]
            others = [kept for (of, _), kept in self._kept.items() if of == key]
        if not others or least > 1:
            return None
        asked = vector()
        cosines = np.array([kept.vector for kept in others]) @ asked
        for at in np.argsort(-cosines):
            if cosines[at] < least:
                return None
            kept: Kept = others[at]
            if same(question, kept.question):
                return kept
        return None

    def keep(self, key: str, kept: Kept) -> None:
        """Remember an answer, and forget the one that was not asked for longest."""
        with self._guard:
            self._kept[key, _folded(kept.question)] = kept
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)

    def forget(self) -> int:
        """Keep none any longer. Returns how many there were."""
        with self._guard:
            count = len(self._kept)
            self._kept.clear()
            return count


def key_of(
    scope: Scope,
    asked: Asked,
    history: Sequence[Message],
    collection: Collection,
    generator: Generator,
) -> str | None:
    """Everything but the question that an answer depends on; None for one that is not to be kept.

    The models of a process never change, save that a collection may have a generator of its own.
    """
    sampling = asked.sampling
    repeats = generator.id == QUOTE or sampling.do_sample is False or sampling.seed is not None
    if not repeats:
        return None
    made_of = [
        [scope.tenant, access.point_groups(scope), collection.physical, collection.version],
        [dict(collection.settings), collection.system_prompt, collection.answer_language],
        [generator.id, generator.revision, asdict(sampling)],
        [asked.filter, asked.limit, [astuple(turn) for turn in history]],
    ]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def asks_the_same(meaning: Meaning, crossed: Logit | None = None) -> Callable[[str, str], bool]:
    """Whether two questions ask the same, by words, token vectors, and a cross-encoder's logit."""

    def same(one: str, other: str) -> bool:
        if _differ(one, other):
            return False
        for a, b in ((one, other), (other, one)):
            (mean,), (gap,) = meaning(a, [b])
            if mean < LEAST_MEANT or mean - gap < LEAST_WORD:
                return False
            if crossed is not None and sigmoid(crossed(a, b)) < LEAST_CROSSED:
                return False
        return True

    return same


def again(kept: Kept, question: str) -> Iterator[AnswerEvent]:
    """The events of an answer that is given again; the last one is the `Answer`."""
    answer = kept.answer
    note = "from the answer cache"
    if _folded(question) != _folded(kept.question):
        note += ": another question asked the same"  # it may be somebody else's: not quoted
    yield Retrieved(answer.hits)
    yield TextPiece(answer.text)
    yield from answer.citations
    yield replace(answer, question=question, timings={}, notes=(*answer.notes, note))


def _differ(one: str, other: str) -> bool:
    """Whether words say that two questions ask for different things."""
    asking = [set(claims.words(text)) & _QUESTION_WORDS for text in (one, other)]
    return (
        asking[0] != asking[1]
        or claims.numbers(one) != claims.numbers(other)
        or claims.negated(one) != claims.negated(other)
        or any(claims.missing_names(a, b) for a, b in ((one, other), (other, one)))
        or any(claims.has_opposite(a, b) for a, b in ((one, other), (other, one)))
    )


def _folded(question: str) -> str:
    return " ".join(question.split()).casefold()
