"""Where sentences begin and end, in parsed text and in text with wrapped lines.

Rules, no model: a blank line always ends a sentence, a line break does unless it looks like a
soft wrap, a terminator does when what follows may begin a sentence and what precedes is no
abbreviation.
"""

import re
from collections.abc import Iterator

Span = tuple[int, int]

# From here on a line may have been wrapped by an editor; shorter ones were ended by their author.
_MIN_WRAPPED_CHARS = 45
_LINE = re.compile(r"[^\n]+")
_LIST_MARKER = re.compile(
    r"(?:[-*+•‣▪◦·–—]|\(?(?:\d{1,3}|[A-Za-z]|[ivx]{2,5}|[IVX]{2,5})[.)])\s|#{1,6}\s"
)
_ROW_MARK = " | "

_CLOSING = "\"'”’»)\\]›」』】）"
# The look-behind lets a match begin only where a run of marks does: linear time on "......".
_TERMINATORS = re.compile(rf"(?<![.!?…])[.!?…]++[{_CLOSING}]*+(?=\s)|[。！？｡][。！？｡{_CLOSING}]*")
_FULL_WIDTH = "。！？｡"
# Marks that may stand before the first word of a sentence.
_OPENING = "\"'“‘„«‹([{¡¿「『【（–—•*#@$€£§"
# The word that a full stop closes, seen from the stop; long enough for every abbreviation below.
_LAST_WORD = re.compile(r"[^\s(\[{“”\"'‘’„«»—–/]+$")
_LAST_WORD_CHARS = 24
_FIRST_WORD = re.compile(r"[^\W\d_]+")
_INITIALS = re.compile(r"[A-ZÀ-Þ](?:[.-]+[A-ZÀ-Þ])*")
_ENUMERATOR = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,5})(?:\.\d{1,3})*")
_NUMBER = re.compile(r"\d|[IVXLC]+\b")
_LETTER_STOP = re.compile(r"[^\W\d_]\.")
# German writes ordinals and so dates with a full stop: "am 3. Oktober 1990".
_DAY = re.compile(r"\d{1,2}")
_GERMAN_MONTH = re.compile(
    r"(?:Jan|Jän|Feb|Mär|April|Apr\.|Mai|Juni|Juli|Aug|Sep|Okt|Nov|Dez)[a-zä.]*"
)

# fmt: off
# After these a sentence never ends: a name, a number or an example follows.
_NEVER_LAST = frozenset([
    "mr", "mrs", "ms", "dr", "prof", "rev", "hon", "st", "gen", "col", "lt", "maj", "capt",
    "cmdr", "sgt", "gov", "sen", "rep", "pres", "messrs", "mme", "mlle", "hr", "fr", "mt", "ft",
    "e.g", "i.e", "eg", "ie", "viz", "cf", "vs", "v", "ca", "c", "approx", "incl", "excl", "resp",
    "z.b", "d.h", "u.a", "bzw", "vgl", "dipl", "ing",
])
# After these it does not end when a number follows.
_BEFORE_NUMBERS = frozenset([
    "fig", "figs", "eq", "eqs", "no", "nos", "nr", "vol", "vols", "ch", "chap", "sec", "sect",
    "p", "pp", "par", "art", "arts", "tab", "ref", "refs", "ed", "ver", "abb", "abs", "bd", "kap",
    "s", "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
])
# After these it ends only before a word that begins sentences far more often than names.
_SOMETIMES_LAST = frozenset([
    "inc", "ltd", "co", "corp", "jr", "sr", "etc", "al", "a.m", "p.m", "ph.d", "b.c", "a.d",
    "b.c.e", "c.e", "dept", "univ", "assn", "bros", "est", "usw", "op", "cit",
])
_STARTERS = frozenset([
    "a", "after", "all", "also", "although", "an", "and", "as", "at", "because", "before", "both",
    "but", "by", "das", "der", "die", "during", "each", "es", "for", "from", "he", "her", "here",
    "his", "how", "however", "i", "if", "ihr", "in", "it", "its", "many", "more", "most", "no",
    "not", "on", "one", "our", "she", "sie", "since", "so", "some", "such", "that", "the",
    "their", "then", "there", "therefore", "these", "they", "this", "those", "thus", "to",
    "under", "until", "we", "what", "when", "where", "which", "while", "who", "why", "wir",
    "with", "you", "your",
])
# fmt: on


