import io
from datetime import date, datetime, time, timedelta

import pytest
from openpyxl import Workbook

from rag.errors import EmptyDocument
from rag.parse import parse_document
from rag.parse.sheet import cell_text, number_text


def parsed(workbook):
    buffer = io.BytesIO()
    workbook.save(buffer)
    return parse_document(buffer.getvalue(), name="towers.xlsx")


@pytest.fixture
def book():
    workbook = Workbook()
    workbook.active.title = "Towers"
    return workbook


def fill(sheet, *rows):
    for row in rows:
        sheet.append(row)


def test_every_sheet_is_a_heading_and_every_row_a_line(book):
    fill(book.active, ("Name", "Height", "Lit"), ("Bell Rock", 36.0, date(1811, 2, 1)))
    hidden = book.create_sheet("Hidden")
    hidden.sheet_state = "hidden"
    fill(hidden, ("Name", "Share", "Open"), ("Skerryvore", 0.125, True))
    hidden["B2"].number_format = "0.0%"
    book.create_sheet("Empty")
    document = parsed(book)
    assert document.text == (
        "Towers\n\nName: Bell Rock | Height: 36 | Lit: 1811-02-01\n\n"
        "Hidden\n\nName: Skerryvore | Share: 12.5% | Open: TRUE"
    )
    assert [(h.start, h.title) for h in document.headings] == [(0, "Towers"), (56, "Hidden")]
    assert document.title == "towers"


def test_tables_below_each_other_have_their_own_headers(book):
    fill(
        book.active,
        ("Scottish towers",),
        (),
        ("Name", "Height", "Lit"),
        ("Bell Rock", 36, 1811),
        (),
        ("Keeper", "From", "To"),
        ("Ann", 1900, 1910),
    )
    assert parsed(book).text == (
        "Towers\n\nScottish towers\n\nName: Bell Rock | Height: 36 | Lit: 1811\n\n"
        "Keeper: Ann | From: 1900 | To: 1910"
    )


def test_a_blank_row_inside_a_table_keeps_its_header(book):
    fill(book.active, ("Name", "Height"), ("Bell Rock", 36), (), ("Skerryvore", 48))
    assert parsed(book).text == (
        "Towers\n\nName: Bell Rock | Height: 36\nName: Skerryvore | Height: 48"
    )


def test_formulas_without_a_stored_value_are_counted(book):
    # openpyxl writes formulas but calculates nothing: just what a generated file looks like.
    fill(book.active, ("Name", "Sum"), ("Bell Rock", "=1+1"), ("Skerryvore", "=2+2"))
    document = parsed(book)
    assert document.warnings == (
        "2 formulas hold no stored value: open and save the file in Excel once.",
    )


def test_properties(book):
    fill(book.active, ("text",))
    book.properties.title, book.properties.creator = "All towers", "Ann"
    book.properties.created = datetime(2026, 1, 2, 3, 4, 5)
    document = parsed(book)
    assert document.title == "All towers"
    assert document.metadata == {"author": "Ann", "created": "2026-01-02T03:04:05Z"}


def test_a_cell_far_away_costs_nothing(book):
    book.active["A1"], book.active["XFD50000"] = "near", "far"
    assert parsed(book).text == "Towers\n\nnear\nfar"


def test_an_empty_workbook(book):
    with pytest.raises(EmptyDocument):
        parsed(book)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (35.0, "35"),
        (0.1 + 0.2, "0.3"),
        (-2.5, "-2.5"),
        (10**20, "100000000000000000000"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_read_as_people_write_them(value, text):
    assert number_text(value) == text


@pytest.mark.parametrize(
    ("value", "number_format", "text"),
    [
        (None, "General", ""),
        (False, "General", "FALSE"),
        (0.07, "0%", "7%"),
        (datetime(2026, 3, 14), "General", "2026-03-14"),
        (datetime(2026, 3, 14, 15, 9), "General", "2026-03-14 15:09:00"),
        (time(15, 9), "General", "15:09:00"),
        (timedelta(hours=26), "General", "1 day, 2:00:00"),
        ("#N/A", "General", "#N/A"),
    ],
)
def test_cells_read_as_people_see_them(value, number_format, text):
    assert cell_text(value, number_format) == text
