"""Which of many systems to search with: chosen on one half of the questions, proven on the other.

Choosing the best of hundreds by their means chooses luck as well, the more the fewer questions
there are. So (1) the simplest system within one standard error of the best is taken (Breiman et
al., "Classification and Regression Trees", 1984), (2) reranking has to be better than going without
by more than choosing among so many gives by chance, and (3) what was chosen has to hold on
questions that had no part in choosing it. Pure.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.datasets import Dataset, folded
from eval.statistics import BLOCK, DRAWS, Interval, Values, interval, lower_bound
from eval.systems import System
from rag.choices import Choices

# A search for ten hits reranks ten whatever `rerank_limit` says, so less is not on offer.
DEPTHS = (10, 20, 30, 50)
WEIGHTS = tuple(tenth / 10 for tenth in range(1, 10))
BLENDS = (0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Choice:
    """Positions of systems: the chosen one and the best without reranking.

    `p` is that of reranking being no better than going without: why it was chosen, or not.
    """

    chosen: int
    plain: int
    p: float


@dataclass(frozen=True, slots=True)
class Gate:
    """Chosen minus `against` on the held-out half.

    `lower` is the one-sided 95 % lower bound; it is not to be below minus `margin`.
    """

    against: str
    difference: Interval
    lower: float
    margin: float

    @property
    def passed(self) -> bool:
        """Whether the chosen one is not worse."""
        return self.lower >= -self.margin

    def __str__(self) -> str:
        word = "passed" if self.passed else "NOT passed"
        low, high = self.difference.low, self.difference.high
        return (
            f"{word}: against {self.against} {self.difference.mean:+.4f}"
            f" [{low:+.4f}, {high:+.4f}], at least {self.lower:+.4f}, allowed {-self.margin:+.4f}"
        )


def grid(depths: Sequence[int] = DEPTHS, blends: Sequence[float] = BLENDS) -> list[System]:
    """Every fusion without reranking, then with it at each depth and blend."""
    fusions = [Choices("dbsf"), Choices("rrf"), *(Choices("weighted", w) for w in WEIGHTS)]
    plain = [replace(one, rerank_limit=0) for one in fusions]
    reranked = [
        replace(one, rerank_limit=depth, rerank_blend=blend)
        for one in fusions
        for depth in depths
        for blend in blends
    ]
    return [System(named(one), one) for one in (*plain, *reranked)]


def named(choices: Choices) -> str:
    """What a system is called: `weighted 0.3, reranked 20 at 0.5`."""
    weight = f" {choices.dense_weight:g}" if choices.fusion == "weighted" else ""
    if not choices.rerank_limit:
        return f"{choices.fusion}{weight}"
    return f"{choices.fusion}{weight}, reranked {choices.rerank_limit} at {choices.rerank_blend:g}"


def distinct(judged: Dataset) -> Dataset:
    """Each question text once, with all that is known of it, under the first of its ids.

    A question in both halves would be no held-out one, and one that counts twice makes intervals
    narrower than what is known.
    """
    same: defaultdict[str, list[str]] = defaultdict(list)
    for query in judged.judged:
        same[folded(judged.queries[query])].append(query)
    queries, qrels, answers = {}, {}, {}
    for first, *others in same.values():
        queries[first] = judged.queries[first]
        qrels[first] = _highest(judged.qrels[query] for query in (first, *others))
        known = [a for query in (first, *others) for a in judged.answers.get(query, ())]
        if known:
            answers[first] = list(dict.fromkeys(known))
    return replace(judged, queries=queries, qrels=qrels, answers=answers)


def _highest(judgements: Iterable[Mapping[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for judged in judgements:
        for document, score in judged.items():
            found[document] = max(score, found.get(document, score))
    return found


def tuning_half(queries: Mapping[str, str], seed: int) -> set[str]:
    """The ids of about half the questions, by a hash of their text: no order or number matters."""
    return {query for query, text in queries.items() if _bit(f"{seed}\0{folded(text)}")}


def _bit(text: str) -> bool:
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 0


def choose(systems: Sequence[System], values: Values, home: Choices, *, seed: int = 0) -> Choice:
    """The simplest system within one standard error of the best; `values` (systems, questions).

    Reranking is not chosen unless `reranking_p` says so. Simpler is: fewer candidates reranked,
    then fewer departures from `home`. Whatever is chosen is less than one standard error below the
    same fusion without reranking: with the errors of paired differences to the best, |e1 - e2| is
    at most the error of the two's own difference.
    """
    plain = [at for at, system in enumerate(systems) if not system.choices.rerank_limit]
    best_plain = simplest(systems, values, plain, home)
    if len(plain) == len(systems):
        return Choice(best_plain, best_plain, 1.0)
    p = reranking_p(systems, values, best_plain, home, seed=seed)
    chosen = simplest(systems, values, range(len(systems)), home)
    return Choice(chosen if p <= SIGNIFICANT else best_plain, best_plain, p)


def reranking_p(
    systems: Sequence[System], values: Values, best_plain: int, home: Choices, *, seed: int = 0
) -> float:
    """p of reranking being no better than going without.

    Two tests, so twice the smaller p (Bonferroni). One is of the system that `home` names: nobody
    chose it for these questions, so it takes no more than a test of one difference. The other is of
    the best of all that rerank, whichever that is, and has to allow for there being hundreds.
    """
    plain = [at for at, system in enumerate(systems) if not system.choices.rerank_limit]
    reranked = sorted(set(range(len(systems))) - set(plain))
    highest = max(plain, key=lambda at: values[at].mean())
    ps = [reality_check(values[reranked], values[highest], seed=seed)]
    named_before = [
        at
        for at in reranked
        if departures(systems[at].choices, home) == 0
        and systems[at].choices.rerank_limit <= home.rerank_limit
    ]
    if named_before:
        at = max(named_before, key=lambda at: systems[at].choices.rerank_limit)
        ps.append(reality_check(values[[at]], values[best_plain], seed=seed))
    return min(1.0, len(ps) * min(ps))


def simplest(systems: Sequence[System], values: Values, among: Iterable[int], home: Choices) -> int:
    """The simplest of those within one standard error of the best, by paired differences."""
    candidates = list(among)
    best = values[max(candidates, key=lambda at: values[at].mean())]
    near = [at for at in candidates if within_noise(best - values[at])]
    return min(
        near,
        key=lambda at: (
            systems[at].choices.rerank_limit,
            departures(systems[at].choices, home),
            -values[at].mean(),
            at,
        ),
    )


def within_noise(behind: Values) -> bool:
    """Whether a mean difference is at most one standard error."""
    return bool(behind.mean() <= standard_error(behind) + 1e-12)


def standard_error(values: Values) -> float:
    """Of the mean; infinite for fewer than two values."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("inf")


