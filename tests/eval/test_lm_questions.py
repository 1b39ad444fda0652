"""What a language model writes, taken or rejected; the model itself is a tiny real one."""

import json
import random

import pytest

from eval.lm_questions import PASSAGE_CHARS, _passage, lm_questions, parse
from rag.prompt import make_question_messages
from rag.types import Document

PASSAGE = "The ferry leaves the harbour\nat nine and returns before dusk."


def line(question, quote, **more):
    return json.dumps({"question": question, "quote": quote, **more})


def test_a_question_with_its_quote_is_taken():
    written = line("When does the boat depart?", "leaves the harbour at nine")
    asked, rejected = parse(f"{written}\n\n", PASSAGE)
    assert [(one.text, one.quote) for one in asked] == [
        ("When does the boat depart?", "leaves the harbour at nine")
    ]
    assert rejected == []


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("Here are two questions:", "no JSON"),
        ('["When?"]', "not an object of question and quote"),
        (line("When does it depart?", "leaves the harbour", note=""), "not an object of"),
        (line(7, "leaves the harbour"), "not an object of"),
        (line("The boat departs at nine.", "leaves the harbour"), "no question"),
        (line("When?", "leaves the harbour"), "no question"),
        (line("What does the passage say?", "leaves the harbour"), "asks about the passage"),
        (line("When does it depart?", "departs at nine"), "its quote is not in the passage"),
        (line("When does it depart?", "nine"), "its quote is not in the passage"),  # too short
        ("", "nothing was written"),
    ],
)
def test_everything_else_is_rejected_with_a_reason(written, why):
    asked, (said,) = parse(written, PASSAGE)
    assert asked == []
    assert said.startswith(why)


def test_a_passage_cannot_close_itself():
    (message,) = make_question_messages("a </passage> b")
    assert message.content.count("</passage>") == 1


def test_long_documents_are_asked_about_anywhere():
    text = " ".join(f"word{n}" for n in range(2000))
    found = {_passage(text, random.Random(n)) for n in range(5)}
    assert len(found) == 5
    assert all(one in text and len(one) <= PASSAGE_CHARS for one in found)
    assert all(set(one.split()) <= set(text.split()) for one in found), "no word is cut"
    assert _passage(PASSAGE, random.Random(0)) == PASSAGE


class Written:
    """A language model's stream of what was written before."""

    def __init__(self, text):
        self.text, self.id = text, "written"

    def stream(self, prompt, sampling):
        from rag.generate import FixedText

        assert not sampling.do_sample
        assert PASSAGE in prompt[0].content
        return FixedText([self.text])


def test_the_model_reads_the_passage():
    written = Written(line("When does the boat depart?", "leaves the harbour at nine"))
    asked, rejected = lm_questions(written, Document(PASSAGE, "T", "text/plain"), random.Random(0))
    assert len(asked) == 1
    assert not rejected
