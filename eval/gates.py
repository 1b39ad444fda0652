"""Gates: may B take the place of A? Pure.

    ndcg@10 >= -0.5%      B is worse than A by less than 0.5 % of A's mean
    recall@50 >= -0.01    by less than 0.01
    ndcg@10 >= 0          B is no worse at all

A gate passes when that is shown, not when its opposite is not: the lower confidence bound of B - A
has to reach the margin. The bound is one-sided, at 95 %: only being worse does harm, so all of the
5 % that the test may err lie on that side, as in a test of non-inferiority (ICH E9, 3.3.2). It is
the lower end of the two-sided interval at 90 %. Where several gates must all pass, each is tested
at that level as it is: to pass all of them wrongly is no likelier than to pass one.

The bound is of the bootstrap's percentiles. Where all of the loss lies in a few questions it is a
little too kind (`eval.gate_power` shows by how much); a margin near what one question can lose is
no margin to test.
"""

import re
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from eval.statistics import LEVEL, POWER, interval
from rag.errors import InvalidInput

_GATE = re.compile(r"\s*(.+?)\s*>=\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))\s*(%?)\s*", re.ASCII)
MANY = 1_000_000  # questions that nobody has
_TWO_SIDED = 2 * LEVEL - 1  # whose lower end is the one-sided bound at LEVEL


@dataclass(frozen=True, slots=True)
class Gate:
    """The smallest B - A that is accepted: absolute, or in percent of A's mean."""

    measure: str
    margin: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.measure} >= {self.margin:g}{'%' if self.relative else ''}"

    def absolute(self, mean_of_a: float) -> float:
        """The margin in the measure's own unit."""
        return self.margin / 100 * mean_of_a if self.relative else self.margin


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of two sides. `margin` is absolute, as `bound` and `mean` are.

    `questions`: with how many like these the gate would pass four times in five, were the
    difference that was seen the true one; None where it lies below the margin itself.
    """

    gate: Gate
    mean: float
    bound: float
    margin: float
    worse: bool
    questions: int | None

    @property
    def passed(self) -> bool:
        """Whether B may take A's place."""
        return self.bound >= self.margin

    def __str__(self) -> str:
        figures = (
            f"{self.gate}: B - A is {self.mean:+.4f}, its lower bound (one-sided, {LEVEL:.0%})"
            f" {self.bound:+.4f}, the margin {self.margin:+.4f}:"
        )
        return f"{figures} {'PASS' if self.passed else f'FAIL, {self._why()}'}"

    def _why(self) -> str:
        if self.worse:
            return "B is worse than that."
        if self.questions is None:
            return "B seems worse than that."
        if self.questions > MANY:
            return "it is not sure: the difference lies at the margin itself."
        return f"it is not sure: it would take about {self.questions:,} questions like these."


def parse_gate(text: str) -> Gate:
    """Read `MEASURE >= MARGIN` or `MEASURE >= MARGIN%`. Raises InvalidInput."""
    found = _GATE.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"{text!r} is no gate.", hint='Write it as "ndcg@10 >= -0.5%" or "recall@50 >= -0.01".'
        )
    measure, margin, percent = found.groups()
    return Gate(measure, float(margin), bool(percent))


def judge(gate: Gate, a: NDArray[np.float64], b: NDArray[np.float64], *, seed: int = 0) -> Verdict:
    """The verdict on values of the same questions in the same order.

    The margin is taken as fixed: that A's mean, of which it is a percentage, is itself estimated
    moves it by far less than the bound is unsure. Raises InvalidInput for a single question, whose
    bootstrap knows no error.
    """
    if len(a) < 2:
        raise InvalidInput(
            f"A gate cannot tell anything from {len(a)} question.", hint="Measure with more."
        )
    difference = b - a
    margin, mean = gate.absolute(float(a.mean())), float(difference.mean())
    found = interval(difference, seed=seed, level=_TWO_SIDED)
    return Verdict(gate, mean, found.low, margin, found.high < margin, _needed(difference, margin))


def chance_to_pass(
    difference: NDArray[np.float64], margin: float, *, n: int | None = None
) -> float:
    """How often the gate passes over sets of `n` questions whose differences are spread like these.

    By the normal approximation: the bound lies z standard errors below the mean that is seen.
    """
    error = float(difference.std(ddof=1)) / (n or len(difference)) ** 0.5
    if error == 0:
        return float(difference.mean() >= margin)
    z = NormalDist().inv_cdf(LEVEL)
    return NormalDist().cdf((float(difference.mean()) - margin) / error - z)


def _needed(difference: NDArray[np.float64], margin: float) -> int | None:
    room = float(difference.mean()) - margin
    if room <= 0 or len(difference) < 2:
        return None
    z = NormalDist().inv_cdf(LEVEL) + NormalDist().inv_cdf(POWER)
    return ceil((z * float(difference.std(ddof=1)) / room) ** 2)
