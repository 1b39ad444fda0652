"""PDF: the text layer of every page, with pypdfium2."""

import ctypes
import re
import unicodedata
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from math import sqrt
from statistics import median
from threading import Lock
from typing import TYPE_CHECKING

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from rag.errors import EmptyDocument, MalformedDocument, NeedsOcr
from rag.parse import ocr
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft
from rag.parse.layout import HYPHEN, Bookmark, Line
from rag.parse.locked import needs_password, wrong_password
from rag.parse.pages import write_pages

if TYPE_CHECKING:
    from PIL.Image import Image

# PDFium keeps global state: no two threads may be inside it, not even on different documents.
_PDFIUM = Lock()

_LINE = re.compile(rf"[^\r\n{HYPHEN}]*{HYPHEN}?")
_LEADERS = re.compile(r"(?:\.\s?){5,}")
_DATE = re.compile(r"D:(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?")
# Gaps in multiples of the type's size: justified text rarely stretches a space beyond the first
# unless all spaces of the line are stretched, and never beyond the second.
_COLUMN_GAP = 1.2
_WIDE_GAP = 2.5
_BOLD_WEIGHT = 600
_MAX_OUTLINE_DEPTH = 6
_MAX_LISTED_PAGES = 20
_MANY_PATHS = 50
# Smaller images are dots and lines: no letter fits in.
_MIN_IMAGE_PIXELS = 8
# Latin ligatures and the Arabic presentation forms are looks, not letters: no query types them.
_LOOKS = {
    code: unicodedata.normalize("NFKC", chr(code))
    for first, last in ((0xFB00, 0xFB4F), (0xFB50, 0xFDFB), (0xFE70, 0xFEFC))
    for code in range(first, last + 1)
}
_PRIVATE_USE = re.compile("[\ue000-\uf8ff]")


@dataclass(slots=True)
class _Pages:
    """What was read while the library was locked."""

    lines: list[list[Line]] = field(default_factory=list)
    outline: list[Bookmark] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)  # pages that show something, and say nothing
    by_ocr: list[int] = field(default_factory=list)


def parse_pdf(data: bytes, draft: Draft) -> None:
    """Read the text layer; wrapped lines are joined, broken words mended, hidden text kept.

    Pages that are pictures are read by OCR where it is installed. Raises EncryptedDocument when a
    password is needed or wrong, NeedsOcr when the pages are pictures only, EmptyDocument when they
    hold nothing at all, ParseLimit when OCR would take too long.
    """
    obstacle = ocr.obstacle(draft.options)
    with _PDFIUM, _opened(data, draft.options.password) as document:
        _read_properties(document, draft)
        pages = _read_pages(document)
        if pages.pictures and not obstacle:
            _read_pictures(document, pages, draft)
    _refuse_textless(pages, obstacle)
    write_pages(pages.lines, draft, outline=pages.outline)
    _warn_of_gaps(pages, draft)


@contextmanager
def _opened(data: bytes, password: str | None) -> Iterator[pdfium.PdfDocument]:
    try:
        document = pdfium.PdfDocument(data, password=password)
    except pdfium.PdfiumError as error:
        if error.err_code == pdfium_c.FPDF_ERR_PASSWORD:
            raise (wrong_password("the PDF") if password else needs_password("The PDF")) from error
        raise MalformedDocument(
            f"The PDF is damaged: {str(error).rstrip('.')}.",
            hint="Was the file uploaded completely?",
        ) from error
    with closing(document):
        if len(document) == 0:
            raise MalformedDocument("The PDF has no pages.")
        yield document


def _read_properties(document: pdfium.PdfDocument, draft: Draft) -> None:
    properties = document.get_metadata_dict(skip_empty=True)
    draft.title = properties.get("Title", "")
    draft.metadata["author"] = clean_inline(properties.get("Author", ""))
    draft.metadata["created"] = _iso_date(properties.get("CreationDate", ""))
    for position in range(document.count_attachments()):
        draft.warn(f"The attachment {_attachment_name(document, position)} was not ingested.")


