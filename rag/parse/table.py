"""Tables as text: every row a line that can be quoted alone."""

import re
from collections.abc import Iterable, Sequence
from statistics import median_low

from rag.parse.clean import clean_inline

_MAX_HEADER_CHARS = 80
_HEADER_SAMPLE = 50
# Numbers as people write them, with signs, units of money, percent, or a date or time.
_NUMERIC = re.compile(r"[-+±~≈<>(]*[$€£¥]?\s?\d[\d\s.,:/'’-]*\s?[%‰°$€£¥)]*")

Row = Sequence[str]


def table_lines(rows: Sequence[Row], *, header: bool | None = None) -> list[str]:
    """One line per row that makes sense alone: `Lighthouse: Bell Rock | Height (m): 36`.

    `header` says whether the first row names the columns, None lets `looks_like_header` decide.
    Leading rows of one cell over a wider table are captions and come first as they are. Without
    a header, values are joined by ` | `. Empty cells and empty rows are left out.
    """
    body = [row for row in map(_clean_row, rows) if any(row)]
    captions, body = _split_captions(body)
    if header is None:
        header = looks_like_header(body)
    if not header or len(body) < 2:
        return captions + [_joined(row) for row in body]
    names, records = [_name(cell) for cell in body[0]], body[1:]
    # A column without a single value would vanish together with its name.
    unused = [] if _names_all_used(names, records) else [_joined(names)]
    return captions + unused + [labelled_row(names, row) for row in records]


def looks_like_header(rows: Sequence[Row]) -> bool:
    """Whether the first row reads like column names: short, distinct words over differing values.

    Two columns of words may as well be a form (`Name | Ann`, `City | Oslo`), whose first row is no
    header: those need a column of numbers below a word as evidence.
    """
    if len(rows) < 2:
        return False
    filled = [cell for cell in rows[0] if _name(cell)]
    width = median_low(sum(map(bool, row)) for row in rows[1 : 1 + _HEADER_SAMPLE])
    if len(filled) < max(2, width - 1) or len({cell.casefold() for cell in filled}) < len(filled):
        return False
    if not all(map(_is_label, filled)):
        return False
    return len(filled) > 2 or _numbers_below_words(rows)


def labelled_row(names: Row, row: Row) -> str:
    """`name: value` pairs without the empty ones; where a name is missing, values stand alone."""
    pairs = []
    for position, value in enumerate(row):
        name = names[position] if position < len(names) else ""
        if value:
            pairs.append(f"{name}: {value}" if name else value)
    return " | ".join(pairs)


def is_numeric(cell: str) -> bool:
    """Whether a cell holds a number, an amount, a date or a time."""
    return bool(_NUMERIC.fullmatch(cell))


def _clean_row(row: Iterable[str]) -> list[str]:
    return [clean_inline(cell) for cell in row]


def _split_captions(rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Leading rows with one value, when the table below is wider, and the rest."""
    first = 0
    while first < len(rows) and sum(map(bool, rows[first])) == 1:
        first += 1
    if first == len(rows) or sum(map(bool, rows[first])) < 2:
        return [], rows
    captions = [_joined(row) for row in rows[:first]]
    return captions, rows[first:]


def _name(cell: str) -> str:
    """The name that a header cell gives its column: a lone dash or dot gives none."""
    return cell.removesuffix(":") if any(map(str.isalnum, cell)) else ""


def _joined(row: Row) -> str:
    return " | ".join(cell for cell in row if cell)


def _names_all_used(names: Row, records: Sequence[Row]) -> bool:
    used = {position for row in records for position, value in enumerate(row) if value}
    return all(position in used for position, name in enumerate(names) if name)


def _is_label(cell: str) -> bool:
    return len(cell) <= _MAX_HEADER_CHARS and not is_numeric(cell) and cell[-1] not in ".:;!"


def _numbers_below_words(rows: Sequence[Row]) -> bool:
    sample = rows[1 : 1 + _HEADER_SAMPLE]
    for position in range(len(rows[0])):
        values = [row[position] for row in sample if position < len(row) and row[position]]
        if values and 2 * sum(map(is_numeric, values)) > len(values):
            return True
    return False
