"""PPTX: slide by slide, shapes in reading order."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rag.parse.archive import checked_office_file
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft
from rag.parse.sheet import number_text
from rag.parse.title import sensible_title

if TYPE_CHECKING:
    from pptx.chart.chart import Chart
    from pptx.shapes.base import BaseShape
    from pptx.slide import Slide
    from pptx.table import Table
    from pptx.text.text import TextFrame

_MACHINE_MADE = re.compile(r"(automatically|AI-)\s*generated", re.IGNORECASE)
# Shapes whose tops differ by less stand side by side: a fifth of an inch, in EMU.
_ROW_TOLERANCE = 182_880


def parse_slides(data: bytes, draft: Draft) -> None:
    """Read a presentation: every slide is a page, its title a heading, its notes a paragraph."""
    from pptx import Presentation

    presentation = Presentation(checked_office_file(data))
    properties = presentation.core_properties
    draft.title = properties.title or ""
    draft.metadata["author"] = properties.author or ""
    draft.metadata["created"] = properties.created.isoformat() if properties.created else ""
    for slide in presentation.slides:
        draft.page()
        _write_slide(slide, draft)


def _write_slide(slide: "Slide", draft: Draft) -> None:
    title = slide.shapes.title
    if title is not None and title.has_text_frame:
        draft.heading(title.text_frame.text, 1)
    title_id = title.shape_id if title is not None else None
    for shape in _reading_order(slide.shapes):
        if shape.shape_id != title_id:
            _write_shape(shape, draft)
    if slide.has_notes_slide:
        notes = slide.notes_slide.notes_text_frame
        if notes is not None and notes.text.strip():
            draft.paragraph(f"Notes: {notes.text}")


def _reading_order(shapes: "Iterable[BaseShape]") -> "list[BaseShape]":
    """Top to bottom, left to right."""
    return sorted(shapes, key=lambda shape: ((shape.top or 0) // _ROW_TOLERANCE, shape.left or 0))


def _write_shape(shape: "BaseShape", draft: Draft) -> None:
    # Attributes tell what a shape is; its type property fails on shapes newer than the library.
    if hasattr(shape, "shapes"):
        for member in _reading_order(shape.shapes):
            _write_shape(member, draft)
    elif getattr(shape, "has_table", False):
        _write_table(shape.table, draft)  # type: ignore[attr-defined]
    elif getattr(shape, "has_chart", False):
        _write_chart(shape.chart, draft)  # type: ignore[attr-defined]
    elif shape.has_text_frame:
        _write_text(shape.text_frame, draft, bullets=shape.is_placeholder)  # type: ignore[attr-defined]
    else:
        draft.paragraph(_alternative_text(shape))


def _alternative_text(shape: "BaseShape") -> str:
    """What an author wrote to stand for a picture, "" for file names and machine captions."""
    properties = shape._element.xpath(".//p:nvPicPr/p:cNvPr")
    text: str = properties[0].get("descr", "") if properties else ""
    return "" if _MACHINE_MADE.search(text) else sensible_title(text)


def _write_text(frame: "TextFrame", draft: Draft, *, bullets: bool) -> None:
    """Several paragraphs in a placeholder are the bullet points that slides are made of."""
    paragraphs = [paragraph for paragraph in frame.paragraphs if paragraph.text.strip()]
    for paragraph in paragraphs:
        if bullets and len(paragraphs) > 1:
            draft.item(paragraph.text, depth=paragraph.level)
        else:
            draft.paragraph(paragraph.text)


def _write_table(table: "Table", draft: Draft) -> None:
    rows = [
        ["" if cell.is_spanned else clean_inline(cell.text) for cell in row.cells]
        for row in table.rows
    ]
    draft.table(rows, header=table.first_row or None)


def _write_chart(chart: "Chart", draft: Draft) -> None:
    """The numbers behind a chart as a table: a row per category, a column per series."""
    if chart.has_title and chart.chart_title.has_text_frame:
        draft.paragraph(chart.chart_title.text_frame.text)
    for plot in chart.plots:
        series = list(plot.series)
        columns = [list(one.values) for one in series]
        categories = [str(category) for category in plot.categories]
        rows = [["", *(one.name for one in series)]]
        for position, category in enumerate(categories):
            values = [column[position] if position < len(column) else None for column in columns]
            rows.append([category, *map(_value_text, values)])
        draft.table(rows, header=True)


def _value_text(value: float | None) -> str:
    return "" if value is None else number_text(value)
