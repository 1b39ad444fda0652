"""How sure a difference is: intervals, tests, and what a set of this size can see. Pure.

Values are one per question; two systems are compared question by question, because questions differ
far more than systems do. Every draw comes from a seed: the same values give the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

DRAWS = 10_000
BLOCK = 256  # draws made at once: a bound on memory, whatever the number of questions
LEVEL = 0.95
POWER = 0.8

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it would lie in `level` of all sets of such questions."""

    mean: float
    low: float
    high: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.mean:.3f} ±{(self.high - self.low) / 2:.3f}"


@dataclass(frozen=True, slots=True)
class Difference:
    """B minus A on one measure, question by question.

    `p` is that of the randomisation test, two-sided; `detectable` the smallest true difference
    that a set of this size finds with a power of 80 %.
    """

    measure: str
    a: float
    b: float
    interval: Interval
    p: float
    wins: int
    losses: int
    ties: int
    detectable: float


def interval(values: Values, *, seed: int = 0, level: float = LEVEL) -> Interval:
    """The mean's bootstrap interval by percentiles (Efron and Tibshirani 1993, chapter 13).

    Raises ValueError for no values.
    """
    if len(values) == 0:
        raise ValueError("no values, no interval")
    means = bootstrap_means(values, seed=seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(values.mean()), float(low), float(high), level)


def lower_bound(values: Values, *, seed: int = 0, level: float = LEVEL) -> float:
    """What the mean lies above with this level: one-sided, for asking whether something is worse.

    The lower end of the two-sided interval that leaves as much on each side.
    """
    return interval(values, seed=seed, level=2 * level - 1).low


def bootstrap_means(values: Values, *, seed: int = 0, draws: int = DRAWS) -> Values:
    """Means of as many questions drawn with replacement, float64 (draws,)."""
    rng, n = np.random.default_rng(seed), len(values)
    means = np.empty(draws)
    for at in range(0, draws, BLOCK):
        size = min(BLOCK, draws - at)
        picked = rng.integers(0, n, size=(size, n))
        means[at : at + size] = values[picked].mean(axis=1)
    return means


def compare(measure: str, a: Values, b: Values, *, seed: int = 0) -> Difference:
    """B against A, values of the same questions in the same order.

    Raises ValueError for values that are no pairs.
    """
    if a.shape != b.shape:
        raise ValueError(f"{len(a)} values of A and {len(b)} of B are no pairs")
    difference = b - a
    return Difference(
        measure,
        float(a.mean()),
        float(b.mean()),
        interval(difference, seed=seed),
        randomisation_p(difference, seed=seed),
        int((difference > 0).sum()),
        int((difference < 0).sum()),
        int((difference == 0).sum()),
        detectable(difference),
    )


def randomisation_p(difference: Values, *, seed: int = 0, draws: int = DRAWS) -> float:
    """How often exchanging A and B at random gives a mean as far from 0, two-sided.

    Fisher's randomisation test as Smucker, Allan and Carterette recommend it (CIKM 2007). The
    observed order is one of the draws, so that p is never 0 (Phipson and Smyth 2010).
    """
    seen = abs(difference.mean())
    decided = difference[difference != 0]  # exchanging a tie changes nothing
    if len(decided) == 0:
        return 1.0
    rng, as_far = np.random.default_rng(seed), 0
    for at in range(0, draws, BLOCK):
        size = min(BLOCK, draws - at)
        signs = rng.integers(0, 2, size=(size, len(decided)), dtype=np.int8) * 2 - 1
        means = np.abs(signs @ decided) / len(difference)
        as_far += int((means >= seen - 1e-12).sum())
    return (as_far + 1) / (draws + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for being several, in their order (Holm 1979)."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[at]))
        adjusted[at] = worst
    return adjusted


def detectable(
    difference: Values, *, level: float = LEVEL, power: float = POWER, n: int | None = None
) -> float:
    """The smallest true mean difference that a two-sided test at 1 - level finds with this power.

    (z(level) + z(power)) * s / sqrt(n), with the standard deviation of these differences.
    """
    if len(difference) < 2:
        return float("inf")
    z = NormalDist().inv_cdf((1 + level) / 2) + NormalDist().inv_cdf(power)
    return z * float(difference.std(ddof=1)) / (n or len(difference)) ** 0.5


def tau_interval(
    a: NDArray[np.float64], b: NDArray[np.float64], *, seed: int = 0, draws: int = 1000
) -> Interval:
    """Kendall's tau-b between two orders of systems, each by its mean over questions of its own.

    `a` is (systems, questions of A), `b` (systems, questions of B). The interval is over resampled
    questions on both sides: would other questions order the systems alike?
    """
    rng = np.random.default_rng(seed)
    taus = np.array([_tau(_resampled(a, rng), _resampled(b, rng)) for _ in range(draws)])
    low, high = np.quantile(taus, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(_tau(a.mean(axis=1), b.mean(axis=1)), float(low), float(high))


def _resampled(values: Values, rng: np.random.Generator) -> Values:
    picked = rng.integers(0, values.shape[1], size=values.shape[1])
    means: Values = values[:, picked].mean(axis=1)
    return means


def _tau(a: Values, b: Values) -> float:
    tau = float(kendalltau(a, b)[0])
    return 0.0 if np.isnan(tau) else tau  # one side says that all systems are equal
