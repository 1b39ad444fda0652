"""Positioned lines of a page -> paragraphs, list items and headings. Pure: no PDF library here."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from rag.parse.clean import clean_inline

# What stands at the end of a line whose last word continues on the next one.
HYPHEN = "\x02"

_BULLET = re.compile(r"[•‣▪▫●○◦■□➢➤✓✔∙·\uf0b7\uf0a7]\s+(?=\S)")
# These begin items as well as wrapped lines of prose.
_DASH = re.compile(r"[*–—-]\s+(?=\S)")
_NUMBERED = re.compile(r"(?:\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)]|\[\d{1,3}\]|§)\s+\S")
_OPEN_END = re.compile(r"[^.!?:;…。！？\"”»)\]]\s*$")
_CJK = re.compile(r"[\u2e80-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef]")
_HYPHENATED = re.compile(r"[^\W\d_]{2}[-\u2010]$")
_HANGUL = re.compile(r"[\uac00-\ud7a3]")
_HANGUL_SPACE = re.compile(r"[\uac00-\ud7a3] $")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_BROKEN_WORD = re.compile(rf"([^\W\d_]*){HYPHEN}(\w*)")
_NUMBERING = re.compile(r"(?:chapter|section|part|kapitel|appendix|§)?[\divxlc.()]*", re.IGNORECASE)

_MAX_HEADING_CHARS = 150
_MAX_HEADING_LINES = 3
# Type larger than the body's makes a heading; less will do when it is bold, and numbered bold
# lines need none.
_HEADING_RATIO = 1.15
_BOLD_RATIO = 1.05
_NUMBERED_RATIO = 0.95
_SECTION = re.compile(
    r"(?:\d{1,2}\.?(?:\d{1,2}\.?)*|[IVX]{1,5}\.|[A-Z]\.(?:\d{1,2}\.?)*)\s+[^\W\d_]"
)
_MAX_HEADING_SHARE = 0.2
_MAX_SIZE_LEVELS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and its box in points; y grows upwards, a right-to-left line is mirrored.

    `size` is the size of its type, `bold` says that it begins and ends in bold type, `tabular`
    that wide gaps part it into columns; `level` is above 0 for a heading.
    """

    text: str
    left: float
    right: float
    bottom: float
    top: float
    size: float
    tabular: bool = False
    bold: bool = False
    level: int = 0

    @property
    def height(self) -> float:
        """Height of the line's box."""
        return self.top - self.bottom


@dataclass(frozen=True, slots=True)
class Block:
    """A paragraph, a list item or, with a `level`, a heading.

    `continues` marks a paragraph that goes on with the sentence of the page before.
    """

    text: str
    level: int = 0
    is_item: bool = False
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Bookmark:
    """An entry of a document's outline: its words, its page from 0, its level from 1."""

    title: str
    page: int
    level: int


@dataclass(frozen=True, slots=True)
class _Habits:
    """How this document writes: its words, and whether line ends part Korean words.

    Where they do, a line that ends between two words ends in a space.
    """

    vocabulary: Counter[str]
    parts_hangul: bool


def arrange(pages: Sequence[Sequence[Line]], outline: Sequence[Bookmark]) -> list[list[Block]]:
    """The blocks of every page. Headings come from the outline, else from the size of type."""
    rows = [_join_fragments(lines) for lines in pages]
    marked = _mark_outline(rows, outline)
    if not any(line.level for lines in marked for line in lines):
        marked = _mark_large_type(rows)
    habits = _learn_habits(rows)
    blocks = [list(_blocks(lines, habits)) for lines in marked]
    return _continued(blocks)


def _learn_habits(pages: Sequence[Sequence[Line]]) -> _Habits:
    return _Habits(
        vocabulary=Counter(word.lower() for lines in pages for word in _words(lines)),
        parts_hangul=any(_HANGUL_SPACE.search(line.text) for lines in pages for line in lines),
    )


def _join_fragments(lines: Sequence[Line]) -> list[Line]:
    """Raised notes and accents part a line into fragments that stand side by side: join them."""
    joined: list[Line] = []
    for line in lines:
        if joined and _is_beside(joined[-1], line):
            joined[-1] = _beside(joined[-1], line)
        else:
            joined.append(line)
    return joined


def _is_beside(first: Line, second: Line) -> bool:
    overlap = min(first.top, second.top) - max(first.bottom, second.bottom)
    low = min(first.height, second.height)
    gap = second.left - first.right
    return overlap > 0.5 * low and -0.2 * low <= gap <= 1.5 * max(first.height, second.height)


def _beside(first: Line, second: Line) -> Line:
    tight = second.left - first.right < 0.15 * second.height
    larger = first if len(first.text) >= len(second.text) else second
    return replace(
        larger,
        text=first.text + ("" if tight else " ") + second.text,
        left=first.left,
        right=max(first.right, second.right),
    )


def _words(lines: Iterable[Line]) -> Iterator[str]:
    for line in lines:
        # The broken word at the end is no evidence for either spelling.
        yield from _WORD.findall(line.text.partition(HYPHEN)[0])


