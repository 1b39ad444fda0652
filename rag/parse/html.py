"""HTML: the main content of a page, as blocks."""

import re
from collections.abc import Iterator
from copy import deepcopy

from lxml import etree
from lxml import html as lxml_html

from rag.errors import EmptyDocument
from rag.parse.clean import clean_inline, clean_lines
from rag.parse.decode import decode
from rag.parse.draft import Draft

# fmt: off
_SKIPPED = frozenset([
    "applet", "audio", "button", "canvas", "datalist", "dialog", "embed", "head", "iframe",
    "input", "link", "map", "meta", "noscript", "object", "option", "script", "select",
    "source", "style", "svg", "template", "textarea", "track", "video",
])
# fmt: on
# fmt: off
_BLOCKS = frozenset([
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details",
    "div", "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hgroup",
    "hr", "html", "legend", "li", "main", "menu", "nav", "ol", "p", "pre", "search", "section",
    "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul", "h1", "h2", "h3",
    "h4", "h5", "h6",
])
# fmt: on
_HEADING = re.compile(r"h[1-6]")
_BOILERPLATE = (
    "//nav|//aside|//*[@role='navigation' or @role='banner' or @role='contentinfo'"
    " or @role='complementary' or @role='search']"
    "|//header[not(ancestor::main or ancestor::article)]"
    "|//footer[not(ancestor::main or ancestor::article)]"
)
_META_CHARSET = re.compile(rb"<meta[^>]+?charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_XML_CHARSET = re.compile(rb"^\s*<\?xml[^>]+?encoding\s*=\s*[\"']([\w.:-]+)[\"']")
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none", re.IGNORECASE)
# An extraction that keeps less of the main region than this has lost the content.
_MIN_KEPT = 0.3
# A cell that spans rows belongs to each of them; a long one would swamp the rows it spans.
_MAX_REPEATED_CHARS = 80
# Spans come from the file: a hostile one claims millions of columns.
_MAX_SPAN = 100
_METADATA = {
    "author": "//meta[@name='author' or @property='article:author']/@content",
    "created": "//meta[@property='article:published_time' or @name='date' or @name='dcterms.date']"
    "/@content",
    "language": "/html/@lang",
}


def parse_html(data: bytes, draft: Draft) -> None:
    """Read a web page: trafilatura's main content, or the whole body when that lost too much."""
    root = _read_tree(_decode_html(data, draft))
    _read_properties(root, draft)
    region = _main_region(root)
    article = _extract_article(root)
    if article is not None and _length(article) >= _MIN_KEPT * _length(region):
        _restore_first_heading(article, region, draft)
        region = article
    write_blocks(region, draft)


def write_html(markup: str, draft: Draft) -> None:
    """Add everything that the body of a page shows: for chapters, messages and fragments."""
    try:
        root = _read_tree(markup)
    except EmptyDocument:
        return
    write_blocks(_body(root), draft)


def write_blocks(element: etree._Element, draft: Draft) -> None:
    """Add the content of an element block by block."""
    writer = _Writer(draft)
    writer.write(element)
    writer.flush()


def inline_text(element: etree._Element) -> str:
    """The visible text of an element on one line, words of neighbouring blocks kept apart."""
    return clean_inline("".join(_fragments(element)))


class _Writer:
    """Walks a tree: inline text gathers until a block begins or ends, then becomes a paragraph."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._inline: list[str] = []
        self._lists: list[_List] = []
        self._marker = ""

    def write(self, element: etree._Element) -> None:
        tag = _tag(element)
        if _is_skipped(element, tag):
            return
        if _HEADING.fullmatch(tag):
            self._heading(element, int(tag[1]))
        elif tag == "table" and not _is_layout(element):
            self._table(element)
        elif tag == "pre":
            self._code(element)
        elif tag == "br":
            self._inline.append("\n")
        elif tag in ("ul", "ol", "menu"):
            self._list(element, ordered=tag == "ol")
        elif tag == "li":
            self._item(element)
        elif tag in _BLOCKS:
            self._block(element)
        else:
            self._content(element)

    def flush(self) -> None:
        """Turn the inline text gathered so far into a list item or a paragraph."""
        text, self._inline = "".join(self._inline), []
        if not text.strip():
            return
        if self._marker:
            self._draft.item(text, depth=len(self._lists) - 1, marker=self._marker)
            self._marker = ""
        else:
            self._draft.paragraph(text)

    def _content(self, element: etree._Element) -> None:
        self._add_text(element.text)
        for child in element:
            self.write(child)
            self._add_text(child.tail)

    def _add_text(self, text: str | None) -> None:
        if text:
            self._inline.append(" ".join(text.split("\n")))

    def _block(self, element: etree._Element) -> None:
        self.flush()
        self._content(element)
        self.flush()

    def _heading(self, element: etree._Element, level: int) -> None:
        self.flush()
        self._draft.heading(inline_text(element), level)

    def _code(self, element: etree._Element) -> None:
        self.flush()
        for line_break in element.iter("br"):
            line_break.text = "\n"
        self._draft.code("".join(element.itertext()))

    def _list(self, element: etree._Element, *, ordered: bool) -> None:
        self.flush()
        start = element.get("start", "1")
        number = int(start) if start.isdecimal() and len(start) < 9 else 1
        self._lists.append(_List(number if ordered else None))
        self._block(element)
        self._lists.pop()

    def _item(self, element: etree._Element) -> None:
        self.flush()
        if not self._lists:  # an item outside of any list, as old pages write them
            self._lists.append(_List(None))
        self._marker = self._lists[-1].next_marker()
        self._content(element)
        self.flush()
        self._marker = ""

    def _table(self, element: etree._Element) -> None:
        self.flush()
        for caption in element.iterchildren("caption"):
            self._draft.paragraph(inline_text(caption))
        rows, header_rows = _read_rows(element)
        while header_rows > 1 and len({cell for cell in rows[0] if cell}) == 1:
            self._draft.paragraph(next(filter(None, rows[0])))  # a title across all columns
            rows, header_rows = rows[1:], header_rows - 1
        if header_rows:
            rows = [_merge_headers(rows[:header_rows]), *rows[header_rows:]]
        self._draft.table(rows, header=True if header_rows else None)


class _List:
    """The numbering of one open list."""

    def __init__(self, number: int | None) -> None:
        self._number = number

    def next_marker(self) -> str:
        if self._number is None:
            return "-"
        self._number += 1
        return f"{self._number - 1}."


def _decode_html(data: bytes, draft: Draft) -> str:
    head = data[:4096]
    label = _META_CHARSET.search(head) or _XML_CHARSET.search(head)
    decoded = decode(data, declared=label[1].decode("ascii") if label else None)
    draft.warnings.extend(decoded.warnings)
    return decoded.text


def _read_tree(markup: str) -> etree._Element:
    """Parse leniently. Raises EmptyDocument when there is no element at all."""
    markup = _XML_DECLARATION.sub("", clean_lines(markup), count=1)
    parser = lxml_html.HTMLParser(no_network=True, remove_comments=True, remove_pis=True)
    try:
        root: etree._Element = lxml_html.document_fromstring(markup, parser=parser)
    except etree.ParserError as error:
        raise EmptyDocument("The page holds no text.") from error
    return root


def _read_properties(root: etree._Element, draft: Draft) -> None:
    titles = _values(root, "//meta[@property='og:title']/@content|//head/title/text()")
    draft.title = next((title for title in titles if title), "")
    for key, path in _METADATA.items():
        value = next(iter(_values(root, path)), "")
        if value and not value.startswith("http"):  # an author given as a link names nobody
            draft.metadata[key] = value


def _values(root: etree._Element, path: str) -> list[str]:
    return [clean_inline(str(value)) for value in root.xpath(path)]


def _body(root: etree._Element) -> etree._Element:
    found = root.find("body")
    return root if found is None else found


def _main_region(root: etree._Element) -> etree._Element:
    """The body without navigation, asides and page headers, or its one <main>."""
    body = _body(deepcopy(root))
    whole = _length(body)
    mains = body.xpath("//main|//*[@role='main']")
    if len(mains) == 1 and _length(mains[0]) >= _MIN_KEPT * whole:
        main: etree._Element = mains[0]
        return main
    for element in body.xpath(_BOILERPLATE):
        if element.getparent() is not None:
            element.drop_tree()
    return body if _length(body) else _body(root)


def _extract_article(root: etree._Element) -> etree._Element | None:
    """Trafilatura's idea of the main content, None when it finds none."""
    from trafilatura import extract

    markup = extract(
        deepcopy(root),
        output_format="html",
        include_comments=False,
        include_tables=True,
        include_links=False,
        favor_recall=True,
        with_metadata=False,
    )
    return _body(_read_tree(markup)) if markup else None


def _restore_first_heading(article: etree._Element, region: etree._Element, draft: Draft) -> None:
    """Trafilatura leaves out a heading that repeats the page's title; readers expect it."""
    headings = region.findall(".//h1")
    if len(headings) == 1 and article.find(".//h1") is None:
        draft.heading(inline_text(headings[0]), 1)


def _length(element: etree._Element) -> int:
    return len(inline_text(element))


def _tag(element: etree._Element) -> str:
    return element.tag.lower() if isinstance(element.tag, str) else ""


def _is_skipped(element: etree._Element, tag: str) -> bool:
    if not tag or tag in _SKIPPED or element.get("hidden") is not None:
        return True
    if element.get("aria-hidden") == "true" or "headerlink" in element.get("class", "").split():
        return True
    return bool(_HIDDEN_STYLE.search(element.get("style", "")))


def _fragments(element: etree._Element) -> Iterator[str]:
    tag = _tag(element)
    if _is_skipped(element, tag):
        return
    apart = tag in _BLOCKS or tag == "br"
    if apart:
        yield " "
    yield element.text or ""
    for child in element:
        yield from _fragments(child)
        yield child.tail or ""
    if apart:
        yield " "


def _is_layout(table: etree._Element) -> bool:
    """Whether a table only arranges the page: it nests tables, says so, or has one column."""
    if table.get("role") in ("presentation", "none") or table.find(".//table") is not None:
        return True
    return all(len(_cells(row)) < 2 for row in _rows(table))


def _rows(table: etree._Element) -> list[etree._Element]:
    return list(table.iter("tr"))


def _cells(row: etree._Element) -> list[etree._Element]:
    return [cell for cell in row if _tag(cell) in ("td", "th")]


def _read_rows(table: etree._Element) -> tuple[list[list[str]], int]:
    """The cells on their grid, and how many of the first rows name the columns."""
    grid: list[list[str]] = []
    header_rows = 0
    pending: dict[int, tuple[int, str]] = {}
    for row in _rows(table):
        cells = _cells(row)
        is_header = bool(cells) and _is_header_row(row, cells)
        if is_header and header_rows == len(grid):
            header_rows += 1
        grid.append(_place(cells, pending, repeat=is_header))
    return grid, header_rows if header_rows < len(grid) else 0


def _is_header_row(row: etree._Element, cells: list[etree._Element]) -> bool:
    if _tag(row.getparent()) == "thead":
        return True
    # Trafilatura pads rows that span columns with empty <td>.
    return all(_tag(cell) == "th" or not inline_text(cell) for cell in cells)


def _place(
    cells: list[etree._Element], pending: dict[int, tuple[int, str]], *, repeat: bool
) -> list[str]:
    """One row on the grid. `pending`: column -> (rows still to fill, text) of cells from above.

    A spanned value stands in its first column only, a spanned header (`repeat`) in all of them.
    """
    row: list[str] = []
    for cell in cells:
        _take_pending(row, pending)
        text = inline_text(cell)
        column = len(row)
        span = _span(cell, "colspan")
        row += [text] + [text if repeat else ""] * (span - 1)
        below = _span(cell, "rowspan") - 1
        if below:
            again = text if len(text) <= _MAX_REPEATED_CHARS else ""
            for offset in range(span):
                pending[column + offset] = (below, again if repeat or not offset else "")
    _take_pending(row, pending)
    return row


def _take_pending(row: list[str], pending: dict[int, tuple[int, str]]) -> None:
    while len(row) in pending:
        left, text = pending.pop(len(row))
        if left > 1:
            pending[len(row)] = (left - 1, text)
        row.append(text)


def _span(cell: etree._Element, attribute: str) -> int:
    value = cell.get(attribute, "1").strip()
    return min(max(int(value), 1), _MAX_SPAN) if value.isdecimal() else 1


def _merge_headers(rows: list[list[str]]) -> list[str]:
    """Stacked header rows as one: `Height` above `m` becomes `Height m`."""
    width = max(map(len, rows))
    columns = ([row[i] for row in rows if i < len(row) and row[i]] for i in range(width))
    return [" ".join(dict.fromkeys(column)) for column in columns]
