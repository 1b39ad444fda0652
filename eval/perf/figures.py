"""Measured values, and what they say beside each other. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau


@dataclass(frozen=True, slots=True)
class Figure:
    """One measure of one side, a value per round. The sides of a round ran one after the other.

    Agreement is against a reference and therefore not `compared` between sides.
    """

    workload: str
    measure: str
    unit: str
    side: str
    values: tuple[float, ...]
    higher_is_better: bool = True
    compared: bool = True

    @property
    def middle(self) -> float:
        """The median round."""
        return median(self.values)


@dataclass(frozen=True, slots=True)
class Absent:
    """A side that did not run, and why."""

    side: str
    why: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times better: the median over rounds, the worst round and the best."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f}x ({self.low:.2f}-{self.high:.2f})"


@dataclass(slots=True)
class Section:
    """What a section measured. `ours` names the sides that are compared with all the others."""

    name: str
    ours: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    absent: list[Absent] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> dict[tuple[str, str], list[Figure]]:
        """The figures of each (workload, measure), in the order in which they were added."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            found.setdefault((figure.workload, figure.measure), []).append(figure)
        return found


def ratio(ours: Figure, peer: Figure) -> Ratio:
    """Above 1: ours is better. Rounds are compared in pairs, so that a slow hour hits both.

    Raises ValueError for figures that do not compare.
    """
    if (ours.workload, ours.measure, ours.unit) != (peer.workload, peer.measure, peer.unit):
        raise ValueError(f"{ours.measure} of {ours.workload} does not compare with {peer.measure}")
    pairs = zip(ours.values, peer.values, strict=True)
    times = [a / b if ours.higher_is_better else b / a for a, b in pairs]
    return Ratio(median(times), min(times), max(times))


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours: the 0.5 percentile is the median."""
    return float(np.quantile(values, share))


def fairness(finished: Sequence[float]) -> float:
    """The slowest request's time over the mean: 1 when all wait alike."""
    return max(finished) / (sum(finished) / len(finished))


def cosines(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """The cosine of each row with the same row of the reference, float64 (n,)."""
    a, b = ours.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / lengths)


def same_nearest(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The share of rows whose nearest other row (by cosine) is the same one on both sides."""
    return float((_nearest(ours) == _nearest(reference)).mean())


def rank_agreement(ours: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The mean over questions of Kendall's tau-b between two scorings (questions, passages)."""
    return float(np.mean([kendalltau(a, b)[0] for a, b in zip(ours, reference, strict=True)]))


def top_overlap(ours: NDArray[np.float32], reference: NDArray[np.float32], depth: int) -> float:
    """The mean share of the `depth` best passages of a question that both sides have."""
    ours_top, reference_top = (np.argsort(-x, axis=1)[:, :depth] for x in (ours, reference))
    pairs = zip(ours_top, reference_top, strict=True)
    return float(np.mean([len(set(a) & set(b)) / depth for a, b in pairs]))


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    nearest: NDArray[np.intp] = likeness.argmax(axis=1)
    return nearest
