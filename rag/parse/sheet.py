"""XLSX: every sheet a heading, every row a line."""

import re
import zipfile
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from itertools import groupby
from typing import TYPE_CHECKING

from lxml import etree

from rag.parse.archive import checked_office_file, open_archive, read_member
from rag.parse.draft import Draft
from rag.parse.table import looks_like_header
from rag.parse.xml import read_xml

if TYPE_CHECKING:
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

# A formula directly followed by the end of its cell has no stored value.
_VALUELESS = re.compile(rb"(?:</f>|<f\b[^>]*/>)\s*(?:<v\s*/>|<v></v>)?\s*</c>")
_FORMULA = re.compile(rb"<f[\s>/]")
# Level 1 is the workbook itself: "Sheet1" shall not become the document's title.
_SHEET_LEVEL = 2

Rows = list[list[str]]


def parse_sheet(data: bytes, draft: Draft) -> None:
    """Read a workbook's stored values, hidden sheets included; nothing is calculated."""
    from openpyxl import load_workbook

    file = checked_office_file(data)
    with open_archive(file.getvalue()) as archive:
        _read_properties(archive, draft)
        _warn_of_valueless_formulas(archive, draft)
    workbook = load_workbook(file, read_only=True, data_only=True)
    try:
        for sheet in workbook.worksheets:
            _write_sheet(sheet, draft)
    finally:
        workbook.close()


def number_text(value: float) -> str:
    """A number as people write it: 35, not 35.0; 0.3, not 0.30000000000000004."""
    if isinstance(value, int):
        return str(value)
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.15g}"


def cell_text(value: object, number_format: str = "") -> str:
    """What a person sees in a cell: ISO dates, percentages, TRUE and FALSE, plain numbers."""
    match value:
        case None:
            return ""
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return f"{number_text(value * 100)}%" if "%" in number_format else number_text(value)
        case datetime():
            midnight = value.time() == time()
            return value.date().isoformat() if midnight else value.isoformat(sep=" ")
        case date() | time():
            return value.isoformat()
        case timedelta():
            return str(value)
    return str(value)


def _read_properties(archive: zipfile.ZipFile, draft: Draft) -> None:
    """From the file itself: openpyxl fills in its own name and today's date where they lack."""
    content = read_member(archive, "docProps/core.xml")
    if content is None:
        return
    properties = {etree.QName(found).localname: found.text or "" for found in read_xml(content)}
    draft.title = properties.get("title", "")
    draft.metadata["author"] = properties.get("creator", "")
    draft.metadata["created"] = properties.get("created", "")


def _write_sheet(sheet: "ReadOnlyWorksheet", draft: Draft) -> None:
    # Declared dimensions pad every row to the widest column ever touched.
    sheet.reset_dimensions()
    tables = _tables(_rows(sheet))
    if not tables:
        return
    draft.heading(sheet.title, _SHEET_LEVEL)
    for table in tables:
        draft.table(table)


def _rows(sheet: "ReadOnlyWorksheet") -> Iterator[list[str]]:
    for row in sheet.rows:
        yield [
            "" if cell.value is None else cell_text(cell.value, cell.number_format) for cell in row
        ]


def _tables(rows: Iterable[list[str]]) -> list[Rows]:
    """Parts the sheet at blank rows, where what follows has a header of its own."""
    tables: list[Rows] = []
    for block in _blocks(rows):
        if tables and not looks_like_header(block):
            tables[-1] += block
        else:
            tables.append(block)
    return tables


def _blocks(rows: Iterable[list[str]]) -> Iterator[Rows]:
    """Runs of rows that hold something."""
    for filled, block in groupby(rows, key=lambda row: any(cell.strip() for cell in row)):
        if filled:
            yield list(block)


def _warn_of_valueless_formulas(archive: zipfile.ZipFile, draft: Draft) -> None:
    count = 0
    for name in archive.namelist():
        if name.startswith("xl/worksheets/") and name.endswith(".xml"):
            content = archive.read(name)
            if _FORMULA.search(content):
                count += len(_VALUELESS.findall(content))
    if count:
        draft.warn(f"{count} formulas hold no stored value: open and save the file in Excel once.")
