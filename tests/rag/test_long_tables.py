"""Long tables: whichever chunk a row is in, the names of its columns stand there with it."""

import csv
import io
import re

import pytest
from docx import Document as WordDocument
from openpyxl import Workbook

from rag.models.load import resolve
from rag.models.tokens import load_tokenizer
from rag.parse import parse_document
from rag.split import split_document

NAMES = ("Lighthouse", "Height in metres", "First lit", "Keeper")
ROWS = [(f"Tower {n}", str(10 + n % 40), str(1800 + n % 90), f"Keeper {n}") for n in range(500)]


def as_csv():
    file = io.StringIO()
    csv.writer(file).writerows([NAMES, *ROWS])
    return file.getvalue().encode()


def as_xlsx():
    book = Workbook()
    book.active.title = "Towers"
    for row in (NAMES, *ROWS):
        book.active.append([int(cell) if cell.isdecimal() else cell for cell in row])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def as_docx():
    document = WordDocument()
    table = document.add_table(len(ROWS) + 1, len(NAMES))
    cells = iter(table._cells)
    for row in (NAMES, *ROWS):
        for text in row:
            next(cells).text = text
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def as_html():
    def row(cells, tag):
        return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"

    body = row(NAMES, "th") + "".join(row(cells, "td") for cells in ROWS)
    return f"<html><body><h1>Towers</h1><table>{body}</table></body></html>".encode()


def as_markdown():
    rows = [NAMES, ["---"] * len(NAMES), *ROWS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows).encode()


MADE = {
    "towers.csv": as_csv,
    "towers.xlsx": as_xlsx,
    "towers.docx": as_docx,
    "towers.html": as_html,
    "towers.md": as_markdown,
}


@pytest.mark.parametrize("name", MADE)
def test_every_row_is_with_the_names_of_its_columns(name):
    document = parse_document(MADE[name](), name=name)
    tokenizer = load_tokenizer(resolve("sentence-transformers/all-MiniLM-L6-v2").path)
    cut = split_document(
        document, document_id="d", generation=1, tokenizer=tokenizer, chunk_tokens=120, overlap=10
    )
    assert len(cut.chunks) > 50
    seen = set()
    for chunk in cut.chunks:
        assert document.text[chunk.start : chunk.end] == chunk.text
        for number in re.findall(r"Tower (\d+)\b", chunk.text):
            height, lit = ROWS[int(number)][1:3]
            row = f"Lighthouse: Tower {number} | Height in metres: {height} | First lit: {lit}"
            assert f"{row} | Keeper: Keeper {number}" in chunk.text
            seen.add(int(number))
        if name == "towers.xlsx":  # the sheet names what its rows are about
            assert "Towers" in chunk.embedded_text
    assert seen == set(range(500))


def test_a_row_that_is_longer_than_a_chunk_is_cut_between_cells():
    names = [f"Column {n}" for n in range(60)]
    rows = [[f"value {r} {n}" for n in range(60)] for r in range(3)]
    content = "\n".join(",".join(row) for row in (names, *rows)).encode()
    document = parse_document(content, name="wide.csv")
    tokenizer = load_tokenizer(resolve("sentence-transformers/all-MiniLM-L6-v2").path)
    cut = split_document(
        document, document_id="d", generation=1, tokenizer=tokenizer, chunk_tokens=120, overlap=0
    )
    assert len(cut.chunks) > 6
    assert all(chunk.tokens <= 120 for chunk in cut.chunks)
    for chunk in cut.chunks:
        assert document.text[chunk.start : chunk.end] == chunk.text
        assert chunk.text.startswith("Column ")
        for cell in chunk.text.strip(" |").replace("\n", " | ").split(" | "):
            assert re.fullmatch(r"Column (\d+): value \d \1", cell)
