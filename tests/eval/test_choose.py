"""Choosing among systems whose values are made so that the right choice is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.choose import (
    choose,
    departures,
    distinct,
    gate,
    grid,
    named,
    reality_check,
    reranking_p,
    simplest,
    standard_error,
    tuning_half,
)
from eval.datasets import Dataset
from eval.measures import parse_measures
from eval.sweep import values_of
from eval.systems import Pooled, System
from rag.choices import Choices

HOME = Choices("dbsf", rerank_limit=20, rerank_blend=0.5)
(NDCG,) = parse_measures(["nDCG@10"])


def plain(fusion: str = "dbsf", weight: float = 0.5) -> System:
    made = Choices(fusion, weight, rerank_limit=0)
    return System(named(made), made)


def reranked(depth: int, blend: float = 0.5) -> System:
    made = Choices("dbsf", rerank_limit=depth, rerank_blend=blend)
    return System(named(made), made)


def test_the_grid_has_every_fusion_with_and_without_reranking():
    systems = grid((10, 20), (0.5, 1.0))
    assert len(systems) == 11 * (1 + 2 * 2)  # dbsf, rrf and nine weights
    assert len({system.name for system in systems}) == len(systems)
    assert [s.name for s in grid(())][:3] == ["dbsf", "rrf", "weighted 0.1"]


def test_a_question_that_is_asked_twice_counts_once_with_all_that_is_known():
    judged = Dataset(
        "d", {}, {}, {"a": "Who  is it?", "b": "who is it?", "c": "When?"},
        {"a": {"x": 1, "y": 0}, "b": {"y": 2}, "c": {"z": 1}}, {"a": ["I"], "b": ["you", "I"]},
    )  # fmt: skip
    found = distinct(judged)
    assert found.judged == ["a", "c"]
    assert found.qrels["a"] == {"x": 1, "y": 2}
    assert found.answers == {"a": ["I", "you"]}


def test_halves_repeat_and_do_not_depend_on_what_else_is_asked():
    asked = {str(n): f"Question {n}?" for n in range(1000)}
    mine = tuning_half(asked, seed=1)
    assert mine == tuning_half(dict(reversed(asked.items())), seed=1)
    assert mine & {"3", "4"} == tuning_half({"3": asked["3"], "4": asked["4"]}, seed=1)
    assert 440 < len(mine) < 560  # 500 and four deviations of sqrt(1000 / 4)
    assert mine != tuning_half(asked, seed=2)


def test_the_cheapest_within_one_standard_error_is_the_simplest():
    """Reranking 50 is best by 0.01 of a deviation of 0.5: 10 candidates do as well."""
    rng = np.random.default_rng(0)
    base = rng.random(100)
    noise = rng.normal(0, 0.5, 100)
    values = np.array([base - 1, base + noise - noise.mean(), base + 0.01])
    systems = [plain(), reranked(10), reranked(50)]
    assert simplest(systems, values, range(3), HOME) == 1
    # Without noise a hundredth on every question is certain.
    values[1] = base
    assert simplest(systems, values, range(3), HOME) == 2


def test_of_equal_cost_the_one_closest_to_the_defaults_is_simpler():
    systems = [reranked(10, 0.8), reranked(10, 0.5), plain("weighted", 0.3), plain("weighted", 0.5)]
    assert [departures(s.choices, HOME) for s in systems] == [1, 0, 2, 1]
    same = np.tile(np.random.default_rng(0).random(50), (2, 1))
    assert simplest(systems[:2], same, range(2), HOME) == 1
    assert simplest(systems[2:], same, range(2), HOME) == 1


def test_one_of_one_is_tested_as_by_a_one_sided_test():
    """A difference of 1.645 standard errors has p = 0.05."""
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, 400)
    noise += 1.645 * standard_error(noise) - noise.mean()
    p = reality_check(noise[None, :], np.zeros(400), seed=0)
    assert p == pytest.approx(0.05, abs=0.01)


def test_the_best_of_many_that_are_no_better_is_rarely_significant():
    """Of 100 sets with 40 useless systems, 5 at 5 %; each best alone would pass in nearly all."""
    rng = np.random.default_rng(2)
    ps = [
        reality_check(rng.normal(0, 0.2, (40, 60)), np.zeros(60), seed=n, draws=500)
        for n in range(100)
    ]
    assert sum(p <= 0.05 for p in ps) <= 11  # 5 and three deviations of sqrt(100 * 0.05 * 0.95)


def test_nothing_that_differs_is_not_better():
    assert reality_check(np.ones((3, 9)), np.ones(9)) == 1.0


def test_the_reranking_of_the_defaults_is_tested_as_one_difference():
    """2.5 standard errors: p = 0.006, twice that for two tests; 40 others that are noise take none.

    As one of 41 it would have been p = 0.2.
    """
    rng = np.random.default_rng(3)
    base = rng.random(100)
    noise = rng.normal(0, 0.2, (41, 100))
    noise -= noise.mean(axis=1, keepdims=True)
    noise[0] += 2.5 * standard_error(noise[0])
    systems = [plain(), reranked(20, 0.5), *(reranked(10, 0.6 + n / 100) for n in range(40))]
    values = np.vstack([base, base + noise])
    assert reranking_p(systems, values, 0, HOME) == pytest.approx(0.0124, abs=0.006)
    assert reranking_p(systems, values, 0, Choices("rrf")) > 0.1  # nobody named it before


def pool_of(questions: int, rng: np.random.Generator, quality: float) -> tuple[list[Pooled], dict]:
    """Random pools of 30 documents: retrievers that know a little, a reranker that knows `quality`.

    Each question has one relevant document; scores are noise, and the relevant one's is higher.
    """
    pool, qrels = [], {}
    for number in range(questions):
        documents = [f"d{number}-{at}" for at in range(30)]
        right = np.zeros(30)
        right[rng.integers(30)] = 1
        dense, bm25, relevance = (
            (rng.normal(0, 1, 30) + better * right).tolist() for better in (1.5, 1.5, quality)
        )
        query = f"q{number:03d}"
        pool.append(
            Pooled(
                query,
                list(zip(documents, dense, strict=True)),
                list(zip(documents, bm25, strict=True)),
                dict(zip(documents, relevance, strict=True)),
                {document: document for document in documents},
            )
        )
        qrels[query] = {documents[int(right.argmax())]: 1}
    return pool, qrels


SYSTEMS = grid((10, 20), (0.2, 0.5, 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_a_reranker_whose_scores_are_noise_is_not_chosen(seed):
    pool, qrels = pool_of(60, np.random.default_rng(seed), quality=0.0)
    _, values = values_of(pool, SYSTEMS, qrels, NDCG)
    found = choose(SYSTEMS, values, HOME, seed=seed)
    assert SYSTEMS[found.chosen].choices.rerank_limit == 0
    assert found.p > 0.05


def test_a_reranker_that_knows_the_answer_is():
    pool, qrels = pool_of(60, np.random.default_rng(0), quality=5.0)
    _, values = values_of(pool, SYSTEMS, qrels, NDCG)
    found = choose(SYSTEMS, values, HOME)
    assert SYSTEMS[found.chosen].choices.rerank_limit > 0
    assert found.p < 0.01
    assert values[found.chosen].mean() > values[found.plain].mean() + 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 25), st.floats(-1, 4), st.integers(0, 2**32 - 1))
def test_what_is_chosen_is_never_significantly_below_itself_without_reranking(n, quality, seed):
    """On the tuning half, one-sided at 5 %: less than 1.645 standard errors below."""
    pool, qrels = pool_of(n, np.random.default_rng(seed), quality)
    _, values = values_of(pool, SYSTEMS, qrels, NDCG)
    found = choose(SYSTEMS, values, HOME, seed=0)
    made = SYSTEMS[found.chosen].choices
    same = next(
        at
        for at, system in enumerate(SYSTEMS)
        if not system.choices.rerank_limit
        and (system.choices.fusion, system.choices.dense_weight) == (made.fusion, made.dense_weight)
    )
    behind = values[same] - values[found.chosen]
    assert behind.mean() <= 1.645 * standard_error(behind) + 1e-12


def test_without_reranking_on_offer_the_best_fusion_is_chosen():
    pool, qrels = pool_of(20, np.random.default_rng(0), quality=0.0)
    systems = grid(())
    _, values = values_of(pool, systems, qrels, NDCG)
    found = choose(systems, values, HOME)
    assert found.chosen == found.plain
    assert found.p == 1.0


def test_the_gate_lets_pass_what_is_not_worse_by_more_than_the_margin():
    """Differences of -0.005 on each question: certain, and within a margin of 0.01 alone."""
    base = np.random.default_rng(0).random(80)
    assert gate("now", base - 0.005, base, 0.01).passed
    failed = gate("now", base - 0.005, base, 0.004)
    assert not failed.passed
    assert "NOT passed: against now -0.0050" in str(failed)


def test_the_gate_keeps_back_what_might_be_worse():
    """The same mean with a standard error of 0.02: the bound is 1.645 of them below."""
    noise = np.random.default_rng(0).normal(0, 1, 100)
    noise = (noise - noise.mean()) / noise.std(ddof=1) * 0.2
    found = gate("now", noise, np.zeros(100), 0.01)
    assert found.lower == pytest.approx(-1.645 * 0.02, rel=0.1)
    assert not found.passed
    assert gate("itself", noise, noise, 0.0).passed