def departures(choices: Choices, home: Choices) -> int:
    """How many choices that matter are others than those of `home`, the depth apart."""
    other = int(choices.fusion != home.fusion)
    if choices.fusion == "weighted":
        other += choices.dense_weight != home.dense_weight
    if choices.rerank_limit:
        other += choices.rerank_blend != home.rerank_blend
    return other


def reality_check(values: Values, baseline: Values, *, seed: int = 0, draws: int = DRAWS) -> float:
    """p of the best of many systems being no better than the baseline, one-sided.

    White, "A Reality Check for Data Snooping" (Econometrica 2000), with each difference over its
    standard error (Hansen 2005): how often does the best of as many systems, none of them better,
    look as good in resampled questions? `values` (systems, questions), `baseline` (questions,).
    """
    differences = values - baseline
    n = len(baseline)
    errors = np.array([standard_error(row) for row in differences])
    moving = np.isfinite(errors) & (errors > 0)
    if not moving.any():
        return 1.0
    differences, errors = differences[moving], errors[moving]
    means = differences.mean(axis=1)
    seen = (means / errors).max()
    rng, as_far = np.random.default_rng(seed), 0
    for at in range(0, draws, BLOCK):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(BLOCK, draws - at))
        drawn = ((counts @ differences.T) / n - means) / errors
        as_far += int((drawn.max(axis=1) >= seen - 1e-12).sum())
    return (as_far + 1) / (draws + 1)


def gate(against: str, chosen: Values, other: Values, margin: float, *, seed: int = 0) -> Gate:
    """Is the chosen one not worse on questions that had no part in choosing it?"""
    difference = chosen - other
    bound = lower_bound(difference, seed=seed)
    return Gate(against, interval(difference, seed=seed), bound, margin)
