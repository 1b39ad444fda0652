"""The document under construction: a parser adds blocks, the draft keeps the offsets right."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

from rag.errors import EmptyDocument, TooLarge
from rag.parse.clean import clean_code, clean_inline, clean_lines, clean_paragraph
from rag.parse.options import Options
from rag.parse.table import table_lines
from rag.parse.title import sensible_title
from rag.types import Attachment, Document, Heading


@dataclass(slots=True)
class Draft:
    """Collects cleaned blocks in reading order.

    Blocks are separated by a blank line, list items that follow each other by a line break.
    Blank blocks are dropped. Raises TooLarge as soon as the text passes `max_chars`.
    """

    max_chars: int
    options: Options = field(default_factory=Options)
    title: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    _parts: list[str] = field(default_factory=list)
    _length: int = 0
    _headings: list[Heading] = field(default_factory=list)
    _pages: list[int | None] = field(default_factory=list)
    _previous: str = ""

    def heading(self, text: str, level: int) -> None:
        """Add a heading line; level 1 is the outermost."""
        title = clean_inline(text)
        if title:
            start = self._add(title, kind="heading")
            self._headings.append(Heading(start, max(1, level), title))

    def paragraph(self, text: str, *, separator: str = "\n\n") -> None:
        r"""Add a paragraph; a `\n` in it is a hard break, `separator` comes before it."""
        self._add(clean_paragraph(text), kind="paragraph", separator=separator)

    def item(self, text: str, *, depth: int = 0, marker: str = "-") -> None:
        """Add a list item as a line of its own, nested ones indented."""
        words = clean_inline(text)
        if words:
            self._add(f"{'  ' * depth}{marker} {words}", kind="item")

    def table(self, rows: Sequence[Sequence[str]], *, header: bool | None = None) -> None:
        """Add a table, one self-contained line per row; `table_lines` says what `header` means."""
        self._add("\n".join(table_lines(rows, header=header)), kind="lines")

    def lines(self, lines: Sequence[str]) -> None:
        """Add lines that belong together as one block."""
        cleaned = (clean_inline(line) for line in lines)
        self._add("\n".join(line for line in cleaned if line), kind="lines")

    def code(self, text: str) -> None:
        """Add preformatted text."""
        self._add(clean_code(text), kind="code")

    def verbatim(self, text: str) -> None:
        """Add plain text with its own line breaks and spaces."""
        self._add(clean_lines(text), kind="verbatim")

    def page(self) -> None:
        """Start a page: the next block is its first."""
        self._pages.append(None)

    def attach(self, name: str, media_type: str, content: bytes) -> None:
        """Add a file that is to be a document of its own."""
        content_hash = hashlib.sha256(content).hexdigest()
        self.attachments.append(Attachment(name, media_type, content_hash, content))

    def warn(self, message: str) -> None:
        """Note something skipped or guessed, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    @property
    def is_blank(self) -> bool:
        """Whether no text was added yet."""
        return not any(part.strip() for part in self._parts)

    def document(self, *, title: str | None, name: str, media_type: str) -> Document:
        """The finished document. Raises EmptyDocument when there is no text."""
        if self.is_blank:
            raise EmptyDocument(f"{name or 'The document'} holds no text.")
        return Document(
            text="".join(self._parts),
            title=self._title(title, name),
            media_type=media_type,
            pages=tuple(self._length if start is None else start for start in self._pages),
            headings=tuple(self._headings),
            metadata={key: value for key, value in self.metadata.items() if value},
            warnings=tuple(self.warnings),
            attachments=tuple(self.attachments),
        )

    def _add(self, text: str, *, kind: str, separator: str = "\n\n") -> int:
        """Append a block and return the offset at which it starts."""
        if not text:
            return self._length
        if not self._parts:
            separator = ""
        elif kind == self._previous == "item":
            separator = "\n"
        start = self._length + len(separator)
        self._start_pages(start)
        self._parts += (separator, text)
        self._length = start + len(text)
        self._previous = kind
        if self._length > self.max_chars:
            raise TooLarge(
                f"The document holds more than {self.max_chars:,} characters of text.",
                hint="Split it, or raise RAG_MAX_TEXT_CHARS.",
            )
        return start

    def _start_pages(self, start: int) -> None:
        """Give pages that wait for their first block this offset; page 1 always starts at 0."""
        position = len(self._pages) - 1
        while position >= 0 and self._pages[position] is None:
            self._pages[position] = start
            position -= 1

    def _title(self, title: str | None, name: str) -> str:
        explicit = clean_inline(title or "")
        if explicit:
            return explicit
        first = next((h.title for h in self._headings if h.level == 1), "")
        # PureWindowsPath splits at both kinds of slash: names come from either world.
        return sensible_title(self.title) or first or clean_inline(PureWindowsPath(name).stem)