def _mark_outline(pages: Sequence[Sequence[Line]], outline: Sequence[Bookmark]) -> list[list[Line]]:
    """Lines that repeat an entry of the outline on its page become headings."""
    marked = [list(lines) for lines in pages]
    for entry in outline:
        wanted = _compact(entry.title)
        if wanted and 0 <= entry.page < len(marked):
            lines = marked[entry.page]
            found = _find_lines(lines, wanted)
            if found:
                first, count = found
                merged = _merge(lines[first : first + count])
                lines[first : first + count] = [replace(merged, level=entry.level)]
    return marked


def _find_lines(lines: Sequence[Line], wanted: str) -> tuple[int, int] | None:
    """Position and number of the lines that say `wanted`, numbering before it aside.

    The least numbering wins: the title at the top of each page carries the page number as well.
    """
    found = sorted(_said_at(lines, wanted))
    return found[0][1:] if found else None


def _said_at(lines: Sequence[Line], wanted: str) -> Iterator[tuple[int, int, int]]:
    """Length of the numbering, position and number of lines, wherever `wanted` is said."""
    for first in range(len(lines)):
        said = ""
        for count, line in enumerate(lines[first : first + _MAX_HEADING_LINES], start=1):
            if line.level:
                break
            said += _compact(line.text)
            numbering = said.removesuffix(wanted)
            if said.endswith(wanted) and _NUMBERING.fullmatch(numbering):
                yield len(numbering), first, count