def sentence_spans(text: str) -> list[Span]:
    """Character spans of the sentences of a text, in order.

    Spans do not overlap, begin and end with a visible character, and together cover all of them.
    """
    return [span for start, end in _paragraphs(text) for span in _sentences(text, start, end)]


def _paragraphs(text: str) -> Iterator[Span]:
    """Runs of lines that wrap one paragraph, without surrounding white space."""
    start = end = -1
    for match in _LINE.finditer(text):
        line_start, line_end = _trim(text, match.start(), match.end())
        if line_start == line_end:
            continue
        if end >= 0 and _is_wrapped(text, (start, end), (line_start, line_end)):
            end = line_end
            continue
        if end >= 0:
            yield start, end
        start, end = line_start, line_end
    if end >= 0:
        yield start, end


def _is_wrapped(text: str, above: Span, line: Span) -> bool:
    """Whether the break between a paragraph so far and the next line is a soft wrap."""
    between = text[above[1] : line[0]]
    last_line = max(above[0], text.rfind("\n", above[0], above[1]) + 1)
    if between.count("\n") != 1 or above[1] - last_line < _MIN_WRAPPED_CHARS:
        return False
    if not text[line[0]].isalnum() or _LIST_MARKER.match(text, line[0], line[1] + 1):
        return False
    if text.find(_ROW_MARK, last_line, above[1]) >= 0 or text.find(_ROW_MARK, *line) >= 0:
        return False
    if text[above[1] - 1] == ".":
        return _stop_is_inside(text, above[0], above[1] - 1, line[0])
    return text[above[1] - 1] not in "!?…:" + _FULL_WIDTH


def _sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """The sentences of one paragraph; a table row is quoted whole or not at all."""
    if text.find(_ROW_MARK, start, end) < 0:
        for match in _TERMINATORS.finditer(text, start, end):
            if _ends_sentence(text, start, match, end):
                yield start, match.end()
                start = _skip_space(text, match.end(), end)
    if start < end:
        yield start, end


def _ends_sentence(text: str, start: int, match: re.Match[str], end: int) -> bool:
    mark = match[0]
    if mark[0] in _FULL_WIDTH:
        return True
    following = _skip_space(text, match.end(), end)
    if following == end or not _may_begin(text[following]):
        return False
    stop_alone = mark[0] == "." and not mark.startswith("..")
    return not (stop_alone and _stop_is_inside(text, start, match.start(), following))


def _may_begin(character: str) -> bool:
    """Capitals, digits, opening marks, and letters of scripts that have no capitals."""
    if character.isalpha():
        return not character.islower()
    return character.isdigit() or character in _OPENING


def _stop_is_inside(text: str, start: int, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` belongs to an abbreviation, an initial or a numbering."""
    found = _LAST_WORD.search(text, max(start, stop - _LAST_WORD_CHARS), stop)
    if not found:
        return False
    word = found[0]
    if _ENUMERATOR.fullmatch(word) and found.start() == start:
        return True  # "1." or "a." at the start of its line
    if word.lower() in _NEVER_LAST:
        return True
    if len(word) == 1 and _LETTER_STOP.match(text, following):
        return True  # "z. B.", "U. S."
    if word.lower() in _BEFORE_NUMBERS:
        return bool(_NUMBER.match(text, following))
    if _DAY.fullmatch(word):
        return bool(_GERMAN_MONTH.match(text, following))
    if word.lower() in _SOMETIMES_LAST or (_INITIALS.fullmatch(word) and word != "I"):
        return not _is_starter(text, following)
    return False


def _is_starter(text: str, position: int) -> bool:
    match = _FIRST_WORD.match(text, position)
    return match is not None and match[0].lower() in _STARTERS


def _skip_space(text: str, start: int, end: int) -> int:
    while start < end and text[start].isspace():
        start += 1
    return start


def _trim(text: str, start: int, end: int) -> Span:
    """The span without white space at its ends; empty when there is nothing else."""
    start = _skip_space(text, start, end)
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
