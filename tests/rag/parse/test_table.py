import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rag.parse.table import is_numeric, looks_like_header, table_lines

TOWERS = [
    ["Lighthouse", "Height (m)", "First lit"],
    ["Bell Rock", "36", "1811"],
    ["Skerryvore", "48", "1844"],
]


def test_every_row_can_be_quoted_alone():
    assert table_lines(TOWERS) == [
        "Lighthouse: Bell Rock | Height (m): 36 | First lit: 1811",
        "Lighthouse: Skerryvore | Height (m): 48 | First lit: 1844",
    ]


def test_empty_cells_are_left_out_and_line_breaks_become_spaces():
    rows = [TOWERS[0], ["Bell\nRock", "", "1811"], ["Skerryvore", "48", ""]]
    assert table_lines(rows) == [
        "Lighthouse: Bell Rock | First lit: 1811",
        "Lighthouse: Skerryvore | Height (m): 48",
    ]


def test_without_a_header_values_are_joined():
    assert table_lines([["1", "2"], ["3", ""]]) == ["1 | 2", "3"]
    assert table_lines(TOWERS, header=False)[1] == "Bell Rock | 36 | 1811"


def test_a_form_of_two_columns_has_no_header():
    assert table_lines([["Name", "Ann"], ["City", "Oslo"]]) == ["Name | Ann", "City | Oslo"]


def test_two_columns_with_numbers_below_a_word_have_one():
    rows = [["Item", "Count"], ["Lamps", "3"], ["Lenses", "12"]]
    assert table_lines(rows) == ["Item: Lamps | Count: 3", "Item: Lenses | Count: 12"]


def test_a_caption_above_the_header_stands_first():
    assert table_lines([["Northern towers", "", ""], *TOWERS])[:2] == [
        "Northern towers",
        "Lighthouse: Bell Rock | Height (m): 36 | First lit: 1811",
    ]


def test_columns_without_values_do_not_lose_their_names():
    rows = [["Name", "Height", "Keeper"], ["Bell Rock", "36", ""]]
    assert table_lines(rows, header=True) == [
        "Name | Height | Keeper",
        "Name: Bell Rock | Height: 36",
    ]


def test_values_beyond_the_header_and_below_nameless_columns_stand_alone():
    rows = [["Name", "-", "Height"], ["Bell Rock", "x", "36", "extra"]]
    assert table_lines(rows, header=True) == ["Name: Bell Rock | x | Height: 36 | extra"]


def test_a_header_alone_is_a_row():
    assert table_lines([["Name", "Height"]], header=True) == ["Name | Height"]


@pytest.mark.parametrize("rows", [[], [[]], [["", " "], [""]]])
def test_nothing_comes_of_nothing(rows):
    assert table_lines(rows) == []


@pytest.mark.parametrize(
    "first",
    [
        ["Bell Rock", "36", "1811"],  # numbers
        ["Name", "Name", "Year"],  # a repeated word
        ["It stands on a reef.", "Built by Stevenson.", "Open."],  # sentences
        ["Name", "", ""],  # too few
    ],
)
def test_rows_that_are_no_header(first):
    assert not looks_like_header([first, ["a", "b", "c"], ["d", "e", "f"]])


@pytest.mark.parametrize(
    "cell", ["36", "-3.5", "1,234.50", "$12,500.00", "95 %", "2024-10-30", "12:30", "(4.2)", "€3"]
)
def test_numbers_as_people_write_them(cell):
    assert is_numeric(cell)


@pytest.mark.parametrize("cell", ["", "abc", "36 m", "Q3", "-", "v2.0"])
def test_words_are_not_numeric(cell):
    assert not is_numeric(cell)


CELLS = st.just("") | st.from_regex(r"[ab1][ab1:.| \n-]{0,7}", fullmatch=True)


@given(
    rows=st.lists(st.lists(CELLS, max_size=5), max_size=6),
    header=st.sampled_from([True, False, None]),
)
@example(rows=[["1"], ["1", "11:"], ["1"]], header=True)  # a caption above the header
def test_no_value_is_lost_and_no_line_is_broken(rows, header):
    lines = table_lines(rows, header=header)
    assert all(line and "\n" not in line for line in lines)
    everything = "\n".join(lines)
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    assert all(cell.removesuffix(":") in everything for row in cells for cell in row)
    # One row, the first or the one below captions, may be the header: it drops colons at its ends.
    changed = [row for row in cells if not all(cell in everything for cell in row)]
    assert len(changed) <= 1