def _compact(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def _merge(lines: Sequence[Line]) -> Line:
    return replace(
        lines[0],
        text=" ".join(line.text for line in lines),
        left=min(line.left for line in lines),
        right=max(line.right for line in lines),
        bottom=lines[-1].bottom,
    )


def _mark_large_type(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Short lines in notably larger or bolder type become headings, the largest level 1."""
    body = _body_size(pages)
    marked = [_merge_headings(lines, body) for lines in pages]
    headings = [line for lines in marked for line in lines if line.level]
    total = sum(len(line.text) for lines in marked for line in lines)
    if sum(len(line.text) for line in headings) > total * _MAX_HEADING_SHARE:
        return [list(lines) for lines in pages]  # a poster, not a text with headings
    levels = _size_levels(line.size for line in headings)
    return [
        [replace(line, level=levels[round(line.size)]) if line.level else line for line in lines]
        for lines in marked
    ]


def _body_size(pages: Sequence[Sequence[Line]]) -> float:
    """The size that most characters are set in."""
    sizes: Counter[float] = Counter()
    for lines in pages:
        for line in lines:
            sizes[round(line.size * 2) / 2] += len(line.text)
    return sizes.most_common(1)[0][0] if sizes else 0.0


def _merge_headings(lines: Sequence[Line], body: float) -> list[Line]:
    """Mark lines that stand out, those of one heading merged; level 1 stands for any."""
    merged: list[Line] = []
    for line in lines:
        if not _stands_out(line, body) or not _reads_as_heading(line):
            merged.append(line)
        elif merged and merged[-1].level and _same_heading(merged[-1], line):
            merged[-1] = _merge([merged[-1], line])
        else:
            merged.append(replace(line, level=1))
    return merged


def _stands_out(line: Line, body: float) -> bool:
    if line.size >= body * _HEADING_RATIO:
        return True
    numbered = _SECTION.match(line.text)
    return line.bold and line.size >= body * (_NUMBERED_RATIO if numbered else _BOLD_RATIO)


def _reads_as_heading(line: Line) -> bool:
    letters = sum(map(str.isalpha, line.text))
    if line.tabular or letters < 2 or 2 * letters < len(line.text.replace(" ", "")):
        return False
    return len(line.text) <= _MAX_HEADING_CHARS and line.text.rstrip()[-1] not in ".,;"


def _same_heading(above: Line, line: Line) -> bool:
    near = 0 <= above.bottom - line.bottom <= 2 * line.height
    if not near or not _same_size(above, line) or _SECTION.match(line.text):
        return False
    return len(above.text) < _MAX_HEADING_CHARS


def _size_levels(sizes: Iterable[float]) -> dict[int, int]:
    """Whole point size -> level, the largest 1."""
    ranked = sorted({round(size) for size in sizes}, reverse=True)
    return {size: min(rank, _MAX_SIZE_LEVELS) for rank, size in enumerate(ranked, start=1)}


def _blocks(lines: Sequence[Line], habits: _Habits) -> Iterator[Block]:
    """Gather lines until one starts something new."""
    typical = _typical_gap(lines)
    edges = _right_edges(lines, typical)
    text = ""
    for position, line in enumerate(lines):
        above = lines[position - 1] if position else None
        glue = _glue(above, line, edges[position], typical) if above and text else None
        if glue is None:
            yield from _block(text, above, habits)
            text = line.text
        else:
            text = _glued(text, glue, line.text, habits)
    yield from _block(text, lines[-1] if lines else None, habits)


def _block(text: str, last: Line | None, habits: _Habits) -> Iterator[Block]:
    text = _mend_words(text, habits.vocabulary)
    if not text.strip() or last is None:
        return
    bullet = _BULLET.match(text) or _DASH.match(text)
    if last.level:
        yield Block(text, level=last.level)
    elif bullet:
        yield Block(text[bullet.end() :].replace("\n", " "), is_item=True)
    else:
        yield Block(text)


def _glue(above: Line, line: Line, edge: float, typical: float) -> str | None:
    """What joins a line to the one above: nothing, a space, a line break; None: a new block."""
    if above.text.endswith(HYPHEN):
        return ""
    if above.level or line.level or not _same_size(above, line):
        return None
    if _BULLET.match(line.text) or _NUMBERED.match(line.text):
        return None
    gap = above.bottom - line.top
    if line.bottom > above.bottom:  # up again: the next column
        return " " if _runs_on(above.text, line.text) else None
    if gap > _widest(typical, line):
        return None
    if above.tabular or line.tabular:
        return "\n"
    fitted = _would_have_fitted(above, line, edge)
    if _DASH.match(line.text) and (fitted or not _OPEN_END.search(above.text)):
        return None
    if fitted:
        return "\n" if _OPEN_END.search(above.text) else None
    if line.left - above.left > 0.8 * line.height and not _OPEN_END.search(above.text):
        return None  # an indented first line
    return " "


def _same_size(first: Line, second: Line) -> bool:
    return abs(first.size - second.size) <= 0.12 * max(first.size, second.size)


def _runs_on(above: str, below: str) -> bool:
    """Whether a sentence goes on: no end above, no beginning below."""
    return bool(_OPEN_END.search(above)) and below.lstrip()[:1].islower()


def _would_have_fitted(above: Line, line: Line, edge: float) -> bool:
    """Whether the first word of a line had room above: then its author broke the line."""
    word = line.text.split(maxsplit=1)[0] if line.text.strip() else ""
    character = (line.right - line.left) / max(1, len(line.text))
    # Text without spaces, as in Chinese, wraps between any two characters.
    width = character * (1 if _CJK.match(word) else len(word) + 1)
    return above.right + width < edge - 0.5 * character


def _glued(text: str, glue: str, line: str, habits: _Habits) -> str:
    if glue == " " and _HYPHENATED.search(text) and line[:1].islower():
        return text[:-1] + HYPHEN + line
    if glue == " " and (text[-1:] == " " or _written_together(text[-1:], line[:1], habits)):
        glue = ""
    return text + glue + line


def _written_together(before: str, after: str, habits: _Habits) -> bool:
    """Whether two characters of a script that wraps inside words belong together."""
    if _CJK.match(before) and _CJK.match(after):
        return True
    return habits.parts_hangul and bool(_HANGUL.match(before) and _HANGUL.match(after))


def _typical_gap(lines: Sequence[Line]) -> float:
    """The space between lines of running text on this page."""
    gaps = [
        above.bottom - line.top
        for above, line in pairwise(lines)
        if above.bottom > line.bottom and above.bottom - line.top < 1.5 * line.height
    ]
    return median(gaps) if gaps else 0.0


def _right_edges(lines: Sequence[Line], typical: float) -> list[float]:
    """For every line the right edge of the column it stands in: its run of close lines."""
    edges: list[float] = []
    first = 0
    for position in range(1, len(lines) + 1):
        if position == len(lines) or _leaves_run(lines[position - 1], lines[position], typical):
            edge = max(line.right for line in lines[first:position])
            edges += [edge] * (position - first)
            first = position
    return edges


def _leaves_run(above: Line, line: Line, typical: float) -> bool:
    if line.bottom > above.bottom or line.left > above.right or line.right < above.left:
        return True
    return not _same_size(above, line) or above.bottom - line.top > _widest(typical, line)


def _widest(typical: float, line: Line) -> float:
    """The widest gap above a line of the same paragraph."""
    return typical + 0.4 * line.height


def _mend_words(text: str, vocabulary: Counter[str]) -> str:
    return _BROKEN_WORD.sub(lambda match: _mended(match[1], match[2], vocabulary), text)


def _mended(start: str, end: str, vocabulary: Counter[str]) -> str:
    """A word broken at a line end: with its hyphen when the document elsewhere writes it so."""
    if not start or not end[:1].islower():
        return f"{start}-{end}"
    whole, hyphenated = f"{start}{end}", f"{start}-{end}"
    if vocabulary[hyphenated.lower()] > vocabulary[whole.lower()]:
        return hyphenated
    return whole


def _continued(pages: list[list[Block]]) -> list[list[Block]]:
    """Mark the first paragraph of a page when it finishes the last sentence of the page before."""
    before: Block | None = None
    for blocks in pages:
        if before and blocks and _is_text(before) and _is_text(blocks[0]):
            runs_on = _runs_on(before.text, blocks[0].text)
            blocks[0] = replace(blocks[0], continues=runs_on)
        before = blocks[-1] if blocks else before
    return pages


def _is_text(block: Block) -> bool:
    # Short blocks at a page's edge are running titles and page numbers.
    return not block.level and not block.is_item and len(clean_inline(block.text)) > 40
