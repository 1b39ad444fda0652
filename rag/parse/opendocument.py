"""OpenDocument: texts (ODT), spreadsheets (ODS) and presentations (ODP)."""

from collections.abc import Iterator

from lxml import etree

from rag.errors import EncryptedDocument, MalformedDocument
from rag.parse.archive import open_archive, read_member
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft
from rag.parse.xml import read_xml

_SPACE = "{urn:oasis:names:tc:opendocument:xmlns:%s:1.0}"
_TEXT = _SPACE % "text"
_TABLE = _SPACE % "table"
_DRAW = _SPACE % "drawing"
_OFFICE = _SPACE % "office"
_PRESENTATION = _SPACE % "presentation"
_SKIPPED = frozenset(
    {
        f"{_OFFICE}annotation",
        f"{_OFFICE}forms",
        f"{_TEXT}tracked-changes",
        f"{_TEXT}sequence-decls",
        f"{_TABLE}shapes",
        f"{_TEXT}note-citation",
    }
)
_CHARACTERS = {f"{_TEXT}tab": "\t", f"{_TEXT}line-break": "\n", f"{_TEXT}s": " "}
# Empty cells and rows are stored once with a count that reaches the end of the sheet.
_MAX_REPEATED = 100
_SHEET_LEVEL = 2


def parse_opendocument(data: bytes, draft: Draft) -> None:
    """Read an OpenDocument file. Raises EncryptedDocument when it is password-protected."""
    with open_archive(data) as archive:
        if b"encryption-data" in (read_member(archive, "META-INF/manifest.xml") or b""):
            raise EncryptedDocument(
                "The document is encrypted, and passwords of OpenDocument files cannot be used.",
                hint="Save it without one.",
            )
        content = read_member(archive, "content.xml")
        properties = read_member(archive, "meta.xml")
    if content is None:
        raise MalformedDocument("The document lacks its file content.xml.")
    if properties is not None:
        _read_properties(read_xml(properties), draft)
    body = read_xml(content).find(f"{_OFFICE}body")
    if body is None:
        raise MalformedDocument("The document has no body.")
    _write(body, draft)


def _read_properties(root: etree._Element, draft: Draft) -> None:
    found = {etree.QName(element).localname: element.text or "" for element in root.iter("{*}*")}
    draft.title = found.get("title", "")
    draft.metadata["author"] = found.get("initial-creator") or found.get("creator", "")
    draft.metadata["created"] = found.get("creation-date", "")


def _write(container: etree._Element, draft: Draft, *, depth: int = -1) -> None:
    """Add the blocks of a container; `depth` counts the lists around it from 0."""
    item_waits = depth >= 0
    for element in container:
        tag = element.tag
        if tag in _SKIPPED:
            continue
        if tag == f"{_TEXT}h":
            draft.heading(_line(element), _level(element))
        elif tag == f"{_TEXT}p":
            _write_paragraph(element, draft, depth if item_waits else -1)
            item_waits = False
        elif tag == f"{_TEXT}list":
            for item in element:
                _write(item, draft, depth=depth + 1)
        elif tag == f"{_TABLE}table":
            _write_table(element, draft)
        else:
            _open_page(element, draft)
            _write(element, draft)


def _open_page(element: etree._Element, draft: Draft) -> None:
    if element.tag == f"{_DRAW}page":
        draft.page()
    elif element.tag == f"{_PRESENTATION}notes" and _line(element):
        draft.paragraph("Notes:")


def _write_paragraph(element: etree._Element, draft: Draft, depth: int) -> None:
    text = "".join(_fragments(element))
    if depth >= 0:
        draft.item(text, depth=depth)
    else:
        draft.paragraph(text)
    for frame in element.iter(f"{_DRAW}text-box"):
        _write(frame, draft)


def _write_table(table: etree._Element, draft: Draft) -> None:
    name = table.get(f"{_TABLE}name", "")
    elements = [row for row in table.iter(f"{_TABLE}table-row") if _owner(row) is table]
    rows = [_row(row) for row in elements]
    if any(_repeats(cell) > _MAX_REPEATED and _line(cell) for row in elements for cell in row):
        draft.warn(f"A cell that is repeated more than {_MAX_REPEATED} times is read so often.")
    if _line(table) and etree.QName(table.getparent()).localname == "spreadsheet":
        draft.heading(name, _SHEET_LEVEL)
    marked = table.find(f"{_TABLE}table-header-rows") is not None
    draft.table(rows, header=True if marked else None)


def _owner(row: etree._Element) -> etree._Element | None:
    """The table that a row belongs to, past the groups of rows between them."""
    return next(row.iterancestors(f"{_TABLE}table"), None)


def _row(row: etree._Element) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if cell.tag == f"{_TABLE}table-cell" or cell.tag == f"{_TABLE}covered-table-cell":
            cells += [_line(cell)] * min(_repeats(cell), _MAX_REPEATED)
    return cells


def _repeats(cell: etree._Element) -> int:
    repeated = cell.get(f"{_TABLE}number-columns-repeated", "1")
    return int(repeated) if repeated.isdecimal() else 1


def _level(heading: etree._Element) -> int:
    level = heading.get(f"{_TEXT}outline-level", "1")
    return int(level) if level.isdecimal() else 1


def _line(element: etree._Element) -> str:
    """All text inside on one line, the paragraphs of a cell kept apart."""
    blocks = [element, *element.iter(f"{_TEXT}p", f"{_TEXT}h")]
    return clean_inline(" ".join("".join(_fragments(block)) for block in dict.fromkeys(blocks)))


def _fragments(element: etree._Element) -> Iterator[str]:
    """The text of one paragraph, without that of text boxes and nested paragraphs' containers."""
    yield element.text or ""
    for child in element:
        if child.tag in _CHARACTERS:
            yield _CHARACTERS[child.tag]
        elif child.tag == f"{_TEXT}note":
            yield f" ({_line(child)}) "
        elif child.tag not in _SKIPPED and not _is_block(child):
            yield from _fragments(child)
        yield child.tail or ""


def _is_block(element: etree._Element) -> bool:
    return element.tag in (
        f"{_TEXT}p",
        f"{_TEXT}h",
        f"{_TEXT}list",
        f"{_TABLE}table",
        f"{_DRAW}text-box",
    )
