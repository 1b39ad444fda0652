import re
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.balance import Judged, balanced, judge
from eval.makers import Question
from rag.types import Chunk, Hit, Scores

EVIDENCE = "The lamp of Longstone was lit in 1826 by keepers."
QUESTION = Question("m1", "Longstone lamp keepers", "keywords", "d1", EVIDENCE)


def hit(document, text, dense=None, bm25=None):
    chunk = Chunk(document, 1, 0, "T", text, 0, len(text), 9)
    return Hit(f"p-{document}", chunk, 0.0, Scores(dense=dense, bm25=bm25))


def test_gains_are_those_of_the_first_relevant_document():
    hits = [hit("d2", "A fog bell.", dense=0.9), hit("d1", EVIDENCE, dense=0.8, bm25=7.0)]
    found = judge(QUESTION, hits)
    assert isinstance(found, Judged)
    assert (found.dense, found.bm25) == (1 / log2(3), 1.0)
    assert found.question.relevant == ("d1",)


def test_a_copy_of_the_evidence_is_relevant_too():
    copy = hit("d2", f"Once more: {EVIDENCE.upper()}", dense=0.9)
    found = judge(QUESTION, [copy, hit("d1", EVIDENCE, dense=0.8)])
    assert isinstance(found, Judged)
    assert found.question.relevant == ("d1", "d2")
    assert found.dense == 1


@pytest.mark.parametrize(
    ("hits", "why"),
    [
        (
            [
                hit("d1", EVIDENCE, 0.9),
                hit("d2", "The keepers cleaned the lamp at Longstone.", 0.5),
            ],
            "another document has all of its words",
        ),
        ([hit("d1", EVIDENCE, 0.9, 7.0), hit("d2", "Fog.", 0.1, 0.1)], "both .* answer it first"),
        ([hit("d2", "Fog.", 0.9, 7.0)], "neither retriever has its document among ten"),
    ],
)
def test_what_tells_nothing_is_left_out(hits, why):
    found = judge(QUESTION, hits)
    assert isinstance(found, str)
    assert re.match(why, found)


gains = st.sampled_from([0.0, 0.3, 0.5, 0.63, 1.0])


@given(st.lists(st.tuples(gains, gains), max_size=60), st.integers(1, 40), st.integers(0, 5))
def test_no_retriever_is_ahead_by_more_than_one_question(pairs, most, seed):
    judged = [
        Judged(Question(f"m{n}", "?", "span", "d", "e"), dense, bm25)
        for n, (dense, bm25) in enumerate(pairs)
    ]
    found = balanced(judged, most, seed)
    assert found == balanced(judged, most, seed)
    assert len(found) <= most
    assert len({one.question.id for one in found}) == len(found)
    assert abs(sum(one.difference for one in found)) <= 1


def test_many_that_favour_one_retriever_do_not_make_a_set():
    """Two favour dense vectors, by 0.5 each: of fifty for BM25 no more than makes up for them."""
    one = Question("m", "?", "span", "d", "e")
    judged = [Judged(one, 1.0, 0.5)] * 2 + [Judged(one, 0.5, 1.0)] * 50
    found = balanced(judged, 40)
    assert sum(judged.difference > 0 for judged in found) == 2
    assert sum(judged.difference < 0 for judged in found) <= 3


def test_where_one_retriever_is_always_ahead_only_ties_are_left():
    one = Question("m", "?", "span", "d", "e")
    judged = [Judged(one, 0.5, 1.0)] * 9 + [Judged(one, 0.5, 0.5)] * 3
    assert [(one.dense, one.bm25) for one in balanced(judged, 9)] == [(0.5, 0.5)] * 3
    assert balanced(judged[:9], 9) == []
