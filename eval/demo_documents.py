"""Build the PDF, Word and Excel files of the demo collection from Markdown sources.

`rag demo` ships documents in formats that cannot be edited by hand or read in a diff. Their
text lives in `eval/demo_sources/*.md`, so that prose is corrected there, and this script turns
it into files with fixed dates: running it twice gives identical bytes.

Run it from the repository root: `python eval/demo_documents.py`.
"""

from __future__ import annotations

import argparse
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from docx import Document
from fpdf import FPDF
from fpdf.enums import TableBordersLayout
from fpdf.fonts import FontFace
from openpyxl import Workbook
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "eval" / "demo_sources"
COLLECTION = ROOT / "rag" / "demo" / "collection"
FIXED_DATE = datetime(2026, 1, 1, tzinfo=UTC)
AUTHOR = "Ragstone sample collection (CC0 1.0)"

# One entry per file: the source and the format that it becomes.
DOCUMENTS = {
    "eddystone-lighthouses": "pdf",
    "bell-rock-lighthouse": "pdf",
    "lighthouse-keepers": "docx",
    "lighthouse-records": "xlsx",
}


@dataclass
class Block:
    """A heading (level 1 or 2), a paragraph (level 0) or a table (rows, header first)."""

    text: str = ""
    level: int = 0
    rows: list[list[str]] = field(default_factory=list)


def parse_markdown(source: str) -> list[Block]:
    """Read the small part of Markdown the sources use: #, ##, paragraphs and pipe tables."""
    blocks: list[Block] = []
    for chunk in re.split(r"\n\s*\n", source.strip()):
        lines = chunk.strip().splitlines()
        if heading := re.fullmatch(r"(#{1,2}) (.+)", lines[0]):
            if len(lines) > 1:
                raise ValueError(f"a heading needs an empty line after it: {lines[0]!r}")
            blocks.append(Block(heading[2], len(heading[1])))
        elif lines[0].startswith("|"):
            cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
            blocks.append(Block(rows=[cells[0], *cells[2:]]))
        else:
            blocks.append(Block(" ".join(lines)))
    return blocks


class Pages(FPDF):
    """A4 pages in a standard serif font, with the short title and page number below."""

    short_title = ""

    def footer(self) -> None:
        self.set_y(-17)
        self.set_font("Times", "I", 9)
        self.set_text_color(90)
        self.cell(0, 6, f"{self.short_title} - page {self.page_no()}", align="C")
        self.set_text_color(0)


def write_pdf(blocks: list[Block]) -> bytes:
    """Set the blocks left-aligned and unhyphenated, so that the text layer reads as written."""
    title = blocks[0].text
    pdf = Pages(format="A4")
    pdf.short_title = title
    pdf.set_creation_date(FIXED_DATE)
    pdf.set_title(title)
    pdf.set_author(AUTHOR)
    pdf.set_lang("en-GB")
    pdf.set_margins(27, 25, 27)
    pdf.set_auto_page_break(True, margin=27)
    pdf.add_page()
    for position, block in enumerate(blocks):
        if block.rows:
            pdf.set_font("Times", size=9.5)
            with pdf.table(
                block.rows,
                borders_layout=TableBordersLayout.HORIZONTAL_LINES,
                headings_style=FontFace(emphasis="BOLD"),
                line_height=5.2,
                padding=1,
                text_align="LEFT",
            ):
                pass
            pdf.ln(5)
        elif block.level == 1:
            pdf.set_font("Times", "B", 24)
            pdf.multi_cell(0, 11, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(2)
        elif block.level == 2:
            if pdf.will_page_break(32):
                pdf.add_page()
            pdf.ln(3)
            pdf.set_font("Times", "B", 14)
            pdf.start_section(block.text)
            pdf.multi_cell(0, 8, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(1)
        else:
            subtitle = position == 1
            pdf.set_font("Times", "I" if subtitle else "", 13 if subtitle else 11.5)
            pdf.multi_cell(0, 6, block.text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(5 if subtitle else 2.8)
    return bytes(pdf.output())


def write_docx(blocks: list[Block]) -> bytes:
    """Write Word headings, paragraphs and tables, so that a reader finds the real structure."""
    document = Document()
    properties = document.core_properties
    properties.title, properties.author, properties.comments = blocks[0].text, AUTHOR, ""
    properties.created = properties.modified = FIXED_DATE
    for position, block in enumerate(blocks):
        if block.rows:
            table = document.add_table(rows=0, cols=len(block.rows[0]), style="Table Grid")
            for number, row in enumerate(block.rows):
                for cell, text in zip(table.add_row().cells, row, strict=True):
                    cell.paragraphs[0].add_run(text).bold = number == 0
            document.add_paragraph()
        elif block.level == 1:
            document.add_heading(block.text, 0)
        elif block.level == 2:
            document.add_heading(block.text, 1)
        else:
            document.add_paragraph(block.text, "Subtitle" if position == 1 else None)
    buffer = io.BytesIO()
    document.save(buffer)
    return freeze_zip(buffer.getvalue())


def as_number(text: str) -> str | int | float:
    """Give a spreadsheet real numbers, the way a person who typed the table would."""
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text


def sheets(blocks: list[Block]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield each second-level heading with the table that follows it."""
    name = ""
    for block in blocks:
        if block.level == 2:
            name = block.text
        elif block.rows:
            yield name, block.rows


def write_xlsx(blocks: list[Block]) -> bytes:
    """Write one sheet per table, with a bold header row that stays visible."""
    workbook = Workbook()
    workbook.remove(workbook.worksheets[0])
    workbook.properties.title, workbook.properties.creator = blocks[0].text, AUTHOR
    workbook.properties.created = FIXED_DATE.replace(tzinfo=None)
    for name, rows in sheets(blocks):
        sheet = workbook.create_sheet(name)
        for row in rows:
            sheet.append([as_number(text) for text in row])
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        for column, texts in enumerate(zip(*rows, strict=True), start=1):
            sheet.column_dimensions[get_column_letter(column)].width = max(map(len, texts)) + 2
        sheet.freeze_panes = "A2"
    buffer = io.BytesIO()
    workbook.save(buffer)
    return freeze_zip(buffer.getvalue())


def freeze_zip(content: bytes) -> bytes:
    """Repack an Office file with fixed dates, since both writers stamp the time of saving."""
    stamp = FIXED_DATE.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            data = source.read(name)
            if name == "docProps/core.xml":
                pattern = rb"(<dcterms:(created|modified)[^>]*>)[^<]*"
                data = re.sub(pattern, lambda match: match[1] + stamp, data)
            entry = zipfile.ZipInfo(name, FIXED_DATE.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            target.writestr(entry, data)
    return buffer.getvalue()


WRITERS = {"pdf": write_pdf, "docx": write_docx, "xlsx": write_xlsx}


def main() -> None:
    """Write every document of DOCUMENTS into the folder that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=COLLECTION, help="folder to write to")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, extension in DOCUMENTS.items():
        blocks = parse_markdown((SOURCES / f"{name}.md").read_text(encoding="utf-8"))
        path = output / f"{name}.{extension}"
        path.write_bytes(WRITERS[extension](blocks))
        print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
