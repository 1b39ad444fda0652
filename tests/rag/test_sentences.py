import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.sentences import sentence_spans


def sentences(text):
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ('She said "Stop!" Then he left.', ['She said "Stop!"', "Then he left."]),
        ("He left (at last.) “So what?”", ["He left (at last.)", "“So what?”"]),
        ("It is 3.5 m. 36 steps lead up.", ["It is 3.5 m.", "36 steps lead up."]),
        ("Dr. J. R. Smith met Mrs. Jones.", ["Dr. J. R. Smith met Mrs. Jones."]),
        ("See Fig. 3, No. 5 and p. 12. Then rest.", ["See Fig. 3, No. 5 and p. 12.", "Then rest."]),
        ("No. It is not.", ["No.", "It is not."]),
        ("Use light, e.g. Oil lamps, i.e. Fire.", ["Use light, e.g. Oil lamps, i.e. Fire."]),
        ("Lit ca. 280 BC. It fell.", ["Lit ca. 280 BC.", "It fell."]),
        ("The U.S. Navy came.", ["The U.S. Navy came."]),
        ("He lives in the U.S. The end.", ["He lives in the U.S.", "The end."]),
        ("Lamps, lenses, etc. They shine.", ["Lamps, lenses, etc.", "They shine."]),
        ("Acme Inc. Ltd. Smith sells approx. 5.", ["Acme Inc. Ltd. Smith sells approx. 5."]),
        ("Smith et al. (2019) agree.", ["Smith et al. (2019) agree."]),
        ("St. Kilda is far. Go.", ["St. Kilda is far.", "Go."]),
        ("It ended... and began. it went on.", ["It ended... and began. it went on."]),
        ("Am 3. Oktober 1990 war es, z. B. Berlin.", ["Am 3. Oktober 1990 war es, z. B. Berlin."]),
        ("Lit in 1811. The sea rose.", ["Lit in 1811.", "The sea rose."]),
        ("1. First item. 2. Second item.", ["1. First item.", "2. Second item."]),
        ("今天很好。真的吗？是的！走吧", ["今天很好。", "真的吗？", "是的！", "走吧"]),
        ("「海だ。」と彼は言った。", ["「海だ。」", "と彼は言った。"]),
        ("هذا بيت. وهذا بحر.", ["هذا بيت.", "وهذا بحر."]),
        (
            "Visit example.org. Then e-mail a.b@c.de now.",
            ["Visit example.org.", "Then e-mail a.b@c.de now."],
        ),
        ("", []),
        (" \n\t ", []),
        ("...", ["..."]),
    ],
)
def test_within_a_line(text, expected):
    assert sentences(text) == expected


LONG = "This line is certainly long enough to have been wrapped by"


def test_a_soft_wrap_is_inside_a_sentence():
    assert sentences(f"{LONG}\nan editor. And so on.") == [f"{LONG}\nan editor.", "And so on."]


def test_an_abbreviation_at_the_end_of_a_wrapped_line():
    text = f"{LONG} the famous Dr.\nWatson of London."
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "A short line\nfollowed by another",  # the author ended it
        f"{LONG}:\nan example",
        f"{LONG}.\nAnother sentence",
        f"{LONG}\n- an item",
        f"{LONG}\n2. an item",
        f"{LONG}\n# A heading",
        f"{LONG}\n\na paragraph",
        f"{LONG}\n  \t\na paragraph",
        f"Name: Bell Rock | Height: 36 | Lit: 1811 | {LONG}\nname: Skerryvore",
        f"{LONG}\nName: Skerryvore | Height: 48",
    ],
)
def test_hard_breaks_end_sentences(text):
    assert sentences(text) == [part.strip() for part in re.split(r"\n\s*\n|\n", text)]


def test_a_table_row_is_one_sentence():
    row = "Name: Bell Rock | Note: It stands. It shines. | Lit: 1811"
    assert sentences(f"{row}\n{row}") == [row, row]


def test_headings_and_items_of_parsed_text():
    text = "Bell Rock\n\nIt stands. It shines.\n\n- lamp\n- lens"
    assert sentences(text) == ["Bell Rock", "It stands.", "It shines.", "- lamp", "- lens"]


PIECES = st.lists(
    st.sampled_from(
        [
            ". ",
            "\n",
            "\n\n",
            "Dr. ",
            "U.S. ",
            "word ",
            "Word",
            LONG,
            "。",
            " | ",
            "\u3000",
            "1. ",
            "- ",
            '"',
            ")",
            "? ",
        ]
    )
).map("".join)


@given(text=st.text() | PIECES)
def test_spans_cover_every_visible_character_once_and_in_order(text):
    spans = sentence_spans(text)
    end = 0
    for start, stop in spans:
        assert end <= start < stop
        assert text[end:start].strip() == ""
        assert text[start:stop] == text[start:stop].strip()
        end = stop
    assert text[end:].strip() == ""


@given(text=PIECES)
def test_a_blank_line_is_always_a_boundary(text):
    assert all(re.search(r"\n\s*\n", sentence) is None for sentence in sentences(text))


@given(text=PIECES)
def test_a_sentence_alone_starts_and_ends_where_it_did(text):
    for sentence in sentences(text):
        inner = sentence_spans(sentence)
        assert inner[0][0] == 0
        assert inner[-1][1] == len(sentence)


@pytest.mark.parametrize(
    "text",
    [
        "The lighthouse was built by Dr. R. Stevenson, cf. Fig. 2, in the U.S. in May. " * 13_000,
        "." * 1_000_000 + "x",
        "a. " * 330_000,
        "X. " + " " * 900_000 + "y. a. b.",
        (LONG + "\n") * 17_000,
        "(“a.”) " * 140_000,
    ],
    ids=["prose", "dots", "stops", "spaces", "wrapped", "quotes"],
)
def test_a_megabyte_takes_less_than_a_second(text):
    started = time.thread_time()  # other work on the machine does not count
    sentence_spans(text)
    assert time.thread_time() - started < 1.0
