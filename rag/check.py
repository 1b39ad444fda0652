"""Does a passage support a sentence that cites it? Which words of it do?

The sentence is compared with every sentence of the passage, and with the best of them together with
its neighbours. The best window is the quote; how well it supports is a logistic regression over
what the comparison saw (see `Comparison`), fitted on sentences about other documents than it was
judged on (`python -m eval.citations`). What compares meanings is the embedder's own token vectors,
or a cross-encoder where one reranks and a calibration was fitted for it. Where none was fitted for
either, words alone decide, and the answer says "uncalibrated".
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag import claims
from rag.models.tokens import TokenVectors
from rag.odds import sigmoid
from rag.sentences import sentence_spans
from rag.types import Passage, Quote

WORDS = "words"
CALIBRATION = Path(__file__).parent / "support_calibration.json"
_ELSEWHERE = 0.5  # a number that stands in the passage, and not in the window
_LONG = 2e-5  # per character: of two windows that say as much the shorter is the quote

Meaning = Callable[[str, Sequence[str]], tuple[NDArray[np.float64], NDArray[np.float64]]]
"""(claim, windows) -> for each window how much of the claim it means (n,), and by how much the
claim's word that it means least is below the mean of all (n,)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A claim against a window: what the regression reads, in the order of its weights.

    `meaning` and `gap` are those of `Meaning`; `shared` the share of content words that the window
    has, by their stems. 0 or 1, or 0.5 where the passage has it elsewhere: a `number` or a `name`
    of the claim that is not there; a `negation` in one of the two alone, as far as words are
    shared; an `opposite` in the place of a word.
    """

    meaning: float
    gap: float
    shared: float
    number: float
    name: float
    negation: float
    opposite: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Supported where bias + weights @ comparison is at least log odds of `threshold`."""

    weights: tuple[float, ...]
    bias: float
    threshold: float
    fitted_on: str

    def probability(self, seen: Comparison) -> float:
        """That the window supports the claim."""
        odds = self.bias + sum(w * x for w, x in zip(self.weights, astuple(seen), strict=True))
        return sigmoid(odds)


@dataclass(frozen=True, slots=True)
class Supported:
    """How likely a passage supports a claim, the words of it that do, and what decided."""

    probability: float
    enough: bool
    quote: Quote
    seen: Comparison


@dataclass(frozen=True, slots=True)
class Checker:
    """`how` names what compares, and whether a calibration was fitted for it."""

    meaning: Meaning
    calibration: Calibration
    how: str

    @classmethod
    def by_words(cls, why: str = "") -> "Checker":
        """One that compares no meanings; `why` says for what no calibration was fitted."""
        return cls(by_words, calibrations()[WORDS], f"words alone{why}")

    def check(self, claim: str, passage: Passage) -> Supported | None:
        """The best window of a passage; None for a passage without a sentence."""
        spans = list(sentence_spans(passage.text))
        if not spans:
            return None
        singles = compare(claim, passage, spans, self.meaning)
        at = max(range(len(spans)), key=lambda n: _rank(*singles[n]))
        pairs = [(a, b) for (a, _), (_, b) in pairwise(spans[max(0, at - 1) : at + 2])]
        seen, quote = max(
            [singles[at], *compare(claim, passage, pairs, self.meaning)], key=lambda c: _rank(*c)
        )
        probability = self.calibration.probability(seen)
        return Supported(probability, probability >= self.calibration.threshold, quote, seen)


def _rank(seen: Comparison, quote: Quote) -> float:
    return seen.meaning + seen.shared - _LONG * (quote.end - quote.start)


def compare(
    claim: str, passage: Passage, spans: Sequence[tuple[int, int]], meaning: Meaning
) -> list[tuple[Comparison, Quote]]:
    """The claim against windows of a passage."""
    texts = [passage.text[start:end] for start, end in spans]
    if not texts:
        return []
    whole = f"{passage.title} {passage.text}"
    numbers, no = claims.numbers(claim), claims.negated(claim)
    nowhere = numbers - claims.numbers(whole), claims.missing_names(claim, whole)
    found = []
    for (start, end), text, mean, gap in zip(spans, texts, *meaning(claim, texts), strict=True):
        shared = _shared(claim, text)
        names = claims.missing_names(claim, f"{passage.title} {text}")
        seen = Comparison(
            meaning=float(mean),
            gap=float(gap),
            shared=shared,
            number=_missing(numbers - claims.numbers(text), nowhere[0]),
            name=_missing(names, nowhere[1]),
            negation=shared * (no != claims.negated(text)),
            opposite=float(claims.has_opposite(claim, text)),
        )
        found.append((seen, Quote(passage, start, end)))
    return found


def by_token_vectors(token_vectors: Callable[[Sequence[str]], Sequence[TokenVectors]]) -> Meaning:
    """Late interaction: for each content word of the claim its best cosine among the window's
    tokens; their mean, and how far the lowest is below it.
    """

    def meaning(
        claim: str, texts: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        asked, *read = token_vectors([claim, *texts])
        spans = claims.content_spans(claim)
        found = [_by_word(asked, spans, one) for one in read]
        return (
            np.array([words.mean() for words in found]),
            np.array([words.mean() - words.min() for words in found]),
        )

    return meaning


def by_words(_: str, texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """No meanings are compared: all windows are alike."""
    return np.zeros(len(texts)), np.zeros(len(texts))


def by_logits(logits: Callable[[str, Sequence[str]], NDArray[np.float32]]) -> Meaning:
    """A cross-encoder's logits; of single words it says nothing."""

    def meaning(
        claim: str, texts: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.asarray(logits(claim, texts), dtype=np.float64), np.zeros(len(texts))

    return meaning


def _by_word(
    asked: TokenVectors, spans: Sequence[tuple[int, int]], read: TokenVectors
) -> NDArray[np.float64]:
    """The best cosine of each content word, the mean over its tokens, (words,)."""
    if not len(read.ids) or not spans:
        return np.zeros(max(1, len(spans)))
    best = (asked.vectors @ read.vectors.T).max(axis=1)
    begins, ends = asked.offsets[:, 0], asked.offsets[:, 1]
    inside = [(begins >= start) & (ends <= end) for start, end in spans]
    return np.array([best[tokens].mean() if tokens.any() else 0.0 for tokens in inside])


def _shared(claim: str, text: str) -> float:
    there = {claims.stem(word) for word in claims.words(text)}
    own = [claims.stem(claim[a:b].casefold()) for a, b in claims.content_spans(claim)]
    return sum(word in there for word in own) / len(own) if own else 0.0


def _missing(here: set[Any], anywhere: set[Any]) -> float:
    if anywhere:
        return 1.0
    return _ELSEWHERE if here else 0.0


def calibration_of(name: str) -> Calibration | None:
    """The calibration that is shipped for what compares, None where there is none."""
    return calibrations().get(name)


@lru_cache(maxsize=1)
def calibrations() -> Mapping[str, Calibration]:
    """The calibrations that are shipped, by what compares."""
    rows: dict[str, dict[str, Any]] = json.loads(CALIBRATION.read_text("utf8"))
    return {
        name: Calibration(**{**row, "weights": tuple(row["weights"])}) for name, row in rows.items()
    }
