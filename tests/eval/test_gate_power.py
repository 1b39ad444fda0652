"""What is planted is what is said, and the gate sees it."""

import numpy as np
import pytest

from eval.gate_power import CUTOFF, demote, planted, planted_values, trial
from eval.gates import Gate
from eval.measures import parse_measures, per_question
from eval.runs import Run, by_rank
from eval.sides import Side
from rag.errors import InvalidInput
from tests.small_experiment import ranked_at, small_dataset

NDCG = parse_measures(["nDCG@10"])[0]


def test_the_best_relevant_document_moves_behind_rank_ten():
    ranked = [f"d{n}" for n in range(14)]
    run = Run("x", {"q": by_rank(ranked)})
    found = Run("x", {"q": demote(run, "q", {"d3": 1, "d5": 1, "d0": 0})})
    without = [document for document in ranked if document != "d3"]
    assert found.ordered("q") == [*without[:CUTOFF], "d3", *without[CUTOFF:]]


@pytest.mark.parametrize("judged", [{"d12": 1}, {"elsewhere": 1}, {}])
def test_nothing_moves_where_nothing_relevant_is_among_the_first(judged):
    run = Run("x", {"q": by_rank([f"d{n}" for n in range(14)])})
    assert demote(run, "q", judged) == run.rankings["q"]


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "small", 60)


@pytest.fixture
def run(dataset):
    return ranked_at(dataset, "x", {q: 1 + n % 3 for n, q in enumerate(dataset.judged)})


def test_the_loss_is_the_one_that_was_asked_for(dataset, run):
    mean = per_question(dataset.qrels, run, [NDCG])["nDCG@10"].mean()
    for seed in range(5):
        worse = planted(run, dataset.qrels, NDCG, mean - 0.1, seed)
        values = per_question(dataset.qrels, worse, [NDCG])["nDCG@10"]
        assert 0 <= values.mean() - (mean - 0.1) < 1 / 60, "within a question's share"
    again = planted(run, dataset.qrels, NDCG, mean - 0.1, 4)
    assert again == worse
    assert planted(run, dataset.qrels, NDCG, mean - 0.1, 3) != worse


def test_more_than_there_is_cannot_be_lost(dataset, run):
    with pytest.raises(InvalidInput, match=r"cannot be lowered to -0\.1"):
        planted(run, dataset.qrels, NDCG, -0.1, 0)
    with pytest.raises(InvalidInput, match=r"cannot be lowered to 0\.99"):
        planted(run, dataset.qrels, NDCG, 0.99, 0)


def test_nothing_can_be_planted_without_a_run(dataset):
    side = Side("x", dataset.judged, {})
    with pytest.raises(InvalidInput, match="nothing can be planted"):
        planted_values(side, NDCG, 0.5, 0)


def test_equal_sides_pass_and_a_loss_does_not(dataset, run):
    a = per_question(dataset.qrels, run, [NDCG])["nDCG@10"]
    gate = Gate("nDCG@10", -0.5, relative=True)
    equal = trial("equal", gate, a, [a] * 3, dataset.judged)
    assert (equal.passed, equal.seeds, equal.chance) == (3, 3, 1.0)
    side = Side("x", dataset.judged, {}, run, dataset)
    lost = [planted_values(side, NDCG, float(a.mean()) - 0.2, seed) for seed in range(3)]
    worse = trial("worse", gate, a, lost, dataset.judged)
    assert worse.passed == 0
    assert worse.chance < 0.01
    assert np.mean(worse.differences) == pytest.approx(-0.2, abs=1 / 60)
