"""Markdown: CommonMark with tables -> blocks without markup."""

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from rag.parse.clean import clean_lines
from rag.parse.decode import decode
from rag.parse.draft import Draft
from rag.parse.html import write_html

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"(\w[\w -]*):[ \t]*(.*)")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_KEPT_FIELDS = {"author": "author", "authors": "author", "date": "created", "tags": "tags"}


def parse_markdown(data: bytes, draft: Draft) -> None:
    """Read a Markdown file; YAML front matter becomes title and metadata."""
    decoded = decode(data)
    draft.warnings.extend(decoded.warnings)
    text = clean_lines(decoded.text)
    front = _FRONT_MATTER.match(text)
    if front and _read_front_matter(front[1], draft):
        text = text[front.end() :]
    write_markdown(text, draft)


def write_markdown(text: str, draft: Draft) -> None:
    """Add Markdown as blocks: links keep their words, code its lines, soft breaks become spaces."""
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    _Writer(draft).write(tokens)


class _Writer:
    """Follows the flat token stream, knowing only the lists it is in."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._markers: list[str] = []
        self._item_waits = False

    def write(self, tokens: "Sequence[Token]") -> None:
        stream = iter(tokens)
        for token in stream:
            self._write_token(token, stream)

    def _write_token(self, token: "Token", stream: "Iterator[Token]") -> None:
        match token.type:
            case "heading_open":
                self._draft.heading(_inline_text(next(stream)), int(token.tag[1]))
            case "inline":
                self._paragraph(_inline_text(token))
            case "fence" | "code_block":
                self._draft.code(token.content)
            case "html_block":
                write_html(token.content, self._draft)
            case "table_open":
                rows = _read_rows(takewhile(lambda part: part.type != "table_close", stream))
                self._draft.table(rows, header=any(rows[0]))
            case "bullet_list_open" | "ordered_list_open":
                self._markers.append("-")
            case "bullet_list_close" | "ordered_list_close":
                self._markers.pop()
            case "list_item_open":
                # `info` is the number of an ordered item as the author typed it.
                self._markers[-1] = f"{token.info}." if token.info else "-"
                self._item_waits = True
            case "list_item_close":
                self._item_waits = False

    def _paragraph(self, text: str) -> None:
        if self._item_waits:
            self._draft.item(text, depth=len(self._markers) - 1, marker=self._markers[-1])
            self._item_waits = False
        else:
            self._draft.paragraph(text)


def _inline_text(token: "Token") -> str:
    return "".join(_inline_fragment(child) for child in token.children or ())


def _inline_fragment(token: "Token") -> str:
    match token.type:
        case "text" | "code_inline" | "text_special":
            return token.content
        case "image":
            return token.content  # the alternative text
        case "softbreak":
            return " "
        case "hardbreak":
            return "\n"
        case "html_inline":
            return "\n" if _BREAK.fullmatch(token.content) else ""
    return ""


def _read_rows(tokens: "Iterator[Token]") -> list[list[str]]:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline":
            rows[-1].append(_inline_text(token))
    return rows


def _read_front_matter(block: str, draft: Draft) -> bool:
    """Take over title, author, date and tags. False when the block is no list of fields.

    Only `key: value` lines are understood: nested YAML says nothing that a reader would search.
    """
    fields = [match for line in block.split("\n") if (match := _FIELD.fullmatch(line.rstrip()))]
    for field in fields:
        key, value = field[1].strip().lower(), field[2].strip().strip("\"'[]")
        if key == "title":
            draft.title = value
        elif key in _KEPT_FIELDS and value:
            draft.metadata[_KEPT_FIELDS[key]] = value
    return bool(fields)
