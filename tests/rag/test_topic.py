"""Follow-ups completed by rules; each case is what a person would have meant."""

import pytest

from rag.topic import TURNS, leans, with_topic
from rag.types import Message

TALK = (
    Message("system", "Be brief about The Great Exhibition."),
    Message("user", "Who built the Bell Rock lighthouse?"),
    Message("assistant", "It was built by Robert Stevenson in February 1811."),
)


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        ("when was it lit?", "when was it lit? Bell Rock"),
        ("and the height?", "and the height? Bell Rock"),
        ("What else did he build?", "What else did he build? Bell Rock Robert Stevenson"),
        ("who was the engineer", "who was the engineer Bell Rock"),
        ("Why?", "Why? Bell Rock"),
        ("And Bell Rock's height?", "And Bell Rock's height?"),
    ],
)
def test_a_question_that_leans_is_completed(question, asked):
    assert with_topic(question, TALK) == asked


@pytest.mark.parametrize(
    "question",
    [
        "How many keepers lived at Fastnet?",
        "how is bread baked?",
        "Is there a lighthouse at Cape Hatteras?",
        "Was Fresnel rewarded for it?",  # it names what it is about
        "What did keepers do in their spare time?",  # whose it is stands in the question
        "which fuels burn without smoke",
    ],
)
def test_a_question_that_stands_alone_is_left_alone(question):
    assert not leans(question)
    assert with_topic(question, TALK) == question


def test_a_topic_is_handed_on_through_follow_ups():
    talk = [*TALK, Message("user", "when was it lit?"), Message("assistant", "In 1811.")]
    assert with_topic("and how tall is it?", talk) == "and how tall is it? Bell Rock"
    assert with_topic("where was he born?", talk) == "where was he born? Bell Rock Robert Stevenson"


def test_another_subject_takes_its_place():
    talk = [*TALK, Message("user", "How did Winstanley die?"), Message("assistant", "In a storm.")]
    assert with_topic("when was that?", talk) == "when was that? Winstanley"


def test_a_question_without_names_hands_on_its_words():
    talk = [Message("user", "which fuels burn without smoke"), Message("assistant", "Colza oil.")]
    assert with_topic("is it dear?", talk) == "is it dear? fuels burn without smoke"


def test_a_long_conversation_is_read_from_its_end():
    talk = [*TALK, *[Message("user", "and then?")] * TURNS]
    assert with_topic("why?", talk[:-1]) == "why? Bell Rock"
    assert with_topic("why?", talk) == "why?", "its topic is too long ago"


def test_without_history_there_is_no_topic():
    assert with_topic("when was it lit?", []) == "when was it lit?"
    assert with_topic("when?", [Message("system", "Answer in French.")]) == "when?"
