"""What two indexes are asked, and what is made of their answers."""

import pytest

from rag.builds import Query
from rag.compare import Compared, Comparison, Found, Size, is_worse, question_of, read_queries
from rag.errors import InvalidInput
from rag.known_items import Words
from rag.types import Document, Heading

SIZE = Size("m", 10, 4, 160)


def comparison(**among_ten: tuple[float | None, float | None]) -> Comparison:
    modes = {
        mode: Compared(
            None if before is None else Found(before, before, 1.0), Found(after, after, 1.0), 0.5
        )
        for mode, (before, after) in among_ten.items()
    }
    return Comparison(10, 10, True, SIZE, SIZE, modes)


@pytest.mark.parametrize(
    ("dense", "hybrid", "worse"),
    [
        ((0.9, 0.9), (1.0, 1.0), ""),
        ((0.9, 0.88), (1.0, 1.0), ""),  # as much as is allowed
        ((0.9, 0.95), (1.0, 1.0), ""),
        ((0.9, 0.87), (1.0, 1.0), "dense"),
        ((0.9, 0.9), (1.0, 0.97), "hybrid"),
        ((None, 0.1), (None, 0.1), ""),  # nothing to compare with
        ((0.9, None), (0.9, None), ""),  # no query names its document
    ],
)
def test_a_loss_of_recall_speaks_against_it(dense, hybrid, worse):
    # 0.9 - 0.88 is 0.020000000000000018: what is allowed is not refused for its last digits.
    said = is_worse(comparison(dense=dense, hybrid=hybrid), 0.02)
    assert said.partition(" ")[0] == worse


def test_queries_come_as_lines_or_as_json():
    text = """
When was it lit?

{"_id": "q1", "text": "How far is it?", "metadata": {}}
{"text": "Who built\\u2028it?", "documents": ["bell-rock", "fastnet"]}
"""
    assert read_queries(text) == (
        Query("When was it lit?"),
        Query("How far is it?"),
        Query("Who built\u2028it?", ("bell-rock", "fastnet")),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "1 to 10000 queries, not 0"),
        ("fine\n{broken", "Line 2"),
        ('{"title": "x"}', "no text"),
        ('{"text": "x", "documents": "d"}', "not a list"),
        ("x\n" * 10_001, "not 10001"),
    ],
)
def test_wrong_queries_are_refused(text, says):
    with pytest.raises(InvalidInput, match=says):
        read_queries(text)


def test_questions_are_of_every_kind_in_turn():
    text = (
        "The towers\nA fog signal is a device that warns ships by sound. "
        "The lamp of Longstone was lit in 1826 by keepers from Trinity House."
    )
    headings = (Heading(0, 1, "The towers"),)
    document = Document(text, "T", "text/plain", headings=headings)
    collection = Words()
    collection.add(text)
    assert question_of(document, collection, 0) == "The towers"
    assert question_of(document, collection, 1) in {
        "What is a fog signal?",
        "What is a device that warns ships by sound?",
    }
    assert "which year" in question_of(document, collection, 2) or "who or what" in question_of(
        document, collection, 2
    )
    assert question_of(document, collection, 3)


def test_where_no_rule_fits_a_sentence_is_the_question():
    assert question_of(Document("Fog.", "T", "text/plain"), Words(), 0) == "Fog."
