"""Delimited text (CSV, TSV): bytes -> rows."""

import csv
import io
from collections.abc import Sequence
from statistics import median_low

from rag.errors import MalformedDocument
from rag.parse.decode import decode
from rag.parse.draft import Draft
from rag.parse.table import is_numeric

_SNIFF_LINES = 50
_DELIMITERS = ",;\t|"
# csv refuses fields over 131,072 characters; whole articles stand in one field of data sets.
_MAX_FIELD_CHARS = 10_000_000


def parse_csv(data: bytes, draft: Draft) -> None:
    """Read delimited values; the delimiter is found in the first lines.

    The first row names the columns unless it holds numbers or repeats itself.
    """
    decoded = decode(data)
    draft.warnings.extend(decoded.warnings)
    text = decoded.text.replace("\x00", "")
    rows = _read_rows(text, _sniff_delimiter(text))
    draft.table(rows, header=_has_header(rows))


def _sniff_delimiter(text: str) -> str:
    """The delimiter whose count per line is most even; a comma when none is."""
    lines = [line for line in text.splitlines()[:_SNIFF_LINES] if line.strip()]
    scores = {mark: _evenness([line.count(mark) for line in lines]) for mark in _DELIMITERS}
    best = max(scores, key=lambda mark: scores[mark])
    return best if scores[best] > 0 else ","


def _evenness(counts: Sequence[int]) -> float:
    """How far a delimiter explains the lines: share of lines with the usual count, then the count.

    A mark that the usual line lacks explains nothing.
    """
    if not counts:
        return 0.0
    usual = median_low(sorted(counts))
    if usual == 0:
        return 0.0
    return counts.count(usual) / len(counts) + min(usual, 50) / 1000


def _read_rows(text: str, delimiter: str) -> list[list[str]]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return list(reader)
    except csv.Error as error:
        raise MalformedDocument(
            f"Line {reader.line_num} is not valid CSV: {error}.",
            hint="Look for a quotation mark that is never closed.",
        ) from error


def _has_header(rows: Sequence[list[str]]) -> bool:
    """A header is the custom: only numbers or repeated names in row one say otherwise."""
    first = next((row for row in rows if sum(bool(c.strip()) for c in row) > 1), [])
    names = [cell.strip() for cell in first if cell.strip()]
    return len(names) > 1 and len(set(names)) == len(names) and not any(map(is_numeric, names))
