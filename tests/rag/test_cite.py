import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.cite import Quote, best_quote, cite, content_words
from rag.types import Context, Cut, Passage, Scores

ROCK = "The light was first lit in 1811. Stevenson built it of granite. It still stands."
EDDY = "Smeaton built the Eddystone tower. Its keepers lit candles."


def passage(number, text, start=0, **more):
    return Passage(
        number=number,
        document_id=f"d{number}",
        title=f"Title {number}",
        text=text,
        start=start,
        end=start + len(text),
        tokens=0,
        page=4,
        headings=("Top",),
        source=f"{number}.txt",
        scores=Scores(fused=number / 10),
        **more,
    )


CONTEXT = Context((passage(1, ROCK, 100), passage(2, EDDY, 7)), 0)


def test_a_marker_becomes_the_sentence_that_says_it():
    cited = cite("Stevenson built the tower [1].", CONTEXT)
    assert cited.text == "Stevenson built the tower [1]."
    (one,) = cited.citations
    # Of stevenson, built, tower the second sentence has two thirds; it begins at 100 + 33.
    assert one.quote == "Stevenson built it of granite."
    assert (one.start, one.end) == (133, 163)
    assert ROCK[one.start - 100 : one.end - 100] == one.quote
    assert (one.marker, one.document_id, one.title, one.source) == (1, "d1", "Title 1", "1.txt")
    assert (one.page, one.headings, one.scores) == (4, ("Top",), Scores(fused=0.1))
    assert (cited.cuts, cited.notes) == ((), ())


def test_a_pointer_to_nothing_is_taken_out_and_reported():
    cited = cite("Stevenson built it [1]. He was paid well [7].", CONTEXT)
    assert cited.text == "Stevenson built it [1]. He was paid well."
    assert cited.cuts == (Cut("[7]", "there is no passage of this number"),)
    assert [c.marker for c in cited.citations] == [1]


def test_several_markers_are_kept_each_with_its_quote():
    for given_text in ("Towers were built [1][2].", "Towers were built [1, 2]."):
        cited = cite(given_text, CONTEXT)
        assert cited.text == "Towers were built [1][2]."
        assert [(c.marker, c.quote) for c in cited.citations] == [
            (1, "Stevenson built it of granite."),
            (2, "Smeaton built the Eddystone tower."),
        ]


def test_of_several_markers_only_the_wrong_one_goes():
    cited = cite("Towers were built [1; 9].", CONTEXT)
    assert cited.text == "Towers were built [1]."
    assert [cut.what for cut in cited.cuts] == ["[9]"]


def test_a_marker_whose_passage_shares_no_word_is_taken_out():
    cited = cite("Bananas ripen slowly [2].", CONTEXT)
    assert cited.text == "Bananas ripen slowly."
    assert cited.citations == ()
    assert cited.cuts == (Cut("[2]", "its passage shares no word with 'Bananas ripen slowly.'"),)


def test_a_marker_behind_the_full_stop_belongs_to_the_sentence_before_it():
    cited = cite("Stevenson built it. [1] Bananas ripen slowly.", CONTEXT)
    assert cited.text == "Stevenson built it. [1] Bananas ripen slowly."
    assert [c.quote for c in cited.citations] == ["Stevenson built it of granite."]
    assert cited.cuts == ()


def test_a_sentence_without_a_marker_gets_one_when_a_passage_says_it():
    # keepers, lit, candles: all of them are in the last sentence of passage 2.
    cited = cite("The keepers lit candles.", CONTEXT)
    assert cited.text == "The keepers lit candles. [2]"
    assert [c.quote for c in cited.citations] == ["Its keepers lit candles."]
    assert cited.notes == ("1 sentences were attributed by their words",)


@pytest.mark.parametrize(
    ("claim", "marked"),
    [
        ("Keepers lit four candles.", True),  # 3 of 4 words, 0.75 > 0.74
        ("Keepers burned candles.", False),  # 2 of 3
    ],
)
def test_attribution_needs_nearly_all_words(claim, marked):
    assert cite(claim, CONTEXT).text == (f"{claim} [2]" if marked else claim)


def test_a_marked_sentence_is_not_attributed_as_well():
    # Passage 2 says it word for word, but the answer points at 1, which shares `lit`.
    cited = cite("The keepers lit candles [1].", CONTEXT)
    assert [c.marker for c in cited.citations] == [1]
    assert cited.notes == ()


def test_the_same_proof_is_listed_once():
    cited = cite("Stevenson built it [1]. It is of granite [1].", CONTEXT)
    assert [c.quote for c in cited.citations] == ["Stevenson built it of granite."]


def test_white_space_between_sentences_is_kept():
    text = "Stevenson built it [1].\n\nKeepers lit candles [2]."
    assert cite(text, CONTEXT).text == text


def test_known_quotes_need_no_search():
    text = "It still stands. [1]"
    cited = cite(text, CONTEXT, [Quote(CONTEXT.passages[0], 64, 80)])
    assert cited.text == text
    assert [(c.quote, c.start, c.end) for c in cited.citations] == [("It still stands.", 164, 180)]


def test_ties_go_to_the_shorter_sentence():
    text = "Lamps burned whale oil every night. Lamps burned."
    quote = best_quote("Lamps burned.", [passage(1, text)])
    assert text[quote.start : quote.end] == "Lamps burned."


def test_nothing_to_say_is_cited_by_nothing():
    assert best_quote("It was.", CONTEXT.passages) is None  # stop words only
    assert cite("", CONTEXT).text == ""
    assert cite("Stevenson built it [1].", Context((), 0)).text == "Stevenson built it."


def test_content_words_leave_stop_words_and_case_out():
    assert content_words("The Keeper and the LAMP, 1811") == {"keeper", "lamp", "1811"}


PIECES = st.sampled_from(
    ["Stevenson", "built", "granite", "candles", "keepers", "lit", "x", ".", ". It", " ", "\n\n"]
    + ["[1]", " [2]", "[3]", " [1, 3]", "[2;1]", "[", "]", "[a]", "日本。"]
)


@given(st.lists(PIECES, max_size=25).map(" ".join))
def test_every_quote_is_what_the_passage_says_and_every_marker_left_has_a_proof(text):
    cited = cite(text, CONTEXT)
    passages = {p.number: p for p in CONTEXT.passages}
    for one in cited.citations:
        of = passages[one.marker]
        assert one.quote == of.text[one.start - of.start : one.end - of.start] != ""
    pointed = {n for n in range(1, 10) if f"[{n}]" in cited.text}
    assert pointed == {one.marker for one in cited.citations}
    assert cite(cited.text, CONTEXT).text == cited.text  # checking twice changes nothing
