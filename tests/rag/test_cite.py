"""Quotes are exactly what the documents say; markers point at something or go."""

import pytest

from rag.cite import Quote, cite, sentences_of
from rag.types import Context, Passage, Scores

FIRST = "Bell Rock is off Scotland. Stevenson built the Bell Rock lighthouse by 1810."
SECOND = "The Eddystone lies off Plymouth. Smeaton finished his Eddystone tower in 1759."


def passage(number: int, text: str, start: int = 0) -> Passage:
    return Passage(
        number=number,
        document_id=f"d{number}",
        title="T",
        text=text,
        start=start,
        end=start + len(text),
        tokens=10,
        page=None,
        headings=(),
        source="",
        scores=Scores(),
    )


CONTEXT = Context((passage(1, FIRST), passage(2, SECOND, start=1000)), 20)


def test_a_marker_becomes_the_sentence_with_the_claims_words():
    cited = cite("Smeaton finished the tower in 1759 [2].", CONTEXT)
    assert cited.text == "Smeaton finished the tower in 1759 [2]."
    (citation,) = cited.citations
    assert citation.quote == "Smeaton finished his Eddystone tower in 1759."
    # The sentence starts at character 33 of a passage that starts at 1000.
    assert (citation.start, citation.end) == (1033, 1033 + len(citation.quote))
    assert citation.document_id == "d2"


def test_a_marker_behind_the_full_stop_belongs_to_the_sentence_before():
    cited = cite("Stevenson built the Bell Rock. [1] Smeaton built Eddystone. [2]", CONTEXT)
    assert [c.marker for c in cited.citations] == [1, 2]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        (
            "Lit in May. [1] Painted red. [2] Gone.",
            ["Lit in May. [1] ", "Painted red. [2] ", "Gone."],
        ),
        ("Lit in 1811. [1]\nPainted red [2].", ["Lit in 1811. [1]\n", "Painted red [2]."]),
        ("Lit in May. [1] [2]", ["Lit in May. [1] [2]"]),
        ("[1] Lit in May.", ["[1] Lit in May."]),
        ("[1]", ["[1]"]),
        ("", [""]),
    ],
)
def test_each_sentence_keeps_its_own_markers(text, sentences):
    assert list(sentences_of(text)) == sentences


def test_a_sentence_between_others_is_judged_alone():
    """Nothing says that penguins dance, whatever stands before and after it."""
    cited = cite("Stevenson built the Bell Rock. [1] Penguins dance. [2]", CONTEXT)
    assert [c.marker for c in cited.citations] == [1]
    assert cited.text.endswith("Penguins dance.")


def test_dangling_markers_go_and_are_reported():
    cited = cite("Stevenson built the Bell Rock [1, 7]. Nobody knows [9].", CONTEXT)
    assert cited.text == "Stevenson built the Bell Rock [1]. Nobody knows."
    assert [cut.what for cut in cited.cuts] == ["[7]", "[9]"]


def test_a_passage_that_shares_no_word_is_no_proof():
    cited = cite("Penguins dance [2].", CONTEXT)
    assert cited.citations == ()
    assert cited.text == "Penguins dance."
    assert "shares no word" in cited.cuts[0].why


def test_a_sentence_without_a_marker_is_attributed_when_its_words_stand_somewhere():
    cited = cite("Stevenson built the Bell Rock lighthouse.", CONTEXT)
    assert cited.text == "Stevenson built the Bell Rock lighthouse. [1]"
    assert cited.notes == ("1 sentences were attributed by their words",)
    assert cite("Something else entirely happened.", CONTEXT).citations == ()


def test_known_quotes_are_taken_as_they_are():
    """A quoted sentence may hold a bracketed number of its own, which is no marker."""
    source = passage(1, "See [12] for the tower.")
    cited = cite("See [12] for the tower. [1]", CONTEXT, [Quote(source, 0, 23)])
    assert cited.text == "See [12] for the tower. [1]"
    assert cited.citations[0].quote == "See [12] for the tower."
