"""Ranking is pure: the same candidates, other choices, another order, worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.systems import Pooled, System, fused, rank, run_of, seconds_of, standard
from rag.choices import Choices

POOLED = Pooled(
    "q",
    dense=[("a", 0.9), ("b", 0.5), ("c", 0.1)],
    bm25=[("c", 8.0), ("d", 2.0)],
    relevance={"a": 0.0, "b": 3.0, "c": 1.0, "d": 2.0},
    documents={"a": "A", "b": "B", "c": "A", "d": "D"},
    seconds={"embed": 0.01, "search": 0.02, "rerank": 0.003},
    tokens=100,
)


def ids(ranking):
    return [point for point, _ in ranking]


def system(mode="hybrid", **choices):
    return System("x", Choices(**{"fusion": "weighted", "rerank_limit": 0, **choices}), mode)


def test_one_list_keeps_its_order():
    assert ids(rank(POOLED, system("dense"))) == ["a", "b", "c"]
    assert ids(rank(POOLED, system("bm25"))) == ["c", "d"]


def test_weights_decide_between_the_lists():
    """Scaled to 0 and 1, dense a 1, b 0.5, c 0; BM25 c 1, d 0."""
    assert fused(POOLED, system(dense_weight=0.8)) == [
        ("a", pytest.approx(0.8)), ("b", pytest.approx(0.4)),
        ("c", pytest.approx(0.2)), ("d", 0.0),
    ]  # fmt: skip
    assert ids(fused(POOLED, system(dense_weight=0.2))) == ["c", "a", "b", "d"]


def test_reranking_orders_the_first_and_leaves_the_rest():
    """Of a, b, c, d the first three in the order of relevance: b 3, c 1, a 0; d stays behind."""
    found = rank(POOLED, system(dense_weight=0.8, rerank_limit=3, rerank_blend=1.0))
    assert ids(found) == ["b", "c", "a", "d"]
    assert dict(found)["b"] == 3.0
    unchanged = system(dense_weight=0.8, rerank_limit=3, rerank_blend=0.0)
    assert ids(rank(POOLED, unchanged)) == ["a", "b", "c", "d"], "all weight is on the order before"


def test_what_was_not_scored_cannot_be_reranked():
    bare = Pooled("q", POOLED.dense, POOLED.bm25, {}, POOLED.documents)
    with pytest.raises(KeyError):
        rank(bare, system(rerank_limit=2))


def test_a_document_ranks_where_its_best_chunk_does():
    run = run_of([POOLED], system(dense_weight=0.8))
    assert run.rankings == {"q": {"A": -1.0, "B": -2.0, "D": -3.0}}


def test_a_system_takes_what_its_stages_take():
    assert seconds_of(POOLED, system("bm25")) == {"search": 0.02, "rerank": 0.0}
    assert seconds_of(POOLED, system(rerank_limit=2)) == {
        "embed": 0.01, "search": 0.02, "rerank": 0.006,
    }  # fmt: skip
    assert seconds_of(POOLED, system(rerank_limit=20))["rerank"] == pytest.approx(0.012), "four"


def test_the_standard_systems_have_names_of_their_own():
    names = [one.name for one in standard(0.5, (5, 20))]
    assert len(set(names)) == len(names)
    assert names[-1] == "hybrid dbsf, reranked 20"
    assert standard(0.5)[0].as_dict()["mode"] == "dense"


scores = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-1, 1), max_size=8)


@given(scores, scores, st.integers(0, 10), st.floats(0, 1), st.sampled_from(["rrf", "dbsf"]))
def test_reranking_loses_and_invents_nothing(dense, bm25, depth, blend, fusion):
    points = {*dense, *bm25}
    pooled = Pooled(
        "q", list(dense.items()), list(bm25.items()), {p: float(ord(p)) for p in points},
        {p: p for p in points},
    )  # fmt: skip
    found = rank(pooled, system(fusion=fusion, rerank_limit=depth, rerank_blend=blend))
    assert sorted(ids(found)) == sorted(points)
    before = ids(fused(pooled, system(fusion=fusion)))
    assert ids(found)[depth:] == before[depth:]
