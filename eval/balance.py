"""What both retrievers make of a candidate, and the questions that favour neither of them. Pure."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2

from eval.makers import Question
from rag.known_items import words
from rag.types import Hit

SHINGLE, HELD = 3, 0.8  # words in a row, and the share of them that a copy of the evidence has
DEPTH = 10


@dataclass(frozen=True, slots=True)
class Judged:
    """A question with its relevant documents, and what dense vectors and BM25 gain by it.

    The gain is 1 / log2(1 + rank) of the first relevant document among ten, as nDCG@10 has it.
    """

    question: Question
    dense: float
    bm25: float

    @property
    def difference(self) -> float:
        """Above 0: dense vectors do better."""
        return self.dense - self.bm25


def judge(question: Question, hits: Sequence[Hit]) -> Judged | str:
    """The question judged by what both retrievers found for it; else why it is left out.

    A passage that has the evidence word for word is relevant too. One that has not, and yet every
    word of the question, may answer it: nobody knows, so the question is left out.
    """
    evidence, asked = _shingles(question.evidence), set(words(question.text))
    relevant = {question.document}
    others = [hit for hit in hits if hit.chunk.document_id != question.document]
    for hit in others:
        if _share(evidence, _shingles(hit.chunk.text)) >= HELD:
            relevant.add(hit.chunk.document_id)
        elif asked <= set(words(hit.chunk.text)):
            return "another document has all of its words"
    dense = _gain([(h.scores.dense, h.chunk.document_id) for h in hits], relevant)
    bm25 = _gain([(h.scores.bm25, h.chunk.document_id) for h in hits], relevant)
    if dense == bm25 == 0:
        return "neither retriever has its document among ten"
    if dense == bm25 == 1:
        return "both retrievers answer it first"
    known = (question.document, *sorted(relevant - {question.document}))
    return Judged(replace(question, relevant=known), dense, bm25)


def balanced(judged: Sequence[Judged], most: int, seed: int = 0) -> list[Judged]:
    """At most `most` of them, on which dense vectors and BM25 gain equally much, within 1.

    Drawn at random in turn from those that favour whichever retriever is behind and from those
    that favour neither, from either where the other has run out.
    """
    rng = random.Random(seed)
    piles = {sign: [one for one in judged if _sign(one.difference) == sign] for sign in (-1, 0, 1)}
    for pile in piles.values():
        rng.shuffle(pile)
    found: list[Judged] = []
    ahead = 0.0  # by how much dense vectors are ahead
    while len(found) < most:
        behind = -1 if ahead > 0 else 1
        turns = (0, behind) if len(found) % 2 else (behind, 0)
        left = [piles[sign] for sign in turns if piles[sign]]
        if not left:
            break
        found.append(left[0].pop())
        ahead += found[-1].difference
    return found


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _gain(scored: Sequence[tuple[float | None, str]], relevant: set[str]) -> float:
    """Of one retriever's list of documents, each where the best of its chunks is."""
    known = [(-score, document) for score, document in scored if score is not None]
    documents = dict.fromkeys(document for _, document in sorted(known))
    ranks = (rank for rank, one in enumerate(documents, start=1) if one in relevant)
    rank = next(ranks, DEPTH + 1)
    return 1 / log2(1 + rank) if rank <= DEPTH else 0.0


def _shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[at : at + SHINGLE]) for at in range(max(1, len(found) - SHINGLE + 1))}


def _share(wanted: set[tuple[str, ...]], there: set[tuple[str, ...]]) -> float:
    return len(wanted & there) / len(wanted) if wanted else 0.0
