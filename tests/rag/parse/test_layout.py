"""Pages are drawn by hand: y grows upwards, a line is 10 points high, a character 5 wide."""

from dataclasses import replace

import pytest

from rag.parse.layout import HYPHEN, Block, Bookmark, Line, arrange

LONG = "The tower was built on a reef in the sea"  # 40 characters: the column is 200 points wide


def line(text, top, left=0.0, size=10.0, **more):
    return Line(text, left, left + 5 * len(text.rstrip(HYPHEN)), top - size, top, size, **more)


def lines(*texts, top=700.0, leading=12.0, **more):
    return [line(text, top - leading * position, **more) for position, text in enumerate(texts)]


def texts(*pages, outline=()):
    return [[block.text for block in blocks] for blocks in arrange(pages, outline)]


def test_wrapped_lines_are_joined():
    assert texts(lines(LONG, LONG, "and lit in 1811.")) == [[f"{LONG} {LONG} and lit in 1811."]]


def test_a_wide_gap_parts_paragraphs():
    page = lines(LONG, LONG) + lines(LONG, "end.", top=660.0)
    assert texts(page) == [[f"{LONG} {LONG}", f"{LONG} end."]]


def test_a_short_line_with_a_full_stop_ends_its_paragraph():
    assert texts(lines(LONG, "It stands.", "Another " + LONG[8:])) == [
        [f"{LONG} It stands.", "Another " + LONG[8:]]
    ]


def test_a_short_line_without_one_is_a_hard_break():
    assert texts(lines(LONG, "12 High Street", "Oban")) == [[f"{LONG} 12 High Street\nOban"]]


def test_an_indented_first_line_begins_a_paragraph():
    end = LONG[:-1] + "."
    page = [*lines(LONG, end), line("Next one begins with an indent here", 676, left=15)]
    assert texts(page) == [[f"{LONG} {end}", "Next one begins with an indent here"]]


@pytest.mark.parametrize(
    ("elsewhere", "start", "end", "word"),
    [
        ("", "light" + HYPHEN, "house", "lighthouse"),
        ("self-locking", "self" + HYPHEN, "locking", "self-locking"),
        ("", "Anglo" + HYPHEN, "Saxon", "Anglo-Saxon"),
        ("", "1914" + HYPHEN, "1918", "1914-1918"),
        ("", "light-", "house", "lighthouse"),  # where PDFium saw no break
    ],
)
def test_broken_words_are_mended_as_the_document_writes_them(elsewhere, start, end, word):
    first = f"{LONG} {start}"
    page = lines(f"{elsewhere} {first}".strip(), f"{end} {LONG}")
    assert texts(page) == [[f"{elsewhere} {LONG} {word} {LONG}".strip()]]


def test_bullets_become_items():
    page = lines("• a lamp", "• a lens that is", "heavy", "- a dash")
    blocks = arrange([page], [])[0]
    assert blocks == [
        Block("a lamp", is_item=True),
        Block("a lens that is heavy", is_item=True),
        Block("a dash", is_item=True),
    ]


def test_a_dash_that_opens_a_wrapped_line_is_prose():
    assert texts(lines(LONG, "– and far from land –")) == [[f"{LONG} – and far from land –"]]


def test_rows_of_a_table_stay_lines():
    page = [replace(row, tabular=True) for row in lines("OTSL 0.96 2.73", "HTML 0.96 5.39")]
    assert texts(page) == [["OTSL 0.96 2.73\nHTML 0.96 5.39"]]


def test_a_raised_mark_does_not_part_its_line():
    page = [
        line("The lamp", 700),
        Line("2", 40, 43, 693, 701, 6.0),
        line(", in 1811.", 700, left=43),
    ]
    assert texts(page) == [["The lamp2, in 1811."]]


def test_a_sentence_runs_on_into_the_next_column_but_a_new_one_does_not():
    left = lines(LONG, LONG, top=100)
    right = [replace(part, left=300, right=500) for part in lines("and " + LONG[4:], LONG)]
    assert texts(left + right) == [[f"{LONG} {LONG} and {LONG[4:]} {LONG}"]]
    stop = [replace(part, text=LONG[:-1] + ".") for part in left]
    assert len(texts(stop + right)[0]) == 2


def test_a_sentence_runs_on_over_the_page():
    first, second = lines(LONG, LONG), lines("and so it is that " + LONG[10:])
    assert [b.continues for blocks in arrange([first, second], []) for b in blocks] == [False, True]
    capital = lines("And so it is that " + LONG[10:])
    assert not arrange([first, capital], [])[1][0].continues


def test_chinese_is_joined_without_spaces_and_korean_where_its_lines_say_so():
    chinese = "灯塔建在海中的礁石上面已经很多年了"
    assert texts(lines(chinese, chinese)) == [[chinese * 2]]
    korean = "등대는 바다 위의 바위에 세워졌다고 합니"
    assert texts(lines(korean, korean + " ", korean)) == [[f"{korean}{korean} {korean}"]]


def test_large_type_makes_headings_ranked_by_size():
    page = [
        line("Lighthouses", 760, size=20),
        line("Bell Rock", 730, size=14),
        *lines(LONG, LONG, LONG),
    ]
    assert [(b.level, b.text) for b in arrange([page], [])[0]][:2] == [
        (1, "Lighthouses"),
        (2, "Bell Rock"),
    ]


def test_bold_makes_a_heading_only_of_numbered_or_larger_lines():
    numbered = line("1.2 Method", 730, bold=True)
    name = line("Ann Miller", 745, bold=True)
    blocks = arrange([[name, numbered, *lines(LONG, LONG, LONG)]], [])[0]
    assert [b.text for b in blocks if b.level] == ["1.2 Method"]


def test_a_poster_has_no_headings():
    page = [line("LARGE TYPE ALL OVER", 700 - 30 * n, size=24) for n in range(3)] + lines(LONG)
    assert not any(block.level for block in arrange([page], [])[0])


def test_a_heading_of_two_lines_is_one():
    page = [
        line("A very long", 760, size=20),
        line("title", 738, size=20),
        *lines(LONG, LONG, LONG),
    ]
    assert texts(page)[0][0] == "A very long title"


def test_the_outline_names_the_headings():
    page = lines("7 1.1 LAMP", LONG, "1.1 The", "Lamp", LONG)
    outline = [Bookmark("The lamp", 0, 2), Bookmark("Lamp", 5, 1), Bookmark("", 0, 1)]
    blocks = arrange([page], outline)[0]
    assert [(b.level, b.text) for b in blocks if b.level] == [(2, "1.1 The Lamp")]


def test_of_two_matches_the_one_with_less_numbering_wins():
    page = lines("17 2. Height", LONG, "2. Height", LONG)
    headings = [b.text for b in arrange([page], [Bookmark("2. Height", 0, 1)])[0] if b.level]
    assert headings == ["2. Height"]


def test_nothing_comes_of_nothing():
    assert arrange([], []) == []
    assert arrange([[], []], [Bookmark("x", 0, 1)]) == [[], []]
