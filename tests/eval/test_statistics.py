"""Differences, intervals and tests against values worked out by hand or simulated."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.statistics import compare, detectable, holm, interval, randomisation_p, tau_interval


def test_the_same_values_have_the_same_interval_and_it_holds_the_mean():
    values = np.random.default_rng(3).random(200)
    found = interval(values, seed=1)
    assert found == interval(values, seed=1)
    assert found.low < values.mean() < found.high
    # Normal theory: 1.96 * s / sqrt(n) on each side.
    half = 1.96 * values.std(ddof=1) / 200**0.5
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_an_interval_covers_the_true_mean_as_often_as_it_says():
    """Of 200 sets of 100 uniform values about 190 intervals hold 0.5; 178 is three deviations."""
    rng = np.random.default_rng(0)
    sets = (rng.random(100) for _ in range(200))
    covered = sum(found.low <= 0.5 <= found.high for found in map(interval, sets))
    assert 178 <= covered <= 199


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="no values"):
        interval(np.array([]))


def test_wins_losses_and_the_direction_are_those_of_b():
    a, b = np.array([0.1, 0.5, 0.9, 0.2]), np.array([0.2, 0.5, 0.6, 0.9])
    found = compare("nDCG@10", a, b)
    assert (found.wins, found.losses, found.ties) == (2, 1, 1)
    assert found.interval.mean == pytest.approx((0.1 - 0.3 + 0.7) / 4)
    assert (found.a, found.b) == (a.mean(), b.mean())


def test_values_of_other_questions_are_no_pairs():
    with pytest.raises(ValueError, match="3 values of A and 2 of B"):
        compare("AP", np.zeros(3), np.zeros(2))


def test_four_wins_of_four_are_an_eighth():
    """16 ways to set the signs, two of them as far out: the smallest p that four questions give."""
    p = randomisation_p(np.array([1.0, 1.0, 1.0, 1.0]))
    assert p == pytest.approx(2 / 16, abs=0.01)
    assert randomisation_p(np.zeros(9)) == 1.0


def test_without_a_difference_p_is_uniform():
    rng = np.random.default_rng(5)
    ps = [randomisation_p(rng.normal(0, 1, 40), seed=n, draws=500) for n in range(200)]
    assert np.quantile(ps, [0.25, 0.5, 0.75]) == pytest.approx([0.25, 0.5, 0.75], abs=0.12)


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04; none below one before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_lowers_nothing_and_keeps_the_order(ps):
    adjusted = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, adjusted, strict=True))
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_what_can_be_detected_is_detected_four_times_in_five():
    rng = np.random.default_rng(7)
    noise = rng.normal(0, 0.3, 100)
    effect = detectable(noise)
    assert effect == pytest.approx((1.96 + 0.8416) * noise.std(ddof=1) / 10, rel=1e-3)
    sets = (rng.normal(effect, noise.std(ddof=1), 100) for _ in range(200))
    found = sum(randomisation_p(one, seed=n, draws=500) < 0.05 for n, one in enumerate(sets))
    assert 0.71 < found / 200 < 0.89, "three deviations"
    assert detectable(noise, n=400) == pytest.approx(effect / 2)


def test_tau_is_one_for_the_same_order_and_its_interval_shows_how_sure_that_is():
    rng = np.random.default_rng(2)
    quality = np.linspace(0.2, 0.8, 12)[:, None]
    many = (rng.random((12, 400)) < quality).astype(float)
    few = (rng.random((12, 20)) < quality).astype(float)
    sure, unsure = tau_interval(many, many), tau_interval(few, many)
    assert sure.mean == pytest.approx(1)
    assert sure.low > 0.8
    assert unsure.high - unsure.low > sure.high - sure.low
    assert tau_interval(many, many[::-1]).mean == pytest.approx(-1)
