"""What two indexes are asked, and what is made of their answers."""

import pytest

from rag.builds import Query
from rag.compare import Compared, Comparison, Found, Size, is_worse, question_of, read_queries
from rag.errors import InvalidInput
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


def test_questions_are_headings_and_sentences_in_turn():
    sentences = [f"The lamp of tower {n} was lit in the year 18{n:02}." for n in range(10)]
    text = " ".join(sentences)
    headings = (Heading(0, 1, "Lamps"), Heading(0, 2, "Of the towers"))
    document = Document(text, "T", "text/plain", headings=headings)
    assert question_of(document, 0) == "Of the towers"  # one word asks for nothing
    assert question_of(document, 1) in sentences
    assert question_of(document, 3) in sentences
    assert question_of(document, 1) != question_of(document, 3)
    assert question_of(Document("Fog.", "T", "text/plain"), 0) == "Fog."
