import threading

import pytest
from fpdf import FPDF

from rag.errors import EmptyDocument, EncryptedDocument, MalformedDocument, NeedsOcr
from rag.parse import parse_document
from rag.parse.pdf import _iso_date

STORY = (
    "The lighthouse on the Bell Rock was built between 1807 and 1810 by Robert Stevenson on a reef "
    "that the sea covers twice a day. It stands 36 metres tall and has been lit since 1811. "
)


def parsed(pdf, name="tower.pdf"):
    data = pdf if isinstance(pdf, bytes) else bytes(pdf.output())
    return parse_document(data, name=name)


@pytest.fixture
def pdf():
    document = FPDF()
    document.set_font("Helvetica", size=11)
    document.add_page()
    return document


def test_wrapped_lines_are_one_paragraph(pdf):
    pdf.multi_cell(0, 6, STORY + "\n\n" + STORY, align="L")
    document = parsed(pdf)
    assert document.text == f"{STORY.strip()}\n\n{STORY.strip()}"
    assert document.pages == (0,)


def test_pages_start_where_their_text_does(pdf):
    pdf.cell(text="First page.")
    pdf.add_page()
    pdf.add_page()
    pdf.cell(text="Third page.")
    document = parsed(pdf)
    assert document.text == "First page.\n\nThird page."
    assert document.pages == (0, 13, 13)
    assert document.warnings == ("page 2 holds no text.",)


def test_properties(pdf):
    pdf.cell(text="Text.")
    pdf.set_title("The Tower")
    pdf.set_author("Ann")
    document = parsed(pdf)
    assert document.title == "The Tower"
    assert document.metadata["author"] == "Ann"
    assert document.media_type == "application/pdf"


def test_bookmarks_are_headings(pdf):
    for level, title in ((0, "Bell Rock"), (1, "The lamp")):
        pdf.start_section(title, level=level)
        pdf.cell(text=title, new_x="LMARGIN", new_y="NEXT")
        pdf.multi_cell(0, 6, STORY, align="L", new_x="LMARGIN", new_y="NEXT")
    document = parsed(pdf)
    assert [(h.level, h.title) for h in document.headings] == [(1, "Bell Rock"), (2, "The lamp")]
    assert all(document.text[h.start :].startswith(h.title) for h in document.headings)
    assert document.title == "Bell Rock"


def test_large_type_is_a_heading_without_bookmarks(pdf):
    pdf.set_font(size=20)
    pdf.cell(text="Bell Rock", new_x="LMARGIN", new_y="NEXT")
    pdf.set_font(size=11)
    pdf.multi_cell(0, 6, STORY, align="L")
    assert [h.title for h in parsed(pdf).headings] == ["Bell Rock"]


def test_rows_of_a_table_stay_lines(pdf):
    for row in (("Bell Rock", "36", "1811"), ("Skerryvore", "48", "1844")):
        for cell in row:
            pdf.cell(50, 6, cell)
        pdf.ln(6)
    assert parsed(pdf).text == "Bell Rock 36 1811\nSkerryvore 48 1844"


def test_attachments_are_named_not_read(pdf, tmp_path):
    (tmp_path / "plan.txt").write_text("secret plan")
    pdf.cell(text="See the plan.")
    pdf.embed_file(tmp_path / "plan.txt")
    document = parsed(pdf)
    assert document.text == "See the plan."
    assert document.warnings == ("The attachment plan.txt was not ingested.",)


def test_a_password_is_needed_only_when_it_locks_reading(pdf):
    pdf.cell(text="Text.")
    pdf.set_encryption("owner")
    assert parsed(pdf).text == "Text."
    locked = FPDF()
    locked.add_page()
    locked.set_encryption("owner", user_password="user")
    with pytest.raises(EncryptedDocument):
        parsed(locked)


def test_pictures_without_text_need_ocr(pdf, tmp_path):
    from PIL import Image

    Image.new("L", (64, 64)).save(tmp_path / "scan.png")
    pdf.image(tmp_path / "scan.png")
    with pytest.raises(NeedsOcr) as error:
        parsed(pdf)
    assert "OCR" in error.value.hint


def test_blank_pages_are_empty(pdf):
    pdf.line(0, 0, 100, 100)
    with pytest.raises(EmptyDocument):
        parsed(pdf)


def test_half_a_file_is_malformed_or_what_could_be_read(pdf):
    pdf.cell(text="Text.")
    data = bytes(pdf.output())
    with pytest.raises(MalformedDocument):
        parsed(data[:100])


def test_threads_take_turns_inside_pdfium(pdf):
    pdf.multi_cell(0, 6, STORY * 20)
    data, results = bytes(pdf.output()), []
    threads = [threading.Thread(target=lambda: results.append(parsed(data).text)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1


@pytest.mark.parametrize(
    ("stamp", "date"),
    [
        ("D:20260314150926+01'00'", "2026-03-14T15:09:26"),
        ("D:2026", "2026-01-01T00:00:00"),
        ("D:20269999", ""),
        ("D:00000000", ""),
        ("yesterday", ""),
    ],
)
def test_dates(stamp, date):
    assert _iso_date(stamp) == date


def test_a_file_without_pages_is_refused():
    empty = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
        b"trailer<</Root 1 0 R>>\n%%EOF\n"
    )
    with pytest.raises((MalformedDocument, EmptyDocument), match=r"(?i)page|damaged"):
        parse_document(empty, name="nothing.pdf")
