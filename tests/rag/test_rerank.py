from math import log

import numpy as np
import pytest

from rag.models.tokens import TokenVectors
from rag.rerank import (
    RECENT_TEXTS,
    CrossEncoderReranker,
    LateInteractionReranker,
    blended,
    idf,
    max_similarities,
    rerank,
)
from rag.types import Chunk, Hit, Scores


def hit(point_id, score):
    chunk = Chunk(point_id, 1, 0, "", f"text of {point_id}", 0, 0, 0)
    return Hit(point_id, chunk, score, Scores(fused=score))


def no_frequencies(_tokens):
    return {}, 0


def read(ids, rows):
    vectors = np.array(rows, dtype=np.float32).reshape(len(ids), 2)
    return TokenVectors(np.array(ids, np.int32), vectors, np.zeros((len(ids), 2), dtype=np.int32))


class Known:
    """A stand-in for the embedder: the token vectors of known texts."""

    def __init__(self, texts):
        self.texts = texts
        self.asked = []

    def token_vectors(self, texts):
        self.asked += texts
        return [self.texts[text] for text in texts]


class Fixed:
    """A reranker whose relevance is given."""

    id = "fixed"

    def __init__(self, relevance, blend=1.0):
        self.blend = blend
        self.given = relevance
        self.passages = None

    def relevance(self, _question, passages, _frequencies):
        self.passages = list(passages)
        return np.array([self.given[p.split()[-1]] for p in passages], dtype=np.float32)


def test_idf_of_rare_common_and_unseen_tokens():
    asked = []

    def frequencies(tokens):
        asked.append(list(tokens))
        return {1: 1, 2: 10}, 10

    # N = 10. df 1: log(1 + 9.5/1.5). df 10: log(1 + 0.5/10.5). df 0: log(1 + 10.5/0.5) = log 22.
    weights = idf([2, 1, 3, 1], frequencies)
    assert weights == pytest.approx(
        [log(1 + 0.5 / 10.5), log(1 + 9.5 / 1.5), log(22), log(1 + 9.5 / 1.5)], rel=1e-6
    )
    assert weights.dtype == np.float32
    assert asked == [[1, 2, 3]]  # each token is looked up once


def test_max_similarity_is_the_best_cosine_of_each_question_token():
    asked = read([1, 2], [[1, 0], [0, 1]])
    # Token 1: max(1, 0.6) = 1. Token 2: max(0, 0.8) = 0.8.
    assert max_similarities(asked, read([7, 8], [[1, 0], [0.6, 0.8]])) == pytest.approx([1, 0.8])
    assert max_similarities(asked, read([], [])).tolist() == [0, 0]


def test_late_interaction_weighs_the_similarities_by_idf():
    embedder = Known(
        {
            "q": read([1, 2], [[1, 0], [0, 1]]),
            "both": read([7, 8], [[1, 0], [0.6, 0.8]]),
            "common": read([7], [[1, 0]]),
            "": read([], []),
        }
    )
    reranker = LateInteractionReranker(embedder)
    got = reranker.relevance("q", ["both", "common", ""], lambda _: ({1: 3}, 3))
    # N = 3. Token 1 in all: log(1 + 0.5/3.5) = log(8/7). Token 2 in none: log(1 + 3.5/0.5) = log 8.
    # Together log(64/7): both = (log(8/7) + 0.8 log 8) / log(64/7), common = log(8/7) / log(64/7).
    total = log(64 / 7)
    expected = [(log(8 / 7) + 0.8 * log(8)) / total, log(8 / 7) / total, 0]
    assert got == pytest.approx(expected, rel=1e-5)
    assert got.dtype == np.float32


def test_an_empty_collection_or_question_divides_by_nothing():
    embedder = Known({"q": read([1], [[1, 0]]), "": read([], []), "p": read([1], [[1, 0]])})
    reranker = LateInteractionReranker(embedder)
    # N = 0: the only token weighs log 2, alone that is 1.
    assert reranker.relevance("q", ["p"], no_frequencies) == pytest.approx([1])
    assert reranker.relevance("", ["p"], no_frequencies).tolist() == [0]


def test_texts_read_lately_are_not_encoded_again():
    texts = [str(n) for n in range(RECENT_TEXTS + 1)]
    embedder = Known({text: read([1], [[1, 0]]) for text in texts})
    reranker = LateInteractionReranker(embedder)
    reranker.token_vectors(["0", "1", "0"])
    assert embedder.asked == ["0", "1"]
    reranker.token_vectors(["1"])
    assert embedder.asked == ["0", "1"]
    reranker.token_vectors(texts)  # one more than is kept, and all of them come back
    embedder.asked.clear()
    reranker.token_vectors(texts[-1:])
    assert embedder.asked == []


def test_blending_adds_z_scores():
    new, before = np.array([1, 3], np.float32), np.array([4, 2], np.float32)
    # z of (1, 3) is (-1, 1), of (4, 2) it is (1, -1): 3/4 of one and 1/4 of the other.
    assert blended(new, before, 0.75).tolist() == [-0.5, 0.5]
    assert blended(new, before, 1.0).tolist() == [1, 3]  # the logits themselves
    # All alike: no z-score, so the other decides.
    assert blended(np.array([5, 5], np.float32), before, 0.5).tolist() == [0.5, -0.5]


def test_hits_are_ordered_by_relevance_and_keep_their_scores():
    got = rerank(
        "q", [hit("a", 0.9), hit("b", 0.8)], Fixed({"a": -2, "b": 3.5}), 10, no_frequencies
    )
    assert [(h.point_id, h.score, h.scores) for h in got] == [
        ("b", 3.5, Scores(fused=0.8, rerank=3.5)),
        ("a", -2.0, Scores(fused=0.9, rerank=-2.0)),
    ]


def test_a_blend_counts_the_score_before():
    # z of relevance (0, 1) is (-1, 1), of the scores before (9, 1) it is (1, -1). With 1/4 the
    # score before wins: a -0.25 + 0.75 = 0.5, b -0.5. `rerank` stays the raw relevance.
    hits = [hit("a", 9), hit("b", 1)]
    got = rerank("q", hits, Fixed({"a": 0, "b": 1}, blend=0.25), 10, no_frequencies)
    assert [(h.point_id, h.score, h.scores.rerank) for h in got] == [("a", 0.5, 0), ("b", -0.5, 1)]


def test_ties_are_broken_by_point_id():
    hits = [hit("c", 3), hit("a", 1), hit("b", 2)]
    got = rerank("q", hits, Fixed({"a": 1, "b": 1, "c": 1}), 10, no_frequencies)
    assert [h.point_id for h in got] == ["a", "b", "c"]


def test_what_is_below_the_depth_is_left_out():
    reranker = Fixed({"a": 1, "b": 2, "c": 99})
    got = rerank("q", [hit("a", 3), hit("b", 2), hit("c", 1)], reranker, 2, no_frequencies)
    assert [h.point_id for h in got] == ["b", "a"]
    assert reranker.passages == ["text of a", "text of b"]


def test_no_hits_ask_no_model():
    assert rerank("q", [], Fixed({}), 10, no_frequencies) == []


def test_a_cross_encoder_decides_alone_by_its_logits():
    class Model:
        def logits(self, question, passages):
            assert (question, passages) == ("q", ["p"])
            return np.array([-7.5], np.float32)

    reranker = CrossEncoderReranker("ce", Model())
    assert (reranker.id, reranker.blend) == ("ce", 1.0)
    assert reranker.relevance("q", ["p"], no_frequencies).tolist() == [-7.5]
