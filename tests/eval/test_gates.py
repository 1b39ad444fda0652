"""What a gate means, and that it holds what it promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.gates import Gate, chance_to_pass, judge, parse_gate
from rag.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("ndcg@10 >= -0.5%", Gate("ndcg@10", -0.5, True)),
        ("recall@50>=-.01", Gate("recall@50", -0.01)),
        ("  AP >= 0 ", Gate("AP", 0.0)),
        ("AP >= +2 %", Gate("AP", 2.0, True)),
        ("nDCG(dcg='exp-log2')@10 >= -1%", Gate("nDCG(dcg='exp-log2')@10", -1.0, True)),
    ],
)
def test_gates_are_read(text, gate):
    assert parse_gate(text) == gate


@pytest.mark.parametrize(
    "text",
    ["", "ndcg@10", "ndcg@10 > -1%", "ndcg@10 <= 1", ">= 1", "AP >= ", "AP >= nan", "AP >= -1%%",
     "AP >= 1e-3", "AP >= -١", "AP >= 0 and more"],
)  # fmt: skip
def test_what_is_no_gate_is_refused(text):
    with pytest.raises(InvalidInput, match="is no gate") as found:
        parse_gate(text)
    assert "ndcg@10 >= -0.5%" in found.value.hint


@given(
    st.sampled_from(["nDCG@10", "R@50", "AP"]),
    st.integers(-999, 999).map(lambda n: n / 100),
    st.booleans(),
)
def test_a_gate_reads_back_as_it_is_written(measure, margin, relative):
    gate = Gate(measure, margin, relative)
    assert parse_gate(str(gate)) == gate


@given(st.text(max_size=20))
def test_any_text_is_a_gate_or_invalid(text):
    try:
        gate = parse_gate(text)
    except InvalidInput:
        return
    assert gate.measure
    assert np.isfinite(gate.margin)


def test_percent_are_of_the_mean_of_a():
    assert Gate("AP", -0.5, relative=True).absolute(0.4) == pytest.approx(-0.002)
    assert Gate("AP", -0.5).absolute(0.4) == -0.5


def test_the_bound_is_one_sided():
    """Normal theory: 1.645 standard errors below the mean, and not the two-sided 1.96."""
    rng = np.random.default_rng(0)
    a, b = np.zeros(400), rng.normal(0, 0.2, 400)
    found = judge(Gate("AP", -1), a, b)
    error = b.std(ddof=1) / 20
    assert (b.mean() - found.bound) / error == pytest.approx(1.645, rel=0.04)
    assert found.passed


def test_equal_sides_pass_even_without_a_margin():
    same = np.array([0.2, 0.9, 0.4])
    assert judge(Gate("AP", 0), same, same).passed
    assert not judge(Gate("AP", 0.01), same, same).passed


def test_a_failure_says_which_kind_it_is():
    rng = np.random.default_rng(1)
    a = np.full(100, 0.5)
    noise = rng.normal(0, 0.1, 100)
    noise -= noise.mean()
    worse = judge(Gate("AP", -0.05), a, a - 0.1 + noise)
    assert (worse.passed, worse.worse) == (False, True)
    assert "FAIL, B is worse than that" in str(worse)
    unsure = judge(Gate("AP", -0.01), a, a + noise)
    assert (unsure.passed, unsure.worse) == (False, False)
    # ((1.645 + 0.842) * s / 0.01) squared: the questions that a power of 80 % takes.
    wanted = ((1.6449 + 0.8416) * noise.std(ddof=1) / 0.01) ** 2
    assert unsure.questions == pytest.approx(wanted, rel=0.01)
    assert "not sure: it would take about" in str(unsure)
    seems = judge(Gate("AP", -0.01), a, a - 0.011 + noise)
    assert (seems.worse, seems.questions) == (False, None)
    assert "seems worse" in str(seems)


def test_the_line_has_measure_bound_margin_and_verdict():
    a = np.array([0.5, 0.5])
    assert str(judge(Gate("AP", -10, relative=True), a, a)) == (
        "AP >= -10%: B - A is +0.0000, its lower bound (one-sided, 95%) +0.0000,"
        " the margin -0.0500: PASS"
    )


def test_a_side_at_the_margin_passes_as_rarely_as_the_level_says():
    """5 % of 200 sets are 10; 19 is three deviations above."""
    rng = np.random.default_rng(2)
    a, gate = np.full(150, 0.5), Gate("AP", -0.02)
    sets = (a - 0.02 + rng.normal(0, 0.1, 150) for _ in range(200))
    assert 1 <= sum(judge(gate, a, b).passed for b in sets) <= 19


def test_the_chance_to_pass_is_what_happens():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.1, 150)
    noise -= noise.mean()
    chance = chance_to_pass(noise, -0.015)
    s, a = noise.std(ddof=1), np.zeros(150)
    passed = sum(judge(Gate("AP", -0.015), a, rng.normal(0, s, 150)).passed for _ in range(150))
    assert passed / 150 == pytest.approx(chance, abs=0.12)
    assert 0.4 < chance < 0.7
    assert chance_to_pass(np.zeros(9), 0.0) == 1.0
    assert chance_to_pass(np.zeros(9), 0.1) == 0.0


def test_one_question_passes_no_gate():
    """Its bootstrap draws that question alone, so that its bound would be its difference."""
    with pytest.raises(InvalidInput, match="anything from 1 question"):
        judge(Gate("AP", -0.1), np.array([0.5]), np.array([0.5]))
