"""Budgets and thresholds against values for which the right choice is known."""

import numpy as np
import pytest

from eval.answering import choose_budget, decisions, threshold_of

QUERIES = [f"q{n:03d}" for n in range(200)]
TUNING = set(QUERIES[::2])
BUDGETS = (250, 500, 1000)


def recall(*shares: float) -> dict[str, list[bool]]:
    """The first `share` of every hundred questions, alike in both halves; the last is now's."""
    return {q: [at // 2 < share * 100 for share in shares] for at, q in enumerate(QUERIES)}


def test_the_smallest_context_that_loses_nothing_is_taken():
    found = choose_budget(recall(0.5, 0.8, 0.8, 0.8), BUDGETS, TUNING)
    assert found.tokens == 500
    assert found.tuning == pytest.approx({250: 0.5, 500: 0.8, 1000: 0.8})
    assert found.held_out == found.tuning
    assert (found.now, found.worse) == (0.8, False)


def test_losing_a_few_answers_is_no_noise():
    """4 of 100 lost: 0.04 with a standard error of 0.02."""
    assert choose_budget(recall(0.5, 0.76, 0.8, 0.8), BUDGETS, TUNING).tokens == 1000


def test_a_context_that_is_smaller_than_now_has_to_hold_what_now_holds():
    found = choose_budget(recall(0.5, 0.6, 0.6, 0.8), BUDGETS, TUNING)
    assert found.tokens is None
    assert found.worse
    assert "500 tokens, NOT passed" in found.why


def test_too_few_answers_choose_nothing():
    found = choose_budget(recall(0.1, 0.1, 0.2, 0.2), BUDGETS, TUNING)
    assert found.tokens is None
    assert not found.worse
    assert "only 20 and 20 answers" in found.why
    assert choose_budget({}, BUDGETS, TUNING).tokens is None


def test_decisions_by_hand():
    rows = [(0.9, True), (0.6, True), (0.2, True), (0.7, False), (0.1, False)]
    found = decisions(rows, 0.5)
    assert found.answered == pytest.approx(2 / 3)
    assert found.precision == pytest.approx(2 / 3)
    assert found.abstained == pytest.approx(1 / 2)


def rows(seed: int) -> list[tuple[str, float, bool]]:
    """Probabilities uniform over 0.4 to 1 where there is an answer, over 0 to 0.6 where not."""
    rng = np.random.default_rng(seed)
    return [(q, 0.4 + 0.6 * rng.random(), True) for q in QUERIES] + [
        (q, 0.6 * rng.random(), False) for q in QUERIES
    ]


def test_the_threshold_keeps_nine_of_ten_answerable_questions():
    """Of 0.4 to 1 the lowest tenth ends at 0.46, where three in four of the others abstain."""
    found = threshold_of(rows(0), TUNING, present=0.3)
    assert found.least_support == pytest.approx(0.46, abs=0.04)
    assert found.fitted.answered == pytest.approx(0.9, abs=0.08)
    assert found.fitted.abstained == pytest.approx(0.46 / 0.6, abs=0.1)
    assert found.before.abstained < found.fitted.abstained


def test_a_threshold_that_keeps_as_much_already_stays():
    found = threshold_of(rows(0), TUNING, present=0.47)
    assert found.least_support is None
    assert "0.47 stays" in found.why


def test_a_threshold_that_the_other_half_does_not_bear_out_is_not_taken():
    halved = [(q, p if q in TUNING or not wanted else p / 2, wanted) for q, p, wanted in rows(0)]
    found = threshold_of(halved, TUNING, present=0.1)
    assert found.least_support is None
    assert "the held-out half keeps" in found.why


def test_too_few_answerable_questions_fit_nothing():
    assert "needed" in threshold_of(rows(0)[:30], TUNING, present=0.3).why
