"""Rankings -> one ranking. Pure; ties are broken by point id, so that runs repeat."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

Ranking = Sequence[tuple[str, float]]
"""(point id, score) pairs of one retriever, each id once; sorted here, callers need not."""


def ordered(ranking: Ranking) -> list[tuple[str, float]]:
    """Best first; equal scores by id, because engines return ties in varying order."""
    return sorted(ranking, key=lambda pair: (-pair[1], pair[0]))


def rrf(rankings: Sequence[Ranking], k: int = 60) -> list[tuple[str, float]]:
    """Reciprocal rank fusion: sum of 1 / (k + rank), ranks from 1.

    Cormack, Clarke and Buettcher, SIGIR 2009. Ignores scores: BM25 and cosine do not compare.
    """
    fused: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (point, _) in enumerate(ordered(ranking), start=1):
            fused[point] += 1 / (k + rank)
    return ordered(list(fused.items()))


def dbsf(rankings: Sequence[Ranking]) -> list[tuple[str, float]]:
    """Distribution-based score fusion: scores scaled so that mean -/+ 3 deviations is 0 and 1.

    A point missing from a list gets 0 from it. Mazzeschi, "Distribution-Based Score Fusion"
    (2023), the form that Qdrant implements; a list without spread gives everyone 0.5.
    """
    return _sum([_by_distribution(ranking) for ranking in rankings])


def weighted(rankings: Sequence[Ranking], weights: Sequence[float]) -> list[tuple[str, float]]:
    """Weighted sum of min-max scaled scores; a list without spread gives everyone 1."""
    if len(rankings) != len(weights):
        raise ValueError(f"{len(rankings)} rankings need as many weights, got {len(weights)}")
    scaled = [
        {point: weight * score for point, score in _by_range(ranking).items()}
        for ranking, weight in zip(rankings, weights, strict=True)
    ]
    return _sum(scaled)


def _by_distribution(ranking: Ranking) -> dict[str, float]:
    scores = [score for _, score in ranking]
    spread = stdev(scores) if len(scores) > 1 else 0.0
    if spread == 0.0:
        return {point: 0.5 for point, _ in ranking}
    low = fmean(scores) - 3 * spread
    return {point: (score - low) / (6 * spread) for point, score in ranking}


def _by_range(ranking: Ranking) -> dict[str, float]:
    scores = [score for _, score in ranking]
    low, high = (min(scores), max(scores)) if scores else (0.0, 0.0)
    if high == low:
        return {point: 1.0 for point, _ in ranking}
    return {point: (score - low) / (high - low) for point, score in ranking}


def _sum(lists: Sequence[Mapping[str, float]]) -> list[tuple[str, float]]:
    fused: defaultdict[str, float] = defaultdict(float)
    for scores in lists:
        for point, score in scores.items():
            fused[point] += score
    return ordered(list(fused.items()))
