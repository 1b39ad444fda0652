"""Quotes are exactly what the documents say; markers point at something or go."""

import pytest

from rag import cite as module
from rag.check import Checker
from rag.cite import cite_quotes, sentences_of
from rag.prompt import NO_ANSWER
from rag.types import Context, Quote
from tests.rag.passages import passage

FIRST = "Bell Rock is off Scotland. Stevenson built the Bell Rock lighthouse by 1810."
SECOND = "The Eddystone lies off Plymouth. Smeaton finished his Eddystone tower in 1759."


WORDS = Checker.by_words()


def cite(text, context, policy="mark"):
    return module.cite(text, context, WORDS, policy)


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
    assert all("no passage of this number" in cut.why for cut in cited.cuts)


def test_a_passage_that_does_not_support_a_sentence_loses_its_marker():
    cited = cite("Penguins dance on ice [2].", CONTEXT)
    assert cited.citations == ()
    assert cited.text == "Penguins dance on ice."
    (sentence,) = cited.sentences
    assert (sentence.supported, sentence.markers) == (False, ())
    assert sentence.support < WORDS.calibration.threshold
    (cut,) = cited.cuts
    assert (cut.what, "is needed" in cut.why) == ("[2]", True)
    assert cited.notes == ("1 sentences that no passage supports were marked",)


def test_of_two_markers_the_one_that_holds_stays():
    cited = cite("Smeaton finished the tower in 1759 [1][2].", CONTEXT)
    assert cited.text == "Smeaton finished the tower in 1759 [2]."
    assert [cut.what for cut in cited.cuts] == ["[1]"]


def test_a_sentence_that_joins_two_passages_keeps_both():
    joined = (
        "Stevenson built the Bell Rock lighthouse by 1810 and Smeaton his tower in 1759 [1][2]."
    )
    cited = cite(joined, CONTEXT)
    assert cited.text == joined
    assert [one.marker for one in cited.citations] == [1, 2]
    assert cited.sentences[0].markers == (1, 2)


def test_only_a_sentence_that_points_at_both_is_checked_against_two_passages_together():
    """Neither says it alone: no marker could be right for it."""
    joined = "Stevenson built Bell Rock lighthouse by 1810, Smeaton his tower in 1759."
    cited = cite(joined, CONTEXT)
    assert (cited.text, cited.citations) == (joined, ())
    assert cited.sentences[0].supported is False


def test_of_three_markers_the_best_two_are_taken_together():
    third = Context((passage(3, "Bread is baked from flour."), *CONTEXT.passages), 30)
    joined = "Stevenson built Bell Rock lighthouse by 1810, Smeaton his tower in 1759 [3][1][2]."
    cited = cite(joined, third)
    assert [one.marker for one in cited.citations] == [1, 2]
    assert [cut.what for cut in cited.cuts] == ["[3]"]


def test_a_sentence_without_a_marker_is_given_one_where_a_passage_supports_it():
    cited = cite("Stevenson built the Bell Rock lighthouse.", CONTEXT)
    assert cited.text == "Stevenson built the Bell Rock lighthouse. [1]"
    assert cited.notes == ("1 sentences without a citation were given one",)
    assert cite("Something else entirely happened.", CONTEXT).citations == ()


@pytest.mark.parametrize("text", ["Here is what I found:", "Is it tall?", "Yes.", NO_ANSWER])
def test_what_claims_nothing_is_not_checked(text):
    cited = cite(text, CONTEXT)
    assert cited.text == text
    assert all(one.supported is None for one in cited.sentences)


MIXED = "Smeaton finished the tower in 1759 [2]. Penguins dance on ice [1]."


def test_policies_decide_what_becomes_of_unsupported_sentences():
    assert cite(MIXED, CONTEXT).text == (
        "Smeaton finished the tower in 1759 [2]. Penguins dance on ice."
    )
    dropped = cite(MIXED, CONTEXT, "drop")
    assert dropped.text.strip() == "Smeaton finished the tower in 1759 [2]."
    assert any("Penguins" in cut.what for cut in dropped.cuts)
    taken_back = cite(MIXED, CONTEXT, "abstain")
    assert (taken_back.text, taken_back.citations) == (NO_ANSWER, ())
    assert cite("Penguins dance on ice [1].", CONTEXT, "drop").text == NO_ANSWER
    fine = "Smeaton finished the tower in 1759 [2]."
    assert cite(fine, CONTEXT, "abstain").text == fine


def test_sentences_say_where_they_stand_in_the_text():
    cited = cite(f"Well: {MIXED}\n\nIs that all?", CONTEXT)
    found = [cited.text[one.start : one.end] for one in cited.sentences]
    assert found[-2:] == ["Penguins dance on ice.", "Is that all?"]
    assert [one.supported for one in cited.sentences] == [True, False, None]


def test_known_quotes_are_taken_as_they_are():
    """A quoted sentence may hold a bracketed number of its own, which is no marker."""
    source = passage(1, "See [12] for the tower.")
    cited = cite_quotes("See [12] for the tower. [1]", [Quote(source, 0, 23)], str)
    assert cited.text == "See [12] for the tower. [1]"
    assert cited.citations[0].quote == "See [12] for the tower."
    (sentence,) = cited.sentences
    assert (sentence.start, sentence.end, sentence.supported) == (0, 23, True)