def _attachment_name(document: pdfium.PdfDocument, position: int) -> str:
    try:
        return clean_inline(document.get_attachment(position).get_name())
    except pdfium.PdfiumError:
        return f"number {position + 1}"


def _iso_date(stamp: str) -> str:
    """`D:20260314150926+01'00'` -> `2026-03-14T15:09:26`, "" for anything else."""
    match = _DATE.match(stamp)
    if not match:
        return ""
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups())
    try:
        return datetime(year, month or 1, day or 1, hour, minute, second).isoformat()
    except ValueError:
        return ""


def _read_pages(document: pdfium.PdfDocument) -> _Pages:
    pages = _Pages(outline=_read_outline(document))
    for position in range(len(document)):
        try:
            with closing(document[position]) as page:
                lines = _read_page(page)
                if not lines and _has_pictures(page):
                    pages.pictures.append(position + 1)
        except pdfium.PdfiumError:
            lines = []
            pages.unreadable.append(position + 1)
        pages.lines.append(lines)
    return pages


def _read_pictures(document: pdfium.PdfDocument, pages: _Pages, draft: Draft) -> None:
    """Read the pages without a text layer by OCR, as far as there is time."""
    reader = ocr.Reader(draft.options)
    for number in pages.pictures:
        if not reader.has_time:
            error = reader.out_of_time(len(pages.by_ocr), len(pages.pictures))
            if len(pages.pictures) == len(pages.lines):
                raise error  # a scan: the rest would be missing
            draft.warn(f"{error.message} {error.hint}")
            break
        with closing(document[number - 1]) as page:
            pages.lines[number - 1] = reader.read(_rendered(page))
        pages.by_ocr.append(number)


def _rendered(page: pdfium.PdfPage) -> "Image":
    width, height = page.get_size()
    scale = min(ocr.DPI / 72, sqrt(ocr.MAX_PIXELS / max(1, width * height)))
    image: Image = page.render(scale=scale, grayscale=True).to_pil()
    return image


def _read_outline(document: pdfium.PdfDocument) -> list[Bookmark]:
    outline = []
    for entry in document.get_toc(max_depth=_MAX_OUTLINE_DEPTH):
        target = entry.get_dest()
        page = target.get_index() if target else None
        if page is not None:
            outline.append(Bookmark(entry.get_title(), page, entry.level + 1))
    return outline


def _read_page(page: pdfium.PdfPage) -> list[Line]:
    with closing(page.get_textpage()) as textpage:
        # Character by character: whole-page calls drop some, and boxes are asked for by index.
        codes = (
            pdfium_c.FPDFText_GetUnicode(textpage, index) for index in range(textpage.count_chars())
        )
        text = "".join(map(_character, codes))
        return [
            _read_line(textpage, match.start(), match[0])
            for match in _LINE.finditer(text)
            if match[0].strip()
        ]


def _character(code: int) -> str:
    """One character per code, so that positions stay indexes; U+FFFE is PDFium's other hyphen."""
    return HYPHEN if code == 0xFFFE else chr(code)


