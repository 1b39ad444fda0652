import numpy as np
import pytest

from rag.choices import Choices
from rag.retrieve import fuse_found, retrieve
from rag.store import Found, Index, Point, point_id
from rag.store.edge import EdgeStore
from rag.types import Chunk, Cut, Scope, Scores

MINE = Scope("mine")
INDEX = Index("shelf", dim=4)


class Watched:
    """The store, with the limits that it was asked for."""

    def __init__(self, store):
        self.store = store
        self.limits = []

    def search(self, *args, limit, **more):
        self.limits.append(limit)
        return self.store.search(*args, limit=limit, **more)


@pytest.fixture
def store(tmp_path):
    opened = EdgeStore(tmp_path)
    opened.create(INDEX)
    yield Watched(opened)
    opened.close()


def point(document, vector, text="lamp", *, generation=1, index=0):
    chunk = Chunk(document, generation, index, "", text, 0, len(text), 1)
    unit = np.array(vector, dtype=np.float32)
    return Point(point_id("mine", 1, chunk), chunk, unit / np.linalg.norm(unit))


def ask(store, live, *, mode="hybrid", limit=2, fusion="rrf", text="lamp"):
    return retrieve(
        store,
        MINE,
        INDEX,
        question=text,
        vector=np.array([1, 0, 0, 0], dtype=np.float32),
        mode=mode,
        choices=Choices(fusion),
        conditions=(),
        limit=limit,
        live=lambda ids: {id: live[id] for id in ids if id in live},
    )


def documents(hits):
    return [hit.chunk.document_id for hit in hits]


def test_leftovers_are_dropped_and_others_take_their_place(store):
    # Three points of a's old generation are nearest; live are its new one, b and c.
    stale = [point("a", [1, 0, 0, 0], generation=1, index=n) for n in range(3)]
    live = [point("a", [1, 0.1, 0, 0], generation=2), point("b", [1, 0.2, 0, 0])]
    store.store.upsert(MINE, INDEX, [*stale, *live, point("c", [1, 0.3, 0, 0])])
    hits, cuts = ask(store, {"a": 2, "b": 1, "c": 1}, mode="dense")
    assert [(h.chunk.document_id, h.chunk.generation) for h in hits] == [("a", 2), ("b", 1)]
    assert store.limits == [2, 4, 8]  # 2: both stale. 4: one live. 8: all six
    assert cuts == [Cut("3 points", "their generation is not the live one")]


def test_a_deleted_document_is_not_found(store):
    store.store.upsert(MINE, INDEX, [point("gone", [1, 0, 0, 0]), point("b", [0, 1, 0, 0])])
    hits, cuts = ask(store, {"b": 1})
    assert documents(hits) == ["b"]
    # The two retrievers both met it; it is one point.
    assert cuts == [Cut("1 points", "their generation is not the live one")]


def test_bm25_is_refilled_as_well(store):
    # Short texts score higher: the stale ones come first by BM25.
    stale = [point("a", [0, 1, 0, 0], "lamp", index=n) for n in range(2)]
    long = point("b", [1, 0, 0, 0], "a lamp that has many other words around it")
    store.store.upsert(MINE, INDEX, [*stale, long])
    hits, _ = ask(store, {"a": 2, "b": 1}, mode="bm25", limit=1)
    assert documents(hits) == ["b"]
    assert hits[0].scores.dense is None


def test_the_search_for_more_ends(store):
    stale = [point("a", [1, 0, 0, n / 100], index=n) for n in range(20)]
    store.store.upsert(MINE, INDEX, stale)
    hits, cuts = ask(store, {}, mode="dense", limit=1)
    assert hits == []
    assert store.limits == [1, 2, 4, 8]
    assert cuts == [Cut("8 points", "their generation is not the live one")]


def test_without_leftovers_one_round_is_enough(store):
    points = [point(name, [1, n / 10, 0, 0]) for n, name in enumerate("abc")]
    store.store.upsert(MINE, INDEX, points)
    hits, cuts = ask(store, dict.fromkeys("abc", 1), mode="dense")
    assert (documents(hits), store.limits, cuts) == (["a", "b"], [2], [])


def test_modes_ask_one_retriever_or_both(store):
    store.store.upsert(
        MINE,
        INDEX,
        [point("near", [1, 0, 0, 0], "nothing"), point("word", [0, 1, 0, 0], "lamp")],
    )
    live = {"near": 1, "word": 1}
    assert documents(ask(store, live, mode="dense", limit=1)[0]) == ["near"]
    assert documents(ask(store, live, mode="bm25", limit=1)[0]) == ["word"]
    assert sorted(documents(ask(store, live, mode="hybrid", limit=1)[0])) == ["near", "word"]


def found(name, score):
    return Found(name, score, Chunk(name, 1, 0, "", name, 0, 1, 1))


def test_fused_hits_know_every_score_before():
    hits = fuse_found(
        [found("a", 0.9), found("b", 0.5)], [found("b", 12.0), found("c", 3.0)], Choices("rrf")
    )
    assert [(hit.point_id, hit.scores.dense, hit.scores.bm25) for hit in hits] == [
        ("b", 0.5, 12.0),
        ("a", 0.9, None),
        ("c", None, 3.0),
    ]
    assert hits[0].score == hits[0].scores.fused == pytest.approx(1 / 62 + 1 / 61)


def test_weighted_fusion_weighs_both_alike():
    # a: 1 and nothing. b: 0 and 1. c: nothing and 0. Each counts half; a before b by id.
    hits = fuse_found(
        [found("a", 0.9), found("b", 0.5)], [found("b", 12.0), found("c", 3.0)], Choices("weighted")
    )
    assert [(hit.point_id, hit.score) for hit in hits] == [("a", 0.5), ("b", 0.5), ("c", 0.0)]


def test_a_single_list_keeps_its_scores():
    (only,) = fuse_found([found("a", 0.9)], [], Choices("dbsf"))
    assert (only.score, only.scores) == (0.9, Scores(dense=0.9, fused=0.9))
    assert fuse_found([], [], Choices("dbsf")) == []
