import io

import pytest
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from rag.errors import EmptyDocument
from rag.parse import parse_document

BLANK, TITLE_AND_CONTENT, TITLE_ONLY = 6, 1, 5


def parsed(presentation):
    buffer = io.BytesIO()
    presentation.save(buffer)
    return parse_document(buffer.getvalue(), name="talk.pptx")


@pytest.fixture
def deck():
    return Presentation()


def add_slide(deck, layout, title=""):
    slide = deck.slides.add_slide(deck.slide_layouts[layout])
    if title:
        slide.shapes.title.text = title
    return slide


def add_box(slide, text, left, top):
    box = slide.shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(0.5))
    box.text_frame.text = text


def test_slides_are_pages_and_their_titles_headings(deck):
    first = add_slide(deck, TITLE_AND_CONTENT, "Bell\vRock")
    first.placeholders[1].text_frame.text = "lamp"
    point = first.placeholders[1].text_frame.add_paragraph()
    point.text, point.level = "lens", 1
    add_slide(deck, BLANK)
    last = add_slide(deck, TITLE_ONLY, "End")
    last.notes_slide.notes_text_frame.text = "Thank them."
    document = parsed(deck)
    assert document.text == "Bell Rock\n\n- lamp\n  - lens\n\nEnd\n\nNotes: Thank them."
    assert document.pages == (0, 28, 28)
    assert [(h.start, h.title) for h in document.headings] == [(0, "Bell Rock"), (28, "End")]


def test_shapes_are_read_from_top_to_bottom_and_left_to_right(deck):
    slide = add_slide(deck, BLANK)
    for text, left, top in (
        ("fourth", 1, 5),
        ("third", 5, 3.05),
        ("first", 1, 1),
        ("second", 1, 3),
    ):
        add_box(slide, text, left, top)
    assert parsed(deck).text == "first\n\nsecond\n\nthird\n\nfourth"


def test_groups_are_opened(deck):
    group = add_slide(deck, BLANK).shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 100, 100).text_frame.text = "inside"
    assert parsed(deck).text == "inside"


def test_tables_and_merged_cells(deck):
    shape = add_slide(deck, BLANK).shapes.add_table(3, 2, 0, 0, Inches(4), Inches(2))
    table = shape.table
    for row, cells in enumerate((("Country", "Capital"), ("Norway", "Oslo"), ("both", "gone"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    table.cell(2, 1).text = ""
    table.cell(2, 0).merge(table.cell(2, 1))
    assert parsed(deck).text == "Country: Norway | Capital: Oslo\nCountry: both"


def test_charts_give_their_numbers(deck):
    data = CategoryChartData()
    data.categories = ["1811", "1844"]
    data.add_series("Height", (36.0, 48.5))
    data.add_series("Lamps", (24, None))
    slide = add_slide(deck, BLANK)
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, 0, 0, Inches(4), Inches(3), data)
    assert parsed(deck).text == "1811 | Height: 36 | Lamps: 24\n1844 | Height: 48.5"


def test_alternative_text_of_pictures_but_not_file_names(deck):
    pixel = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
        b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
    )
    slide = add_slide(deck, BLANK)
    for description in (
        "A tower in the sea",
        "pixel.png",
        "A tower. Description automatically generated",
    ):
        picture = slide.shapes.add_picture(io.BytesIO(pixel), 0, 0)
        picture._element.nvPicPr.cNvPr.set("descr", description)
    assert parsed(deck).text == "A tower in the sea"


def test_slide_shows_open_like_presentations(deck):
    add_box(add_slide(deck, BLANK), "shown", 1, 1)
    buffer = io.BytesIO()
    deck.part._content_type = (
        "application/vnd.openxmlformats-officedocument.presentationml.slideshow.main+xml"
    )
    deck.save(buffer)
    assert parse_document(buffer.getvalue(), name="show.ppsx").text == "shown"


def test_no_text_at_all(deck):
    add_slide(deck, BLANK)
    with pytest.raises(EmptyDocument):
        parsed(deck)
