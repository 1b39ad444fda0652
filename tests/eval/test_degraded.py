import random

from hypothesis import given
from hypothesis import strategies as st

from eval.degraded import (
    ASKED,
    DEPTH,
    Contender,
    contenders,
    first_shuffled,
    half_lost,
    run_of,
    shuffled,
)
from eval.systems import Pooled

rankings = st.lists(st.text("abc", min_size=1), unique=True, max_size=30)


@given(rankings, st.integers(0, 9))
def test_what_is_done_to_a_ranking(ranking, seed):
    assert sorted(shuffled(ranking, random.Random(seed))) == sorted(ranking)
    mixed = first_shuffled(ranking, random.Random(seed))
    assert sorted(mixed[:DEPTH]) == sorted(ranking[:DEPTH])
    assert mixed[DEPTH:] == ranking[DEPTH:]
    left = half_lost(ranking, random.Random(seed))
    assert [one for one in ranking if one in left] == left, "in the order it had"


def test_half_is_about_half():
    left = half_lost([str(n) for n in range(1000)], random.Random(0))
    assert 450 < len(left) < 550


def test_questions_are_asked_in_other_ways():
    assert ASKED["half"]("How deep is the lock at Rye") == "How deep is"
    assert ASKED["half"]("Depth") == "Depth"
    assert ASKED["instructed"]("Depth").endswith("passages: Depth")


def test_a_contender_ranks_documents_and_the_seed_repeats_it():
    points = [(f"p{n}", 1.0 - n / 20) for n in range(20)]
    pool = [Pooled("q", points, points[::-1], {}, {p: f"d{p[1:]}" for p, _ in points})]
    by_name = {one.name: one for one in contenders(0.5, depths=())}
    assert run_of(pool, by_name["dense"]).ordered("q")[:2] == ["d0", "d1"]
    broken = by_name["random"]
    assert run_of(pool, broken) == run_of(pool, broken)
    assert run_of(pool, broken).ordered("q") != run_of(pool, by_name["dbsf"]).ordered("q")


def test_names_are_ones_own_and_more_than_twelve():
    found = contenders(0.5)
    assert len({one.name for one in found}) == len(found) >= 12
    assert {one.degraded for one in found} == {True, False}
    assert not Contender("x", found[0].system).degraded


def test_reranking_alone_is_no_system_of_its_own_where_that_is_how_the_reranker_blends():
    systems = [one.system.choices for one in contenders(1.0) if one.system.choices.rerank_limit]
    assert len(set(systems)) == len(systems)