def _read_line(textpage: pdfium.PdfTextPage, start: int, raw: str) -> Line:
    visible = [start + i for i, character in enumerate(raw) if not _is_space(character)]
    visible = visible or [start]
    first = _box(textpage, visible[0])
    last = _box(textpage, visible[-1])
    size = _type_size(textpage, visible[len(visible) // 2]) or first[3] - first[1]
    left, right = min(first[0], last[0]), max(first[2], last[2])
    if first[0] > last[0]:  # right to left: mirrored, so that lines begin at their left for all
        left, right = -right, -left
    text = raw.translate(_LOOKS)
    return Line(
        text=_readable(text),
        left=left,
        right=right,
        bottom=min(first[1], last[1]),
        top=max(first[3], last[3]),
        size=size,
        tabular=bool(_LEADERS.search(text)) or _has_columns(textpage, visible, size),
        bold=_is_bold(textpage, visible[0]) and _is_bold(textpage, visible[-1]),
    )


def _readable(text: str) -> str:
    """The line cleaned; a space or the mark of a broken word at its end says how it goes on."""
    end = text[-1:]
    return clean_inline(text) + (HYPHEN if end == HYPHEN else " " if end.isspace() else "")


def _is_space(character: str) -> bool:
    return character.isspace() or character == HYPHEN


def _box(textpage: pdfium.PdfTextPage, index: int) -> tuple[float, float, float, float]:
    """Left, bottom, right, top; all 0 for characters that PDFium made up."""
    rectangle = pdfium_c.FS_RECTF()
    pdfium_c.FPDFText_GetLooseCharBox(textpage, index, rectangle)
    return rectangle.left, rectangle.bottom, rectangle.right, rectangle.top


def _type_size(textpage: pdfium.PdfTextPage, index: int) -> float:
    """The size as it looks: many files set type of size 1 and scale it."""
    size: float = pdfium_c.FPDFText_GetFontSize(textpage, index)
    matrix = pdfium_c.FS_MATRIX()
    if pdfium_c.FPDFText_GetMatrix(textpage, index, ctypes.byref(matrix)):
        size *= sqrt(abs(matrix.a * matrix.d - matrix.b * matrix.c))
    return size


def _is_bold(textpage: pdfium.PdfTextPage, index: int) -> bool:
    weight: int = pdfium_c.FPDFText_GetFontWeight(textpage, index)
    return weight >= _BOLD_WEIGHT


def _has_columns(textpage: pdfium.PdfTextPage, visible: list[int], size: float) -> bool:
    """Whether words are parted by far more than a space, or than the other words of the line."""
    gaps = [
        _box(textpage, after)[0] - _box(textpage, before)[2]
        for before, after in pairwise(visible)
        if after > before + 1
    ]
    if not gaps:
        return False
    usual = median(gaps) if len(gaps) > 2 else 0.0
    return max(gaps) > min(_WIDE_GAP * size, max(_COLUMN_GAP * size, 3 * usual))


def _has_pictures(page: pdfium.PdfPage) -> bool:
    """Whether a page shows an image, or so many paths that they may be letters drawn as curves."""
    kinds = (pdfium_c.FPDF_PAGEOBJ_IMAGE, pdfium_c.FPDF_PAGEOBJ_PATH)
    for paths, drawn in enumerate(page.get_objects(filter=kinds), start=1):
        if paths >= _MANY_PATHS:
            return True
        if isinstance(drawn, pdfium.PdfImage) and min(drawn.get_px_size()) >= _MIN_IMAGE_PIXELS:
            return True
    return False


def _refuse_textless(pages: _Pages, obstacle: str) -> None:
    if any(pages.lines):
        return
    if len(pages.unreadable) == len(pages.lines):
        raise MalformedDocument("No page of the PDF can be read.")
    if pages.pictures and obstacle:
        raise NeedsOcr("The PDF's pages are pictures without text.", hint=obstacle)
    if pages.by_ocr:
        raise EmptyDocument("OCR found no text on the PDF's pages.")
    raise EmptyDocument("The PDF holds no text.")


def _warn_of_gaps(pages: _Pages, draft: Draft) -> None:
    if pages.by_ocr:
        draft.warn(f"{len(pages.by_ocr)} of {len(pages.lines)} pages were read by OCR.")
    textless = [n for n, lines in enumerate(pages.lines, start=1) if not lines]
    if textless:
        draft.warn(f"{_named(textless)} no text.")
    if unread := [n for n in pages.pictures if n not in pages.by_ocr]:
        draft.warn(f"{_named(unread)} pictures, which OCR might read.")
    garbled = [n for n, lines in enumerate(pages.lines, start=1) if _is_garbled(lines)]
    if garbled:
        draft.warn(f"{_named(garbled)} characters that the fonts do not explain.")


def _named(numbers: list[int]) -> str:
    listed = ", ".join(map(str, numbers[:_MAX_LISTED_PAGES]))
    more = f" and {len(numbers) - _MAX_LISTED_PAGES} more" if numbers[_MAX_LISTED_PAGES:] else ""
    return f"page {listed} holds" if len(numbers) == 1 else f"pages {listed}{more} hold"


def _is_garbled(lines: list[Line]) -> bool:
    text = "".join(line.text for line in lines)
    return len(_PRIVATE_USE.findall(text)) > 0.1 * len(text)
