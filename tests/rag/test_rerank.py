"""Relevance by hand: IDF, MaxSim, blends."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.models.engine import Engines, open_cross_encoder
from rag.models.load import resolve
from rag.models.tokens import TokenVectors
from rag.orchestrator import Orchestrator
from rag.pace import Pace
from rag.rerank import (
    FIRST_BLOCK,
    CrossEncoderReranker,
    LateInteractionReranker,
    blended,
    idf,
    max_similarities,
    rerank,
    token_weights,
)
from rag.score_cache import ScoreCache
from rag.types import Chunk, Hit, Scores
from tests import tiny_models


def tokens(vectors: list[list[float]]) -> TokenVectors:
    count = len(vectors)
    return TokenVectors(
        np.arange(count, dtype=np.int32),
        np.array(vectors, dtype=np.float32).reshape(count, 2),
        np.zeros((count, 2), dtype=np.int32),
    )


def hit(name: str, score: float) -> Hit:
    chunk = Chunk(name, 1, 0, "", name, 0, len(name), 3)
    return Hit(name, chunk, score, Scores(fused=score))


class Clock:
    """Seconds that pass when a reranker reads."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fixed:
    """A reranker that knows the relevance of each text and takes `seconds` to read one."""

    id = "fixed"

    def __init__(self, relevance: dict[str, float], blend: float, seconds: float = 0.0) -> None:
        self.blend = blend
        self.clock = Clock()
        self.pace = Pace(self.clock)
        self.read: list[list[str]] = []
        self._relevance = relevance
        self._seconds = seconds

    def relevance(self, _question, passages, _frequencies):
        self.read.append(list(passages))
        with self.pace.measure(300 * len(passages)):
            self.clock.now += self._seconds * len(passages)
        return np.array([self._relevance[text] for text in passages], dtype=np.float32)

    def bytes_read(self, _question, _passage):
        return 300


