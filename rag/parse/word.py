"""DOCX: paragraphs, lists, tables, text boxes and footnotes in body order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lxml import etree

from rag.parse.archive import checked_office_file
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft

if TYPE_CHECKING:
    from docx.document import Document as WordFile

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
# Deleted and moved-away text of tracked changes, properties, ruby annotations, and the older copy
# of every drawing that Word keeps for programs that cannot show the newer one.
_SKIPPED = frozenset(
    {_FALLBACK, *(f"{_W}{tag}" for tag in ("del", "moveFrom", "pPr", "rPr", "tblPr", "trPr", "rt"))}
)
_CHARACTERS = {f"{_W}tab": "\t", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_NOTE_PARTS = ("footnotes", "endnotes")
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"
_MAX_OUTLINE_LEVEL = 9
_MAX_STYLE_CHAIN = 20
_MAX_SPAN = 100
# A cell that spans rows belongs to each of them; a long one would swamp the rows it spans.
_MAX_REPEATED_CHARS = 80


def parse_word(data: bytes, draft: Draft) -> None:
    """Read a Word document; heading levels come from its styles, not from looks."""
    from docx import Document as open_word

    document = open_word(checked_office_file(data))
    _read_properties(document, draft)
    writer = _Writer(draft, _heading_levels(document), _list_styles(document), _notes(document))
    writer.write(document.element.body)


def _read_properties(document: "WordFile", draft: Draft) -> None:
    properties = document.core_properties
    draft.title = properties.title or ""
    draft.metadata["author"] = properties.author or ""
    draft.metadata["created"] = properties.created.isoformat() if properties.created else ""


class _Writer:
    """Walks the body and adds block after block."""

    def __init__(
        self,
        draft: Draft,
        levels: dict[str, int],
        list_styles: frozenset[str],
        notes: dict[str, str],
    ) -> None:
        self._draft = draft
        self._levels = levels
        self._list_styles = list_styles
        self._notes = notes

    def write(self, container: etree._Element) -> None:
        for element in container:
            if element.tag == f"{_W}p":
                self._paragraph(element)
            elif element.tag == f"{_W}tbl":
                self._table(element)
            elif element.tag not in _SKIPPED:
                # Content controls, custom XML and tracked insertions wrap whole blocks.
                self.write(element)

    def _paragraph(self, paragraph: etree._Element) -> None:
        boxes: list[etree._Element] = []
        notes: list[str] = []
        text = "".join(_fragments(paragraph, boxes, notes))
        style = _value(paragraph, "pPr/pStyle")
        level = _outline_level(paragraph) or self._levels.get(style, 0)
        if level:
            self._draft.heading(text, level)
        elif self._is_item(paragraph, style):
            self._draft.item(text, depth=_list_depth(paragraph))
        else:
            self._draft.paragraph(text)
        for note in notes:
            self._draft.paragraph(self._notes.get(note, ""))
        for box in boxes:
            self.write(box)

    def _is_item(self, paragraph: etree._Element, style: str) -> bool:
        number = _value(paragraph, "pPr/numPr/numId")
        # Number 0 takes a paragraph out of the list that its style puts it in.
        return number != "0" and (bool(number) or style in self._list_styles)

    def _table(self, table: etree._Element) -> None:
        rows = [list(_children(row, "tc")) for row in _children(table, "tr")]
        if all(len(cells) < 2 for cells in rows):  # a frame around text, not a table
            for cells in rows:
                for cell in cells:
                    self.write(cell)
            return
        grid: list[list[str]] = []
        for cells in rows:
            grid.append(_place(cells, grid[-1] if grid else []))
        self._draft.table(grid, header=_has_header(table, rows))


def _fragments(
    element: etree._Element, boxes: list[etree._Element], notes: list[str]
) -> Iterator[str]:
    """The text of a paragraph; the text boxes and notes anchored in it are gathered aside."""
    for child in element:
        tag = child.tag
        if tag in (f"{_W}t", _MATH_TEXT):
            yield child.text or ""
        elif tag == f"{_W}br":
            yield "\n" if child.get(f"{_W}type", "textWrapping") == "textWrapping" else " "
        elif tag in _CHARACTERS:
            yield _CHARACTERS[tag]
        elif tag == f"{_W}txbxContent":
            boxes.append(child)
        elif tag in (f"{_W}footnoteReference", f"{_W}endnoteReference"):
            notes.append(f"{etree.QName(tag).localname[:-9]}s {child.get(f'{_W}id')}")
        elif tag not in _SKIPPED:
            yield from _fragments(child, boxes, notes)


def _plain_text(element: etree._Element) -> str:
    """Everything in an element on one line, text boxes included."""
    boxes: list[etree._Element] = []
    paragraphs = ["".join(_fragments(p, boxes, [])) for p in element.iter(f"{_W}p")]
    return clean_inline(" ".join(paragraphs))


def _children(element: etree._Element, name: str) -> Iterator[etree._Element]:
    """Child rows or cells, also those inside content controls and tracked changes."""
    for child in element:
        if child.tag == f"{_W}{name}":
            yield child
        elif child.tag not in _SKIPPED and child.tag not in (f"{_W}p", f"{_W}tbl"):
            yield from _children(child, name)


def _place(cells: list[etree._Element], above: list[str]) -> list[str]:
    """One row on the table's grid: a cell's text once, in the first column that it spans."""
    row: list[str] = []
    for cell in cells:
        merge = cell.find(f"{_W}tcPr/{_W}vMerge")
        if merge is not None and merge.get(f"{_W}val") != "restart":
            text = above[len(row)] if len(row) < len(above) else ""
            text = text if len(text) <= _MAX_REPEATED_CHARS else ""
        else:
            text = _plain_text(cell)
        span = _value(cell, "tcPr/gridSpan")
        width = min(int(span), _MAX_SPAN) if span.isdecimal() else 1
        row += [text] + [""] * (width - 1)
    return row


def _has_header(table: etree._Element, rows: list[list[etree._Element]]) -> bool | None:
    """True when the first row is marked as header or is the only bold one, else undecided."""
    if table.find(f"{_W}tr/{_W}trPr/{_W}tblHeader") is not None:
        return True
    if len(rows) > 1 and _is_bold(rows[0]) and not _is_bold(rows[1]):
        return True
    return None


def _is_bold(cells: list[etree._Element]) -> bool:
    runs = [run for cell in cells for run in cell.iter(f"{_W}r") if _run_has_text(run)]
    marks = (run.find(f"{_W}rPr/{_W}b") for run in runs)
    return bool(runs) and all(
        mark is not None and mark.get(f"{_W}val", "1") not in ("0", "false") for mark in marks
    )


def _run_has_text(run: etree._Element) -> bool:
    return any((text.text or "").strip() for text in run.iter(f"{_W}t"))


def _heading_levels(document: "WordFile") -> dict[str, int]:
    """Style id -> heading level, for styles that are headings by name, outline or descent."""
    styles = _styles(document)
    levels = {}
    for identifier in styles:
        level = _style_level(identifier, styles)
        if level:
            levels[identifier] = level
    return levels


def _style_level(identifier: str, styles: dict[str, etree._Element]) -> int:
    for _ in range(_MAX_STYLE_CHAIN):
        style = styles.get(identifier)
        if style is None:
            return 0
        name = _value(style, "name").lower()
        if name == "title":
            return 1
        if name.startswith("heading ") and name[8:].isdecimal():
            return int(name[8:])
        level = _outline_level(style)
        if level:
            return level
        identifier = _value(style, "basedOn")
    return 0


def _list_styles(document: "WordFile") -> frozenset[str]:
    return frozenset(
        identifier
        for identifier, style in _styles(document).items()
        if style.find(f"{_W}pPr/{_W}numPr") is not None
        or _value(style, "name").lower().startswith("list bullet")
    )


def _styles(document: "WordFile") -> dict[str, etree._Element]:
    styles = document.styles.element.iterchildren(f"{_W}style")
    return {style.get(f"{_W}styleId", ""): style for style in styles}


def _outline_level(element: etree._Element) -> int:
    value = _value(element, "pPr/outlineLvl")
    level = int(value) + 1 if value.isdecimal() else 0
    return level if level <= _MAX_OUTLINE_LEVEL else 0


def _list_depth(paragraph: etree._Element) -> int:
    value = _value(paragraph, "pPr/numPr/ilvl")
    return min(int(value), _MAX_OUTLINE_LEVEL) if value.isdecimal() else 0


def _notes(document: "WordFile") -> dict[str, str]:
    """`footnotes 3` -> its text."""
    from docx.oxml import parse_xml

    notes = {}
    for kind in _NOTE_PARTS:
        for relation in document.part.rels.values():
            if relation.reltype == _RELATION + kind and not relation.is_external:
                for note in parse_xml(relation.target_part.blob):
                    notes[f"{kind} {note.get(f'{_W}id')}"] = _plain_text(note)
    return notes


def _value(element: etree._Element, path: str) -> str:
    """The `w:val` of a descendant, "" when there is none."""
    found = element.find("/".join(f"{_W}{step}" for step in path.split("/")))
    return found.get(f"{_W}val", "") if found is not None else ""
