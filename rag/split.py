"""Document -> chunks: exact tokens of the embedder, exact character offsets, whole sentences.

Sentences are packed greedily up to the chunk size. A heading closes a chunk that is large enough
to stand alone, so that a chunk rarely mixes sections; within a section the next chunk repeats the
last sentences of the one before (the overlap). A sentence longer than a chunk is cut between
words, a row of a table between cells, which have their column's name before them. Title and heading
path are embedded with every chunk and count toward its size.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from tokenizers import Tokenizer

from rag.sentences import sentence_spans
from rag.types import Chunk, Document, Metadata

SPLITTER = 2  # part of the pipeline fingerprint: raise it when the same text would split otherwise
_CELL_MARK = "|"  # between the cells of a row, see `rag.parse.table`
_BATCH = 512  # texts tokenized at once, which bounds the memory a long document takes


@dataclass(frozen=True, slots=True)
class Split:
    """Chunks in order, and for each token id in how many of them it occurs (late interaction)."""

    chunks: tuple[Chunk, ...]
    token_chunks: Mapping[int, int]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Unit:
    """A sentence, or a piece of one that is longer than a chunk."""

    start: int
    end: int
    tokens: int
    opens_section: bool  # the unit is a heading


def split_document(
    document: Document,
    *,
    document_id: str,
    generation: int,
    tokenizer: Tokenizer,
    chunk_tokens: int,
    overlap: int,
    instruction: str = "",
    source: str = "",
    metadata: Metadata | None = None,
) -> Split:
    """Cut a document into chunks of at most `chunk_tokens` tokens, as the embedder counts them.

    `tokenizer` must neither truncate nor pad. `instruction` is what the embedder puts before a
    passage: it is not part of the chunk but counts toward its size.
    """
    frame = _Frame(document, tokenizer, chunk_tokens, instruction)
    chunks: list[Chunk] = []
    for first, last in _pack(frame, overlap):
        before = chunks[-1].end if chunks else first.start
        chunks.append(
            Chunk(
                document_id=document_id,
                generation=generation,
                index=len(chunks),
                title=frame.title,
                text=document.text[first.start : last.end],
                start=first.start,
                end=last.end,
                tokens=0,
                page=frame.page(first.start),
                page_breaks=frame.page_breaks(first.start, last.end),
                headings=frame.path(first.start),
                lead=document.text[before : first.start],
                source=source,
                metadata=metadata or {},
            )
        )
    counted, token_chunks = _count(chunks, tokenizer, instruction)
    return Split(tuple(counted), token_chunks, frame.warnings)


class _Frame:
    """A document with what its chunks need to know of it: units, heading paths, pages, prefixes."""

    def __init__(
        self, document: Document, tokenizer: Tokenizer, chunk_tokens: int, instruction: str
    ) -> None:
        self.document = document
        self.tokenizer = tokenizer
        self.chunk_tokens = chunk_tokens
        # Special tokens and the instruction stand before or after every chunk.
        self.overhead = len(tokenizer.encode(instruction).ids)
        self.warnings: tuple[str, ...] = ()
        self.title = self._fitting_title()
        self._paths = _heading_paths(document)
        self._starts = [start for start, _ in self._paths]
        self._prefixes: dict[tuple[str, ...], int] = {}
        self._fitted: dict[tuple[str, ...], tuple[str, ...]] = {}

    def page(self, offset: int) -> int | None:
        pages = self.document.pages
        return bisect_right(pages, offset) if pages else None

    def page_breaks(self, start: int, end: int) -> tuple[int, ...]:
        """Where further pages start within a chunk."""
        pages = self.document.pages
        return tuple(pages[bisect_right(pages, start) : bisect_left(pages, end)])

    def path(self, offset: int) -> tuple[str, ...]:
        """Headings above an offset, outermost dropped first when they would fill the chunk."""
        at = bisect_right(self._starts, offset) - 1
        path = self._paths[at][1] if at >= 0 else ()
        if path not in self._fitted:
            fitted = path
            while fitted and self._prefix_tokens(fitted) > self.chunk_tokens // 2:
                fitted = fitted[1:]
            self._fitted[path] = fitted
        return self._fitted[path]

    def room(self, offset: int) -> int:
        """Tokens left for text in a chunk that starts here."""
        return self.chunk_tokens - self.overhead - self._prefix_tokens(self.path(offset))

    def units(self) -> Iterator[_Unit]:
        """The document's sentences, in order; those longer than any chunk in pieces."""
        text = self.document.text
        headings = {heading.start for heading in self.document.headings}
        spans = iter(sentence_spans(text))
        while batch := list(islice(spans, _BATCH)):
            encodings = self.tokenizer.encode_batch_fast(
                [text[start:end] for start, end in batch], add_special_tokens=False
            )
            for (start, end), encoding in zip(batch, encodings, strict=True):
                unit = _Unit(start, end, len(encoding.ids), start in headings)
                # Half a chunk is what every prefix leaves free, see `path`.
                if unit.tokens > self.room(start):
                    yield from self._pieces(unit)
                else:
                    yield unit

    def _pieces(self, unit: _Unit) -> Iterator[_Unit]:
        encoding = self.tokenizer.encode(
            self.document.text[unit.start : unit.end], add_special_tokens=False
        )
        offsets = encoding.offsets
        first, opens = 0, unit.opens_section
        while first < len(offsets):
            start = unit.start + offsets[first][0]
            last = _word_break(offsets, first, min(first + self.room(start), len(offsets)))
            last = self._cell_break(unit, offsets, first, last)
            yield _Unit(start, unit.start + offsets[last - 1][1], last - first, opens)
            first, opens = last, False

    def _cell_break(
        self, unit: _Unit, offsets: Sequence[tuple[int, int]], first: int, last: int
    ) -> int:
        """The largest cut <= `last` behind a mark between cells that leaves half of the piece."""
        if last >= len(offsets):
            return last
        for cut in range(last, (first + last) // 2, -1):
            start, end = (unit.start + offset for offset in offsets[cut - 1])
            if self.document.text[start:end].strip() == _CELL_MARK:
                return cut
        return last

    def _prefix_tokens(self, path: tuple[str, ...]) -> int:
        if path not in self._prefixes:
            prefix = Chunk("", 0, 0, self.title, "", 0, 0, 0, headings=path).embedded_text
            ids = self.tokenizer.encode(prefix, add_special_tokens=False).ids
            self._prefixes[path] = len(ids)
        return self._prefixes[path]

    def _fitting_title(self) -> str:
        """The title, cut between words when it alone would take more than a quarter of a chunk."""
        title = self.document.title
        encoding = self.tokenizer.encode(title, add_special_tokens=False)
        most = self.chunk_tokens // 4
        if len(encoding.ids) <= most:
            return title
        self.warnings = (f"the title is embedded in part: {most} of {len(encoding.ids)} tokens",)
        last = _word_break(encoding.offsets, 0, most)
        return title[: encoding.offsets[last - 1][1]]


def _pack(frame: _Frame, overlap: int) -> Iterator[tuple[_Unit, _Unit]]:
    """(first, last) unit of every chunk."""
    held: list[_Unit] = []
    fresh = 0  # how many of `held` were in no chunk before
    for unit in frame.units():
        # Again, for headings carried over: they may leave too little room for what follows.
        while held and fresh and _closes(frame, held, unit):
            moved = _trailing_headings(frame, held[-fresh:], unit)
            done = held[: len(held) - len(moved)]
            yield done[0], done[-1]
            carried = [] if unit.opens_section or moved else _tail(done, overlap)
            held, fresh = carried + moved, len(moved)
            # The repeated sentences must not push the new one out.
            while len(held) > fresh and _tokens(held) + unit.tokens > frame.room(held[0].start):
                held.pop(0)
        held.append(unit)
        fresh += 1
    if fresh:
        yield held[0], held[-1]


def _closes(frame: _Frame, held: Sequence[_Unit], unit: _Unit) -> bool:
    room = frame.room(held[0].start)
    if _tokens(held) + unit.tokens > room:
        return True
    return unit.opens_section and _tokens(held) >= room // 3


def _tokens(units: Sequence[_Unit]) -> int:
    return sum(unit.tokens for unit in units)


def _trailing_headings(frame: _Frame, fresh: Sequence[_Unit], unit: _Unit) -> list[_Unit]:
    """The headings at the end, which belong to what follows, as far as they fit beside it.

    The first unit stays: a chunk that is all headings is closed as it is.
    """
    at = len(fresh)
    while at > 1 and fresh[at - 1].opens_section:
        at -= 1
    moved = list(fresh[at:])
    while moved and _tokens(moved) + unit.tokens > frame.room(moved[0].start):
        moved.pop(0)
    return moved


def _tail(units: Sequence[_Unit], overlap: int) -> list[_Unit]:
    tail: list[_Unit] = []
    for unit in reversed(units[1:]):
        if _tokens(tail) + unit.tokens > overlap or unit.opens_section:
            break
        tail.insert(0, unit)
    return tail


def _word_break(offsets: Sequence[tuple[int, int]], first: int, last: int) -> int:
    """The largest cut <= `last` between two words, or `last` when that is one long word."""
    if last >= len(offsets):
        return last
    for cut in range(last, first, -1):
        if offsets[cut][0] > offsets[cut - 1][1]:
            return cut
    return last


def _heading_paths(document: Document) -> list[tuple[int, tuple[str, ...]]]:
    """(offset, titles of the headings above the text from here on)."""
    paths: list[tuple[int, tuple[str, ...]]] = []
    stack: list[tuple[int, str]] = []
    for heading in document.headings:
        while stack and stack[-1][0] >= heading.level:
            stack.pop()
        stack.append((heading.level, heading.title))
        paths.append((heading.start, tuple(title for _, title in stack)))
    return paths


def _count(
    chunks: Sequence[Chunk], tokenizer: Tokenizer, instruction: str
) -> tuple[list[Chunk], Counter[int]]:
    """The chunks with the tokens that the embedder will see, and the token document frequencies."""
    counted: list[Chunk] = []
    frequencies: Counter[int] = Counter()
    for at in range(0, len(chunks), _BATCH):
        batch = chunks[at : at + _BATCH]
        encodings = tokenizer.encode_batch_fast([instruction + c.embedded_text for c in batch])
        for chunk, encoding in zip(batch, encodings, strict=True):
            counted.append(replace(chunk, tokens=len(encoding.ids)))
            frequencies.update(set(encoding.ids))
    return counted, frequencies
