"""Files with a password: without it, with a wrong one, with the right one."""

import io

import pytest
from docx import Document as WordDocument
from fpdf import FPDF
from msoffcrypto.format.ooxml import OOXMLFile
from openpyxl import Workbook
from pptx import Presentation

from rag.errors import EncryptedDocument, MalformedDocument
from rag.parse import parse_document
from rag.parse.options import Options


def pdf():
    made = FPDF()
    made.add_page()
    made.set_font("Helvetica", size=12)
    made.cell(text="The lamp burns oil.")
    made.set_encryption("owner", user_password="öl 1811")
    return bytes(made.output())


def office(document):
    plain, locked = io.BytesIO(), io.BytesIO()
    document.save(plain)
    OOXMLFile(plain).encrypt("öl 1811", locked)
    return locked.getvalue()


def word():
    made = WordDocument()
    made.add_paragraph("The lamp burns oil.")
    return office(made)


def sheet():
    made = Workbook()
    made.active["A1"] = "The lamp burns oil."
    return office(made)


def slides():
    made = Presentation()
    slide = made.slides.add_slide(made.slide_layouts[5])
    slide.shapes.title.text = "The lamp burns oil."
    return office(made)


@pytest.fixture(
    scope="module", params=[(pdf, "pdf"), (word, "docx"), (sheet, "xlsx"), (slides, "pptx")],
    ids=lambda param: param[1],
)  # fmt: skip
def locked(request):
    make, extension = request.param
    return make(), f"lamp.{extension}"


def read(locked, password):
    content, name = locked
    return parse_document(content, name=name, options=Options(password=password))


def test_without_a_password(locked):
    for password in (None, ""):
        with pytest.raises(EncryptedDocument, match="needs a password") as raised:
            read(locked, password)
        assert "--password" in raised.value.hint


def test_with_a_wrong_one(locked):
    with pytest.raises(EncryptedDocument, match="does not open") as raised:
        read(locked, "tran")
    assert "right password" in raised.value.hint
    assert "tran" not in str(raised.value)


def test_with_the_right_one(locked):
    assert "The lamp burns oil." in read(locked, "öl 1811").text


def test_a_password_that_is_not_needed_is_no_matter():
    assert read((b"Plain text.", "a.txt"), "öl 1811").text == "Plain text."


def test_half_a_locked_file(locked):
    content, name = locked
    with pytest.raises((MalformedDocument, EncryptedDocument)):
        read((content[: len(content) // 2], name), "öl 1811")


def test_a_password_does_not_show():
    assert "öl" not in repr(Options(password="öl 1811"))
