"""A traced question asked again with something changed."""

import pytest

from rag.errors import InvalidInput
from rag.question import Asked
from rag.replay import changed, replay
from rag.sampling import Sampling
from rag.types import Answer, Message

ASKED = "Who built the Bell Rock lighthouse?"


def again(rag, asked, **changes) -> Answer:
    *_, answer = replay(rag, asked, changes)
    return answer


def asked_of(rag, answer) -> Asked:
    return rag.parts.traces.trace(rag.scope, answer.trace_id).asked


def test_without_changes_it_is_the_same_answer(lighthouse):
    first = lighthouse.ask(ASKED, collection="lighthouse")
    second = again(lighthouse, asked_of(lighthouse, first))
    assert (second.text, second.citations) == (first.text, first.citations)
    assert second.trace_id != first.trace_id, "it is an answer of its own"


def test_a_choice_decides_otherwise(lighthouse):
    first = lighthouse.ask(ASKED, collection="lighthouse")
    second = again(lighthouse, asked_of(lighthouse, first), rerank_limit=0, limit=3)
    assert len(second.hits) == 3
    assert all(hit.scores.rerank is None for hit in second.hits)
    traced = asked_of(lighthouse, second)
    assert (traced.instead, traced.limit) == ({"rerank_limit": 0}, 3)


def test_changes_go_where_they_belong():
    asked = Asked(
        "q", "c", (Message("user", "before"),), Sampling(seed=1), instead={"fusion": "rrf"}
    )
    now = changed(asked, {"temperature": 0.5, "stop": ["."], "limit": 2, "rerank_limit": 5})
    assert now.sampling == Sampling(temperature=0.5, seed=1, stop=(".",))
    assert now.limit == 2
    assert now.instead == {"fusion": "rrf", "rerank_limit": 5}
    assert (now.question, now.history) == (asked.question, asked.history)
    assert changed(asked, {}) == asked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": "red"}, "'colour' is nothing that a question"),
        ({"limit": "many"}, "limit must be a whole number"),
        ({"limit": True}, "limit must be a whole number"),
        ({"filter": "author=x"}, "filter must be an object"),
        ({"question": 3}, "question must be a text"),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(changes, said):
    with pytest.raises(InvalidInput, match=said):
        changed(Asked("q"), changes)


def test_a_wrong_value_is_refused_as_when_asked(lighthouse):
    with pytest.raises(InvalidInput, match="temperature must be"):
        again(lighthouse, Asked(ASKED, "lighthouse"), temperature=9.0)
    with pytest.raises(InvalidInput, match="rerank_limit must be"):
        again(lighthouse, Asked(ASKED, "lighthouse"), rerank_limit="all")
