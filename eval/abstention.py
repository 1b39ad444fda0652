"""Selective answering: what answering less often gains. Pure.

El-Yaniv and Wiener, "On the Foundations of Noise-free Selective Classification" (JMLR 2010).
"""

from collections.abc import Sequence

import numpy as np

Curve = list[tuple[float, float]]


def risk_coverage(confidence: Sequence[float], right: Sequence[bool]) -> Curve:
    """(coverage, risk) for each threshold on the confidence, the highest first.

    Coverage is the share of questions that are answered, risk the share of the answers that are
    wrong. Questions of equal confidence are answered together: no threshold parts them.
    """
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    sure = np.asarray(confidence, dtype=np.float64)[order]
    wrong = np.cumsum(~np.asarray(right, dtype=bool)[order])
    ends = [n for n in range(1, len(sure) + 1) if n == len(sure) or sure[n] != sure[n - 1]]
    return [(n / len(sure), float(wrong[n - 1] / n)) for n in ends]


def area(curve: Curve) -> float:
    """The mean risk over all coverages, each risk holding from the coverage before to its own.

    The area under the curve (AURC): 0 is the best. NaN for no curve.
    """
    if not curve:
        return float("nan")
    starts = [0.0, *(coverage for coverage, _ in curve[:-1])]
    widths = [end - start for start, (end, _) in zip(starts, curve, strict=True)]
    return sum(width * risk for width, (_, risk) in zip(widths, curve, strict=True))
