"""XML of any vocabulary: prose as paragraphs, data as records."""

from lxml import etree

from rag.errors import MalformedDocument
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft
from rag.parse.table import labelled_row

# Element names that hold running text in DocBook, JATS, TEI, DITA and their kin.
_PROSE = frozenset(
    (
        "p",
        "para",
        "simpara",
    )
)
_TITLES = frozenset(
    (
        "title",
        "article-title",
        "head",
        "heading",
        "subtitle",
    )
)
_TABLES = frozenset(("table", "informaltable"))
_ROWS = frozenset(
    (
        "tr",
        "row",
    )
)
# Titles in these name a figure or a list, not a section of the text.
_CAPTIONED = frozenset(
    ("caption", "figure", "fig", "table-wrap", "kwd-group", "legend", "product", "mediaobject")
)
# Bibliographic entries and the like: their many small parts read as one line.
_ONE_LINE = frozenset(
    (
        "ref",
        "bibliomixed",
        "biblioentry",
        "bibl",
        "contrib",
        "aff",
    )
)
_SKIPPED = frozenset(
    (
        "script",
        "style",
        "tex-math",
        "annotation",
    )
)


def read_xml(data: bytes) -> etree._Element:
    """Parse without entities, network or DTDs. Raises MalformedDocument naming line and column."""
    parser = etree.XMLParser(
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        return etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise MalformedDocument(f"Invalid XML: {error.msg}.") from error


def parse_xml(data: bytes, draft: Draft) -> None:
    """Read an XML file: with elements for paragraphs it is prose, else a tree of records."""
    root = read_xml(data)
    names = {_name(element) for element in root.iter()}
    if names & _PROSE:
        _write_prose(root, draft, level=0)
    else:
        _write_records(root, draft)


def _name(element: etree._Element | None) -> str:
    """The element's name without namespace in lower case; "" for comments and the root's parent."""
    if element is None:
        return ""
    return etree.QName(element).localname.lower() if isinstance(element.tag, str) else ""


def _write_prose(element: etree._Element, draft: Draft, *, level: int) -> None:
    """Blocks of a text; sections nest, so a title's level is the depth of its section."""
    name = _name(element)
    if not name or name in _SKIPPED:
        return
    if name in _TITLES and _name(element.getparent()) not in _CAPTIONED:
        draft.heading(_flat(element), level)
    elif name in _TABLES:
        draft.table([_cells(row) for row in element.iter() if _name(row) in _ROWS])
    elif name in _ONE_LINE or _has_own_text(element) or not _holds_blocks(element):
        draft.paragraph(_flat(element))
    else:
        titled = any(_name(child) in _TITLES for child in element)
        for child in element:
            _write_prose(child, draft, level=level + titled)


def _holds_blocks(element: etree._Element) -> bool:
    """Whether paragraphs, titles or tables stand inside; what holds none reads as one line."""
    inside = {_name(descendant) for descendant in element.iterdescendants()}
    return bool(inside & (_PROSE | _TITLES | _TABLES))


def _cells(row: etree._Element) -> list[str]:
    return [_flat(cell) for cell in row if _name(cell)]


def _has_own_text(element: etree._Element) -> bool:
    pieces = [element.text, *(child.tail for child in element)]
    return any(piece and piece.strip() for piece in pieces)


def _flat(element: etree._Element) -> str:
    """All text inside. Parts that stand on lines of their own in running text keep apart."""
    separator = "" if _has_own_text(element) else " "
    return clean_inline(separator.join(_pieces(element)))


def _pieces(element: etree._Element) -> list[str]:
    return [str(text) for text in element.itertext() if text.strip() or text == " "]


def _write_records(element: etree._Element, draft: Draft) -> None:
    """An element whose children are plain values is a record, one line; others are descended."""
    children = [child for child in element if _name(child)]
    if not children:
        draft.paragraph(_labelled(element))
    elif all(len(child) == 0 for child in children):
        draft.lines([_record(element, children)])
    else:
        for child in children:
            _write_records(child, draft)


def _labelled(element: etree._Element) -> str:
    values = [
        *map(clean_inline, map(str, element.attrib.values())),
        clean_inline(element.text or ""),
    ]
    text = " | ".join(filter(None, values))
    return f"{_name(element)}: {text}" if text else ""


def _record(element: etree._Element, children: list[etree._Element]) -> str:
    names = [*map(str, element.attrib), *map(_name, children)]
    values = [*map(str, element.attrib.values()), *(child.text or "" for child in children)]
    return labelled_row(names, [clean_inline(value) for value in values])
