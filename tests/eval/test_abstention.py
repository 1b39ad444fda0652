"""Risk and coverage, by hand."""

import math

import pytest

from eval.abstention import area, risk_coverage


def test_the_surest_are_answered_first():
    """In order: right, wrong, right. Risks 0/1, 1/2, 1/3."""
    curve = risk_coverage([0.2, 0.9, 0.5], [True, True, False])
    assert curve == [(1 / 3, 0.0), (2 / 3, 0.5), (1.0, 1 / 3)]
    assert area(curve) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)


def test_equal_confidence_is_answered_together_whatever_the_order():
    curve = risk_coverage([0.5, 0.5, 0.1], [True, False, False])
    assert curve == [(2 / 3, 0.5), (1.0, 2 / 3)]
    assert curve == risk_coverage([0.5, 0.5, 0.1], [False, True, False])
    assert area(curve) == pytest.approx(2 / 3 * 0.5 + 1 / 3 * 2 / 3)


def test_no_questions_no_curve():
    assert risk_coverage([], []) == []
    assert math.isnan(area([]))
