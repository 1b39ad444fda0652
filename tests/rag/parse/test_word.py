import io
from datetime import datetime

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls, qn

from rag.errors import EmptyDocument
from rag.parse import parse_document

W = nsdecls("w")


def parsed(document):
    buffer = io.BytesIO()
    document.save(buffer)
    return parse_document(buffer.getvalue(), name="report.docx")


@pytest.fixture
def word():
    return docx.Document()


def add_xml(document, xml):
    """Append raw WordprocessingML before the section properties."""
    element = parse_xml(xml)
    document.element.body.insert(len(document.element.body) - 1, element)
    return element


def test_paragraphs_headings_and_lists_in_order(word):
    word.add_heading("Bell Rock", 0)
    word.add_paragraph("A  tall\ttower.")
    word.add_heading("Parts", 2)
    word.add_paragraph("lamp", style="List Bullet")
    word.add_paragraph("lens", style="List Number")
    word.add_paragraph("After.")
    document = parsed(word)
    assert document.text == ("Bell Rock\n\nA tall tower.\n\nParts\n\n- lamp\n- lens\n\nAfter.")
    assert [(h.start, h.level, h.title) for h in document.headings] == [
        (0, 1, "Bell Rock"),
        (26, 2, "Parts"),
    ]


def test_properties_and_title(word):
    word.core_properties.title = "The Tower"
    word.core_properties.author = "Ann"
    word.core_properties.created = datetime(2026, 3, 14, 15, 9)
    word.add_paragraph("Text.")
    document = parsed(word)
    assert document.title == "The Tower"
    assert document.metadata["author"] == "Ann"
    assert document.metadata["created"].startswith("2026-03-14T15:09")


def test_heading_styles_by_descent_and_outline_level(word):
    own = word.styles.add_style("Chapter", 1)
    own.base_style = word.styles["Heading 1"]
    word.add_paragraph("One", style="Chapter")
    paragraph = word.add_paragraph("Two")
    paragraph._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {W} w:val="2"/>'))
    assert [(h.level, h.title) for h in parsed(word).headings] == [(1, "One"), (3, "Two")]


def test_a_hard_break_stays_and_a_page_break_is_a_space(word):
    run = word.add_paragraph("12 High Street").add_run()
    run.add_break()
    run.add_text("Oban")
    run.add_break(docx.enum.text.WD_BREAK.PAGE)
    run.add_text("Scotland")
    assert parsed(word).text == "12 High Street\nOban Scotland"


def test_tables_stand_where_they_are(word):
    word.add_paragraph("Before.")
    table = word.add_table(3, 3)
    for row, cells in zip(
        table.rows,
        [("Name", "Height", "Lit"), ("Bell Rock", "36", "1811"), ("Skerryvore", "48", "1844")],
        strict=True,
    ):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    word.add_paragraph("After.")
    assert parsed(word).text == (
        "Before.\n\nName: Bell Rock | Height: 36 | Lit: 1811\n"
        "Name: Skerryvore | Height: 48 | Lit: 1844\n\nAfter."
    )


def test_merged_cells_are_told_once_per_row(word):
    table = word.add_table(3, 3)
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = "abcdefghi"[number]
    table.cell(0, 0).merge(table.cell(0, 1))  # across: once
    table.cell(1, 0).merge(table.cell(2, 0))  # down: it belongs to both rows
    assert parsed(word).text == "a b | c\nd g | e | f\nd g | h | i"


def test_a_bold_first_row_is_a_header_even_of_two_columns(word):
    table = word.add_table(2, 2)
    for column, name in enumerate(("Country", "Capital")):
        table.cell(0, column).paragraphs[0].add_run(name).bold = True
    table.cell(1, 0).text, table.cell(1, 1).text = "Norway", "Oslo"
    assert parsed(word).text == "Country: Norway | Capital: Oslo"


def test_nested_tables_are_flattened(word):
    table = word.add_table(1, 2)
    table.cell(0, 0).text = "outer"
    inner = table.cell(0, 1).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "in", "side"
    assert parsed(word).text == "outer | in side"


def test_a_frame_of_one_cell_is_text(word):
    cell = word.add_table(1, 1).cell(0, 0)
    cell.text = "one"
    cell.add_paragraph("two")
    assert parsed(word).text == "one\n\ntwo"


def test_tracked_changes_read_as_accepted(word):
    add_xml(
        word,
        f"<w:p {W}><w:r><w:t>kept </w:t></w:r><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
        "<w:ins><w:r><w:t>new</w:t></w:r></w:ins></w:p>",
    )
    assert parsed(word).text == "kept new"


def test_content_controls_and_links_are_text(word):
    add_xml(
        word,
        f"<w:sdt {W}><w:sdtContent><w:p><w:hyperlink><w:r><w:t>linked</w:t></w:r></w:hyperlink>"
        "<w:r><w:instrText>PAGE</w:instrText></w:r></w:p></w:sdtContent></w:sdt>",
    )
    assert parsed(word).text == "linked"


def test_text_boxes_follow_their_paragraph_and_are_told_once(word):
    box = "<w:txbxContent><w:p><w:r><w:t>boxed</w:t></w:r></w:p></w:txbxContent>"
    add_xml(
        word,
        f'<w:p {W} xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        f"<w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
        "</mc:AlternateContent></w:r><w:r><w:t>anchor</w:t></w:r></w:p>",
    )
    assert parsed(word).text == "anchor\n\nboxed"


def test_footnotes_follow_the_paragraph_that_refers_to_them(word):
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"
    part = docx.opc.part.Part(
        docx.opc.packuri.PackURI("/word/footnotes.xml"),
        "application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml",
        f'<w:footnotes {W}><w:footnote w:id="2"><w:p><w:r><w:t>See Stevenson.</w:t></w:r></w:p>'
        "</w:footnote></w:footnotes>".encode(),
        word.part.package,
    )
    word.part.relate_to(part, relation)
    run = word.add_paragraph("Built on a reef.").add_run()
    run._r.append(parse_xml(f'<w:footnoteReference {W} w:id="2"/>'))
    word.add_paragraph("Next.")
    assert parsed(word).text == "Built on a reef.\n\nSee Stevenson.\n\nNext."


def test_list_depth(word):
    for depth, text in ((0, "outer"), (1, "inner")):
        paragraph = word.add_paragraph(text)
        properties = paragraph._p.get_or_add_pPr().get_or_add_numPr()
        properties.get_or_add_numId().val = 1
        properties.get_or_add_ilvl().val = depth
    assert parsed(word).text == "- outer\n  - inner"


def test_number_0_takes_a_paragraph_out_of_its_list(word):
    paragraph = word.add_paragraph("free", style="List Bullet")
    paragraph._p.get_or_add_pPr().get_or_add_numPr().get_or_add_numId().val = 0
    assert parsed(word).text == "free"


def test_styles_that_descend_from_themselves_do_not_hang(word):
    style = word.styles.add_style("Loop", 1)
    style.element.append(parse_xml(f'<w:basedOn {W} w:val="Loop"/>'))
    assert style.element.find(qn("w:basedOn")) is not None
    word.add_paragraph("text", style="Loop")
    assert parsed(word).text == "text"


def test_an_empty_document(word):
    with pytest.raises(EmptyDocument):
        parsed(word)
