"""A sentence of every format comes back as a citation whose offsets equal the text."""

import csv
import io
import json
import zipfile
from collections.abc import Callable
from email.message import EmailMessage

import docx
import openpyxl
import pptx
import pytest
from fpdf import FPDF

from rag import collection as shelf
from rag.sources import Source

QUESTION = "Who designed the optic of the Skerryvore lighthouse?"
SENTENCE = "The optic of the Skerryvore lighthouse was designed by Alan Stevenson."
BEFORE = "Sea marks have guided sailors for a very long time."
AFTER = "Granite for the tower came from the island of Mull."


def prose() -> str:
    return f"{BEFORE} {SENTENCE} {AFTER}"


def markdown() -> bytes:
    return f"# Skerryvore\n\n{prose()}\n".encode()


def html() -> bytes:
    nav = "<nav><a href='/'>Home</a></nav>"
    return (
        f"<html><body>{nav}<main><h1>Skerryvore</h1><p>{prose()}</p></main></body></html>".encode()
    )


def pdf() -> bytes:
    document = FPDF()
    document.set_font("Helvetica", size=12)
    document.add_page()
    document.multi_cell(0, text=BEFORE)
    document.add_page()
    document.multi_cell(0, text=f"{SENTENCE} {AFTER}")
    return bytes(document.output())


def word() -> bytes:
    document = docx.Document()
    document.add_heading("Skerryvore", 1)
    document.add_paragraph(prose())
    return saved(document.save)


def slides() -> bytes:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[1])
    slide.shapes.title.text = "Skerryvore"
    slide.placeholders[1].text = prose()
    return saved(deck.save)


def sheet() -> bytes:
    book = openpyxl.Workbook()
    book.active.append(["Lighthouse", "Designer of the optic", "Height (m)"])
    book.active.append(["Skerryvore lighthouse", "Alan Stevenson", 48])
    book.active.append(["Ardnamurchan lighthouse", "Somebody else", 36])
    return saved(book.save)


def comma_separated() -> bytes:
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["Lighthouse", "Designer of the optic", "Height (m)"])
    rows.writerow(["Skerryvore lighthouse", "Alan Stevenson", 48])
    rows.writerow(["Ardnamurchan lighthouse", "Somebody else", 36])
    return text.getvalue().encode()


def json_records() -> bytes:
    rows = [
        {"lighthouse": "Skerryvore lighthouse", "designer of the optic": "Alan Stevenson"},
        {"lighthouse": "Ardnamurchan lighthouse", "designer of the optic": "Somebody else"},
    ]
    return json.dumps(rows).encode()


def epub() -> bytes:
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">'
        '<rootfiles><rootfile full-path="book.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    package = (
        '<package version="3.0" xmlns="http://www.idpf.org/2007/opf">'
        '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Skerryvore</dc:title>'
        '</metadata><manifest><item id="c" href="c.xhtml" media-type="application/xhtml+xml"/>'
        '</manifest><spine><itemref idref="c"/></spine></package>'
    )
    chapter = f"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>{prose()}</p></body></html>"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", container)
        book.writestr("book.opf", package)
        book.writestr("c.xhtml", chapter)
    return file.getvalue()


def email() -> bytes:
    message = EmailMessage()
    message["From"] = "keeper@example.org"
    message["To"] = "board@example.org"
    message["Subject"] = "Skerryvore"
    message.set_content(prose())
    return message.as_bytes()


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


FORMATS = {
    "note.txt": lambda: prose().encode(),
    "note.md": markdown,
    "note.html": html,
    "note.pdf": pdf,
    "note.docx": word,
    "note.pptx": slides,
    "note.xlsx": sheet,
    "note.csv": comma_separated,
    "note.json": json_records,
    "note.epub": epub,
    "note.eml": email,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_sentence_comes_back_as_a_citation(rag, name):
    shelf.ensure(rag.parts, rag.scope, "default")
    report = rag.add(Source(name=name, origin=name, id=name, content=FORMATS[name]()))
    assert report.status == "ingested"
    assert report.truncated_tokens == 0
    answer = rag.ask(QUESTION)
    assert not answer.abstained
    best = answer.citations[0]
    assert "Alan Stevenson" in best.quote
    assert "Skerryvore" in best.quote
    text = rag.text(name)
    assert text[best.start : best.end] == best.quote
    if name == "note.pdf":
        assert best.page == 2


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "cp1252"])
def test_encodings(rag, encoding):
    shelf.ensure(rag.parts, rag.scope, "default")
    text = f"Le phare de Cordouan éclaire l'entrée de la Gironde. {prose()}"
    rag.add(Source(name="a.txt", origin="a.txt", id="a", content=text.encode(encoding)))
    assert rag.text("a") == text
