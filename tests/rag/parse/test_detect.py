import io
import zipfile

import pytest

from rag.errors import EncryptedDocument, MalformedDocument, UnsupportedType
from rag.parse import detect, parse_document

OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def media_type(data, name="", declared=None):
    return detect.detect(data, name=name, media_type=declared).media_type


@pytest.mark.parametrize("name", ["a.pdf", "a.txt", "a", "a.docx"])
def test_pdf_by_its_header(name):
    assert media_type(b"%PDF-1.7\n", name) == detect.PDF


def test_pdf_with_junk_before_the_header():
    assert media_type(b"\x00\x01junk\xff%PDF-1.4", "a.bin") == detect.PDF
    assert media_type(b"HTTP/1.1 200 OK\n\n%PDF-1.4", "a.pdf") == detect.PDF


def test_a_text_about_pdf_is_text():
    assert media_type(b"Every file begins with %PDF-1.7 and a number.", "a.txt") == detect.PLAIN


@pytest.mark.parametrize(
    ("member", "expected"),
    [("word__document.xml", detect.DOCX), ("ppt__p.xml", detect.PPTX), ("xl__w.xml", detect.XLSX)],
)
def test_office_files_by_their_parts(member, expected):
    data = zipped(**{"[Content_Types].xml": "", member: ""})
    assert media_type(data, "a.bin") == expected


@pytest.mark.parametrize("kind", [detect.EPUB, detect.ODT, detect.ODS, detect.ODP])
def test_containers_that_name_their_type(kind):
    assert media_type(zipped(mimetype=kind), "a.zip") == kind


def test_a_wrong_name_is_followed_by_a_warning():
    data = zipped(**{"[Content_Types].xml": "", "word__document.xml": ""})
    found = detect.detect(data, name="report.pdf")
    assert found.media_type == detect.DOCX
    assert found.warning == "Named .pdf but is a DOCX file: read as DOCX."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (OLE2 + "WordDocument".encode("utf-16-le"), "Save it as DOCX"),
        (OLE2 + "Workbook".encode("utf-16-le"), "Save it as XLSX"),
        (OLE2 + "PowerPoint Document".encode("utf-16-le"), "Save it as PPTX"),
        (OLE2 + "__substg1.0_1000".encode("utf-16-le"), "Save it as EML"),
        (OLE2, "OLE2"),
        (b"{\\rtf1 Hello}", "Rich Text Format"),
        (b"GIF89a", "GIF image"),
        (b"\x1f\x8b\x08", "gzip"),
        (zipped(a="x"), "Unpack it"),
        (zipped(**{"[Content_Types].xml": "", "xl__workbook.bin": ""}), "xlsb"),
        (bytes(range(256)), "binary data of an unknown type"),
    ],
)
def test_unsupported_types_are_named_with_what_is_supported(data, words):
    with pytest.raises(UnsupportedType, match=words) as error:
        media_type(data, "a.dat")
    assert "docx" in error.value.hint


def test_locked_office_files():
    with pytest.raises(EncryptedDocument, match="needs a password"):
        media_type(OLE2 + "EncryptedPackage".encode("utf-16-le"), "a.docx")


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"PK\x03\x04broken", "a.docx", "damaged"),
        (zipped(a="x"), "a.docx", "holds no docx"),
        (b"<html>404 not found</html>", "a.pdf", "does not hold"),
        (bytes(range(256)), "notes.txt", "binary data, not text"),
    ],
)
def test_bytes_that_cannot_be_what_their_name_says(data, name, words):
    with pytest.raises(MalformedDocument, match=words):
        media_type(data, name)


@pytest.mark.parametrize(
    ("data", "name", "declared", "expected"),
    [
        (b"# Hi", "a.md", None, detect.MARKDOWN),
        (b"a,b", "a.csv", "application/vnd.ms-excel", detect.CSV),  # Windows browsers say so
        (b"<p>Hi", "page", "text/html; charset=utf-8", detect.HTML),
        (b"# Hi", "a.txt", "text/markdown", detect.MARKDOWN),
        (b"a", "a.html", "text/plain", detect.HTML),
        (b"x = 1", "setup.py", None, detect.PLAIN),
        (b"<!-- c --><!DOCTYPE html><p>Hi", "page", None, detect.HTML),
        (b"<?xml version='1.0'?><a/>", "data", None, detect.XML),
        (b"<?xml version='1.0'?><html/>", "a.xml", None, detect.HTML),
        (b'{"a": 1}', "data", None, detect.JSON),
        (b"[1] a footnote, not JSON", "data", None, detect.PLAIN),
        (b"Subject: Hi\nReceived: from x\n\nHi", "message", None, detect.EMAIL),
        (b"Dear all: hello\n\nHi", "message", None, detect.PLAIN),
    ],
)
def test_text_by_name_then_declaration_then_words(data, name, declared, expected):
    assert media_type(data, name, declared) == expected


def test_every_supported_extension_has_a_reader():
    # Bytes that are wrong for the binary types still reach a decision, not a KeyError.
    for extension in detect.SUPPORTED.split(", "):
        if extension not in ("pdf", "docx", "pptx", "xlsx", "odt", "ods", "odp", "epub"):
            parse_document(
                b'{"cells": [{"cell_type": "raw", "source": "x"}]}'
                if extension in ("json", "jsonl", "ipynb")
                else b"<p>x</p>",
                name=f"a.{extension}",
            )


@pytest.mark.parametrize(
    ("head", "foreign"),
    [
        (b"\x89PNG\r\n\x1a\n", False),  # OCR may read it
        (b"GIF89a\x01\x00\x01\x00", True),
        (bytes(range(256)), True),
        (b"def main() -> None:\n", False),
        ("Übergröße\n".encode("utf-16"), False),
        (b"", False),
        (b"\x00\x01junk\xff%PDF-1.4", False),  # its parser will tell
        (OLE2, False),
        (zipped(mimetype=b"x"), False),
    ],
)
def test_what_the_first_bytes_show_to_be_no_document(head, foreign):
    assert detect.is_foreign(head) is foreign
    if foreign:  # and so it is
        with pytest.raises(UnsupportedType):
            detect.detect(head, name="a.bin")


@pytest.mark.parametrize(
    ("name", "known"), [("a.PDF", True), ("b.md", True), ("c.py", False), ("Makefile", False)]
)
def test_names_that_promise_a_type(name, known):
    assert detect.is_known(name) is known
