"""Feedback on real answers over the sample documents, as a test collection."""

import io

import pytest
from rich.console import Console

from eval.datasets import load_judgements
from eval.feedback import judgements, write
from rag import collection as shelf
from rag.errors import InvalidInput, NotFound
from rag.sources import Source

TEXTS = {
    "bell": "The Bell Rock Lighthouse was first lit on the first of February 1811.",
    "smalls": "The Smalls Lighthouse stands west of Pembrokeshire. Henry Whiteside built it.",
}


@pytest.fixture
def asked(rag):
    """Asks a question and rates the answer."""
    shelf.ensure(rag.parts, rag.scope, "default")
    for name, text in TEXTS.items():
        rag.add(Source(name=name, origin=name, id=name, text=text))

    def ask(question, rating, **more):
        answer = rag.ask(question, limit=2)
        rag.parts.traces.say(rag.scope, answer.trace_id, rating, **more)
        return answer

    return ask


def test_a_thumbs_up_judges_what_was_cited(rag, asked):
    answer = asked("When was the Bell Rock Lighthouse first lit?", "up")
    found, left_out = judgements(rag, "default")
    assert found.queries == {answer.trace_id: "When was the Bell Rock Lighthouse first lit?"}
    assert found.qrels[answer.trace_id] == dict.fromkeys(
        {one.document_id for one in answer.citations}, 1
    )
    assert found.answers[answer.trace_id] == [one.quote for one in answer.citations]
    assert left_out == {}


def test_a_correction_judges_the_documents_that_hold_it(rag, asked):
    answer = asked("Who built a lighthouse?", "down", correction="It was built by Henry Whiteside")
    found, _ = judgements(rag, "default")
    assert found.qrels == {answer.trace_id: {"smalls": 1}}
    assert found.answers == {answer.trace_id: ["It was built by Henry Whiteside"]}


def test_the_latest_rating_of_a_question_counts_and_what_says_nothing_is_counted(rag, asked):
    asked("Who built the Smalls?", "up")
    asked("who built  the smalls?", "down")
    asked("Who lit the Bell Rock?", "down", correction="Nobody knows, for the diaries burnt")
    with pytest.raises(InvalidInput, match="No feedback"):
        judgements(rag, "default")
    asked("When was the Bell Rock lit?", "up")
    _, left_out = judgements(rag, "default")
    assert left_out == {
        "a thumbs down without a correction": 1,
        "a correction that no passage found holds": 1,
    }


def test_the_set_can_be_read_again(rag, asked, tmp_path):
    asked("When was the Bell Rock Lighthouse first lit?", "up")
    said = io.StringIO()
    write(Console(file=said), rag, "default", tmp_path / "set")
    read = load_judgements(tmp_path / "set")
    assert list(read.queries.values()) == ["When was the Bell Rock Lighthouse first lit?"]
    assert "1 questions that readers rated" in said.getvalue()
    with pytest.raises(InvalidInput, match="holds a set already"):
        write(Console(file=said), rag, "default", tmp_path / "set")
    with pytest.raises(NotFound):
        judgements(rag, "none")
