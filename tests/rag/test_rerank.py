"""Relevance by hand: IDF, MaxSim, blends."""

import math

import numpy as np
import pytest

from rag.models.tokens import TokenVectors
from rag.rerank import blended, idf, max_similarities, rerank, token_weights
from rag.types import Chunk, Hit, Scores


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


class Fixed:
    """A reranker that knows the relevance of each text."""

    id = "fixed"

    def __init__(self, relevance: dict[str, float], blend: float) -> None:
        self.blend = blend
        self._relevance = relevance

    def relevance(self, _question, passages, _frequencies):
        return np.array([self._relevance[text] for text in passages], dtype=np.float32)


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
    ranked = rerank("?", hits, Fixed(relevance, 1.0), 2, nothing)
    assert [h.point_id for h in ranked] == ["b", "a"]  # c was beyond the depth
    assert ranked[0].scores.rerank == pytest.approx(0.9)
    assert ranked[0].scores.fused == 2.0


def test_ties_are_broken_by_point_id():
    hits = [hit("b", 1.0), hit("a", 1.0)]
    ranked = rerank("?", hits, Fixed({"a": 1.0, "b": 1.0}, 0.5), 2, nothing)
    assert [h.point_id for h in ranked] == ["a", "b"]


def test_nothing_in_nothing_out():
    assert rerank("?", [], Fixed({}, 1.0), 5, nothing) == []
