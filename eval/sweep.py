"""Hundreds of systems over one pool: their values, and what a question takes. Pure but for reading.

A question is read once and ranked by all systems, so memory holds one question's candidates.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ir_measures import Measure
from numpy.typing import NDArray

from eval.measures import Qrels, per_question
from eval.pool import Pool, Searchable
from eval.runs import Run, by_rank
from eval.systems import Pooled, System, fused, reordered, seconds_of
from rag.choices import Choices
from rag.rerank import Frequencies, Reranker
from rag.retrieve import Mode
from rag.types import Hit

TIMED_DEPTH = 20  # candidates that are read to time one

Fusion = tuple[Mode, str, float]


def values_of(
    pool: Iterable[Pooled], systems: Sequence[System], qrels: Qrels, measure: Measure
) -> tuple[list[str], NDArray[np.float64]]:
    """(questions in the pool's order, their values by each system, (systems, questions)).

    ir-measures is asked question by question, each system being a query with the same judgements.
    """
    names = [f"{at:06d}" for at in range(len(systems))]
    depth = measure.params.get("cutoff")
    questions, columns = [], []
    for one in pool:
        questions.append(one.query)
        ranked = {
            name: dict(list(ranking.items())[:depth])
            for name, ranking in zip(names, _rankings(one, systems), strict=True)
        }
        judged = dict.fromkeys(names, qrels[one.query])
        columns.append(per_question(judged, Run("all", ranked), [measure])[str(measure)])
    return questions, np.array(columns).T.reshape(len(systems), len(columns))


def _rankings(one: Pooled, systems: Sequence[System]) -> Iterable[dict[str, float]]:
    """Of documents, by each system; what systems share is fused once."""
    known: dict[Fusion, list[tuple[str, float]]] = {}
    for system in systems:
        key = _fusion(system)
        if key not in known:
            known[key] = fused(one, system)
        ranking = reordered(known[key], one.relevance, system.choices)
        yield by_rank([one.documents[point] for point, _ in ranking])


def _fusion(system: System) -> Fusion:
    return system.mode, system.choices.fusion, system.choices.dense_weight


def scored(systems: Iterable[System]) -> list[list[Any]]:
    """What of the candidates the systems have scored: how deep, for each fusion."""
    deepest: dict[Fusion, int] = {}
    for system in systems:
        key = _fusion(system)
        deepest[key] = max(system.choices.rerank_limit, deepest.get(key, 0))
    return [[*key, depth] for key, depth in sorted(deepest.items())]


def ms_of(timings: Iterable[Pooled], systems: Sequence[System], percentile: float) -> list[float]:
    """Milliseconds of a question by each system, at a percentile of the questions timed."""
    timed = list(timings)
    return [
        1000 * float(np.percentile([sum(seconds_of(t, s).values()) for t in timed], percentile))
        for s in systems
    ]


class Cold:
    """A collection whose reranker has read nothing when a question comes; `Searchable`.

    What a reranker keeps of earlier questions would make a sweep over one collection look faster
    than the first question about a passage is.
    """

    def __init__(self, source: Searchable) -> None:
        self._source = source
        self.name = source.name
        self.reranker: Reranker | None = source.reranker
        self.frequencies: Frequencies = source.frequencies

    def fingerprint(self) -> dict[str, Any]:
        """As the collection's."""
        return self._source.fingerprint()

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the collection's."""
        return self._source.count_tokens(texts)

    def retrieve(self, question: str, limit: int) -> tuple[list[Hit], dict[str, float]]:
        """As the collection's, once the reranker has forgotten."""
        if self.reranker is not None:
            self.reranker.forget()
        return self._source.retrieve(question, limit)


def time_questions(
    pool: Pool,
    source: Searchable,
    questions: Mapping[str, str],
    count: int,
    *,
    seed: int,
    show: bool,
) -> Pool:
    """Time so many of the questions, one by one, and keep it in the pool."""
    picked = random.Random(seed).sample(sorted(questions), min(count, len(questions)))
    reranked = System("timed", Choices("dbsf", rerank_limit=TIMED_DEPTH))
    pool.fill(Cold(source), {query: questions[query] for query in picked}, [reranked], show=show)
    return pool