class Counting:
    """A cross-encoder that notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def logits(self, question, passages):
        self.asked.append(list(passages))
        return np.array([len(question) - len(p) / 3 for p in passages], dtype=np.float32)


def nothing(_tokens):
    return {}, 0


def test_idf_by_hand():
    # 10 chunks; in 1: log(1 + 9.5 / 1.5); in all 10: log(1 + 0.5 / 10.5).
    assert idf([1, 10], 10) == pytest.approx([math.log1p(9.5 / 1.5), math.log1p(0.5 / 10.5)])


def test_weights_of_a_small_collection_are_nearly_even():
    # One chunk: trust 1 / 101, so the token that it lacks may not outweigh the one that it holds.
    held, lacking = token_weights([1, 2], lambda _: ({1: 1}, 1))
    assert held + lacking == pytest.approx(1)
    assert lacking - held < 0.01
    rare, common = token_weights([1, 2], lambda _: ({1: 1, 2: 9000}, 10_000))
    assert rare > 50 * common


def test_max_similarity_by_hand():
    asked = tokens([[1, 0], [0, 1]])
    read = tokens([[1, 0], [0.6, 0.8]])
    assert max_similarities(asked, read) == pytest.approx([1.0, 0.8])
    assert max_similarities(asked, tokens([])) == pytest.approx([0, 0])


def test_blend_by_hand():
    # z of (1, 3) is (-1, 1) and z of (10, 0) is (1, -1): 0.75 * z + 0.25 * z.
    new, before = np.array([1.0, 3.0]), np.array([10.0, 0.0])
    assert blended(new, before, 0.75) == pytest.approx([-0.5, 0.5])
    assert blended(new, before, 1.0) is new
    assert blended(np.array([2.0, 2.0]), before, 0.5) == pytest.approx([0.5, -0.5])


def test_the_relevance_alone_decides_with_a_blend_of_one():
    hits = [hit("a", 3.0), hit("b", 2.0), hit("c", 1.0)]
    relevance = {"a": 0.1, "b": 0.9, "c": 5.0}
    ranked, cuts = rerank("?", hits, Fixed(relevance, 1.0), 2, nothing)
    assert [h.point_id for h in ranked] == ["b", "a"]  # c was beyond the depth
    assert ranked[0].scores.rerank == pytest.approx(0.9)
    assert ranked[0].scores.fused == 2.0
    assert cuts == []  # the depth is what was asked for, nothing that was cut on the way


def test_ties_are_broken_by_point_id():
    hits = [hit("b", 1.0), hit("a", 1.0)]
    ranked, _ = rerank("?", hits, Fixed({"a": 1.0, "b": 1.0}, 0.5), 2, nothing)
    assert [h.point_id for h in ranked] == ["a", "b"]


def test_nothing_in_nothing_out():
    assert rerank("?", [], Fixed({}, 1.0), 5, nothing) == ([], [])
    assert rerank("?", [], Fixed({}, 1.0), 5, nothing, budget_ms=1) == ([], [])


NAMES = [f"p{n:02}" for n in range(20)]


def fixed(seconds: float, blend: float = 1.0) -> Fixed:
    """Ten texts per second for 0.1; the later a text came, the more relevant it is."""
    return Fixed({name: float(n) for n, name in enumerate(NAMES)}, blend, seconds)


def twenty() -> list[Hit]:
    return [hit(name, 20.0 - n) for n, name in enumerate(NAMES)]


def test_a_budget_scores_what_fits_and_says_so():
    # Unmeasured: 4 first, in 0.4 s; 0.6 s are left, and at 10 a second that is 6 more.
    reranker = fixed(0.1)
    ranked, cuts = rerank("?", twenty(), reranker, 20, nothing, budget_ms=1001)
    assert [len(block) for block in reranker.read] == [4, 6]
    assert [h.point_id for h in ranked[:10]] == NAMES[9::-1]  # by relevance
    assert [h.point_id for h in ranked[10:]] == NAMES[10:]  # as they came
    assert {h.scores.rerank for h in ranked[10:]} == {None}
    assert [h.score for h in ranked[10:]] == [20.0 - n for n in range(10, 20)]
    assert [cut.what for cut in cuts] == ["the reranking of 10 of 20 candidates"]
    assert "1001 ms" in cuts[0].why
    assert "3.0 kB of text per second" in cuts[0].why  # 300 bytes each, 10 a second


def test_a_measured_reranker_takes_what_fits_at_once():
    reranker = fixed(0.1)
    rerank("?", twenty(), reranker, 4, nothing)
    reranker.read.clear()
    rerank("?", twenty(), reranker, 20, nothing, budget_ms=1501)
    assert [len(block) for block in reranker.read] == [15]


def test_the_depth_recovers_with_the_speed():
    reranker = fixed(0.1)
    rerank("?", twenty(), reranker, 20, nothing, budget_ms=401)
    assert sum(map(len, reranker.read)) == FIRST_BLOCK
    reranker._seconds = 0.001
    for _ in range(5):
        ranked, cuts = rerank("?", twenty(), reranker, 20, nothing, budget_ms=401)
    assert ranked[0].point_id == "p19"
    assert cuts == []


def test_a_budget_that_is_large_enough_changes_nothing():
    reranker = fixed(0.001, blend=0.5)
    whole = rerank("?", twenty(), reranker, 20, nothing)
    assert rerank("?", twenty(), reranker, 20, nothing, budget_ms=1000) == whole


@given(
    seconds=st.floats(0.0001, 1.0),
    budget_ms=st.integers(1, 5000),
    count=st.integers(1, 20),
    calls=st.integers(1, 3),
)
def test_a_budget_is_kept_after_the_first_block(seconds, budget_ms, count, calls):
    reranker = fixed(seconds)
    for _ in range(calls):
        reranker.read.clear()
        start = reranker.clock.now
        ranked, cuts = rerank("?", twenty()[:count], reranker, 20, nothing, budget_ms=budget_ms)
        read = sum(map(len, reranker.read))
        # The speed is steady, so what was computed fits, but for the first block.
        least = min(count, FIRST_BLOCK)
        assert read == least or reranker.clock.now - start <= budget_ms / 1000 + 1e-6
        assert read >= least
        # Nothing is lost, nothing twice; exactly what was not read is behind, and said.
        assert sorted(h.point_id for h in ranked) == NAMES[:count]
        assert [h.scores.rerank is None for h in ranked] == [n >= read for n in range(count)]
        assert bool(cuts) == (read < count)


@given(
    st.lists(
        st.tuples(st.sampled_from(["q", "why"]), st.lists(st.text("ab", max_size=4), max_size=6)),
        max_size=12,
    ),
    st.integers(0, 8),
)
def test_the_cache_changes_no_score(searches, entries):
    plain = CrossEncoderReranker("m", Counting())
    cached = CrossEncoderReranker("m", Counting(), cache=ScoreCache(entries))
    for question, passages in searches:
        expected = plain.relevance(question, passages, nothing)
        assert cached.relevance(question, passages, nothing).tolist() == expected.tolist()


def test_a_real_models_scores_stay_when_part_of_them_is_known(tmp_path):
    folder = tiny_models.reranker(tmp_path / "reranker")
    model = open_cross_encoder(resolve(str(folder)), Engines("torch", device="cpu"))
    passages = ["the lamp was lit", "a keeper", "the tower stands on a rock in the sea", "oil"]
    plain = CrossEncoderReranker("tiny", model).relevance("who lit it?", passages, nothing)
    cached = CrossEncoderReranker("tiny", model, cache=ScoreCache(10))
    cached.relevance("who lit it?", passages[1:3], nothing)
    again = cached.relevance("who lit it?", passages, nothing)
    # Other neighbours in the batch: the same but for the rounding of fp32 sums.
    assert again == pytest.approx(plain, abs=1e-5)
    assert len(set(plain.tolist())) == 4
    model.close()


def test_what_is_known_is_not_computed_again():
    model = Counting()
    reranker = CrossEncoderReranker("m", model, cache=ScoreCache(10))
    reranker.relevance("q", ["a", "bb", "a"], nothing)
    reranker.relevance("q", ["ccc", "bb"], nothing)
    reranker.relevance("other", ["bb"], nothing)
    assert model.asked == [["a", "bb"], ["ccc"], ["bb"]]  # a passage that comes twice: once


def test_revisions_of_a_model_share_no_scores():
    cache, old, new = ScoreCache(10), Counting(), Counting()
    CrossEncoderReranker("m", old, revision="1", cache=cache).relevance("q", ["a"], nothing)
    CrossEncoderReranker("m", new, revision="2", cache=cache).relevance("q", ["a"], nothing)
    assert new.asked == [["a"]]


def test_known_scores_cost_no_budget():
    cache = ScoreCache(100)
    whole = rerank("?", twenty(), CrossEncoderReranker("m", Counting(), cache=cache), 20, nothing)
    clock, model = Clock(), Counting()
    slow = CrossEncoderReranker("m", model, cache=cache, pace=Pace(clock))
    with slow.pace.measure(1):  # a byte in 1,000 seconds: nothing fits into a millisecond
        clock.now += 1000
    assert rerank("?", twenty(), slow, 20, nothing, budget_ms=1) == whole
    assert model.asked == []
    assert slow.bytes_read("another", "p00") == len("anotherp00")


def test_late_interaction_knows_the_texts_that_it_read(lighthouse):
    reranker = LateInteractionReranker(lighthouse.parts.embedder)
    assert reranker.bytes_read("?", "a lamp") == 6
    reranker.relevance("?", ["a lamp"], nothing)
    assert reranker.bytes_read("?", "a lamp") == 0
    assert reranker.pace.per_second > 0


def test_a_search_says_what_its_budget_cut(lighthouse):
    parts = lighthouse.parts
    unread = LateInteractionReranker(parts.embedder)  # knows no texts: all would be computed
    hurried = replace(
        parts,
        settings=parts.settings.model_copy(update={"rerank_budget_ms": 1}),
        _loaded={**parts._loaded, "reranker": unread},
    )
    found = Orchestrator(hurried, lighthouse.scope).search(
        "Who built the lighthouse on the Bell Rock?", collection="lighthouse", limit=10
    )
    assert len(found.hits) == 10  # what was asked for, reranked or not
    assert [hit.scores.rerank is None for hit in found.hits] == [n >= 4 for n in range(10)]
    assert [cut.what for cut in found.cuts] == ["the reranking of 16 of 20 candidates"]
