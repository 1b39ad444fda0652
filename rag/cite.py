"""Answer and context -> citations whose quotes are exactly what the documents say. Pure.

An answer points at passages with `[n]`. Here each pointer becomes the sentence of that passage
which carries most of the claim's words, with its offsets in the document; a pointer to nothing is
taken out of the text and reported; a sentence without a pointer gets one when a passage holds
nearly all its words.
"""

import math
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rag.sentences import sentence_spans
from rag.types import Citation, Context, Cut, Passage

MARKER = re.compile(r"\s?\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    """a an and are as at be been but by can could did do does for from had has have he her his
    i in is it its no not of on or she so such than that the their them then there these they
    this to was we were what when where which who whom whose why how will with would you
    """.split()  # noqa: SIM905 - a list of 60 quoted words is harder to read
)
ATTRIBUTED = 0.74  # a sentence holding a larger share of a claim's words is cited unasked


@dataclass(frozen=True, slots=True)
class Quote:
    """A span of a passage: `passage.text[start:end]`."""

    passage: Passage
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Cited:
    """The answer's text as it stands after checking, its citations, and what was taken out."""

    text: str
    citations: tuple[Citation, ...]
    cuts: tuple[Cut, ...] = ()
    notes: tuple[str, ...] = ()


def citation(quote: Quote) -> Citation:
    """The citation of a span."""
    passage = quote.passage
    start = passage.start + quote.start
    page, headings = passage.place(start)
    return Citation(
        marker=passage.number,
        document_id=passage.document_id,
        title=passage.title,
        source=passage.source,
        page=page,
        headings=headings,
        quote=passage.text[quote.start : quote.end],
        start=start,
        end=passage.start + quote.end,
        scores=passage.scores,
    )


def cite(text: str, context: Context, quotes: Sequence[Quote] | None = None) -> Cited:
    """Check every `[n]` of an answer against the passages.

    `quotes` are the spans that the text is known to consist of; then there is nothing to look for.
    """
    if quotes is not None:
        return Cited(text, tuple(citation(quote) for quote in quotes))
    passages = {passage.number: passage for passage in context.passages}
    kept, dangling = _without_dangling(text, passages.keys())
    cuts = [Cut(f"[{n}]", "there is no passage of this number") for n in dangling]
    citations: list[Citation] = []
    pieces: list[str] = []
    attributed = 0
    for sentence in sentences_of(kept):
        claim = MARKER.sub("", sentence)
        proofs = {n: best_quote(claim, [passages[n]]) for n in _numbers(sentence)}
        unlike = [n for n, proof in proofs.items() if proof is None]
        why = f"its passage shares no word with {claim.strip()!r}"
        cuts += [Cut(f"[{n}]", why) for n in unlike]
        checked, _ = _without_dangling(sentence, proofs.keys() - unlike)
        if not proofs and (found := best_quote(claim, context.passages, ATTRIBUTED)):
            proofs, attributed = {found.passage.number: found}, attributed + 1
            checked = _with_marker(sentence, found.passage.number)
        citations += [citation(proof) for proof in proofs.values() if proof is not None]
        pieces.append(checked)
    notes = (f"{attributed} sentences were attributed by their words",) if attributed else ()
    return Cited("".join(pieces), tuple(dict.fromkeys(citations)), tuple(cuts), notes)


def best_quote(claim: str, passages: Sequence[Passage], least: float = 0.0) -> Quote | None:
    """The sentence that holds the largest share of the claim's content words, above `least`.

    Ties go to the shorter sentence: it says less that was not claimed.
    """
    wanted = content_words(claim)
    best, quote = (least, -math.inf), None
    for passage in passages:
        for start, end in sentence_spans(passage.text):
            words = content_words(passage.text[start:end])
            share = len(wanted & words) / max(1, len(wanted))
            if share > least and (share, -len(words)) > best:
                best, quote = (share, -len(words)), Quote(passage, start, end)
    return quote


def content_words(text: str) -> frozenset[str]:
    """Lower-cased words that carry meaning."""
    return frozenset(_WORD.findall(text.casefold())) - STOP_WORDS


def _without_dangling(text: str, numbers: Container[int]) -> tuple[str, list[int]]:
    dangling: list[int] = []

    def keep(match: re.Match[str]) -> str:
        named = [int(n) for n in re.findall(r"\d+", match[1])]
        real = [n for n in named if n in numbers]
        dangling.extend(n for n in named if n not in real)
        if not real:
            return ""
        lead = " " if match[0][0].isspace() else ""
        return lead + "".join(f"[{n}]" for n in real)

    return MARKER.sub(keep, text), dangling


def sentences_of(text: str) -> Iterator[str]:
    """The text in pieces, a sentence each, with the white space and markers that follow it."""
    starts = {_behind_markers(text, start) for start, _ in sentence_spans(text)}
    _, *further = sorted(starts - {len(text)}) or [0]
    for start, end in pairwise([0, *further, len(text)]):
        yield text[start:end]


def _behind_markers(text: str, at: int) -> int:
    """Where a sentence begins: a marker behind the full stop belongs to the one before it."""
    while marker := MARKER.match(text, at):
        at = marker.end()
        at += len(text[at:]) - len(text[at:].lstrip())
    return at


def _numbers(sentence: str) -> list[int]:
    named = [int(n) for m in MARKER.finditer(sentence) for n in re.findall(r"\d+", m[1])]
    return list(dict.fromkeys(named))


def _with_marker(sentence: str, number: int) -> str:
    body = sentence.rstrip()
    return f"{body} [{number}]{sentence[len(body) :]}"
