"""Answer and context -> citations that were checked, whose quotes are what the documents say. Pure.

An answer points at passages with `[n]`. Each sentence is checked against those that it points at:
a passage that does not support it loses its pointer, and one that does is quoted with the words
that do. A sentence without a pointer gets one where a passage supports it. A pointer to nothing is
taken out. What becomes of a sentence that nothing supports is the policy's to say: `mark` keeps it
and says so, `drop` takes it out, `abstain` takes back the whole answer.
"""

import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from rag.check import Checker, Supported
from rag.claims import content_words
from rag.prompt import NO_ANSWER, is_refusal
from rag.sentences import sentence_spans
from rag.settings import CitationPolicy
from rag.types import Citation, Context, Cut, Quote, Sentence

MARKER = re.compile(r"\s?\[(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\]")
LEAST_WORDS = 2  # content words; a shorter sentence without a pointer claims nothing


@dataclass(frozen=True, slots=True)
class Cited:
    """The answer's text as it stands after checking, its citations, and what was taken out."""

    text: str
    citations: tuple[Citation, ...]
    sentences: tuple[Sentence, ...] = ()
    cuts: tuple[Cut, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Checked:
    """A sentence with the pointers that hold, and their proofs."""

    text: str
    supported: bool | None = None
    support: float | None = None
    proofs: tuple[Quote, ...] = ()
    cuts: tuple[Cut, ...] = ()
    attributed: bool = False


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
        quote=quote.text,
        start=start,
        end=passage.start + quote.end,
        scores=passage.scores,
    )


def cite(text: str, context: Context, checker: Checker, policy: CitationPolicy = "mark") -> Cited:
    """Check every sentence of an answer against the passages."""
    numbers = {passage.number for passage in context.passages}
    kept, dangling = _without_dangling(text, numbers)
    cuts = [Cut(f"[{n}]", "there is no passage of this number") for n in dangling]
    checked = [_check(sentence, context, checker) for sentence in sentences_of(kept)]
    cuts += [cut for one in checked for cut in one.cuts]
    unsupported = [one for one in checked if one.supported is False]
    if unsupported and policy != "mark":
        least = checker.calibration.threshold
        cuts += [Cut(one.text.strip(), _unsupported(one.support, least)) for one in unsupported]
        checked = [one for one in checked if one.supported is not False]
    claims = [one for one in checked if one.supported]
    if unsupported and (policy == "abstain" or (policy == "drop" and not claims)):
        return Cited(NO_ANSWER, (), cuts=tuple(cuts))
    return Cited(
        "".join(one.text for one in checked),
        tuple(dict.fromkeys(citation(proof) for one in checked for proof in one.proofs)),
        tuple(_placed(checked)),
        tuple(cuts),
        _notes(checked, unsupported, policy),
    )


def cite_quotes(text: str, quotes: Sequence[Quote], shown: Callable[[str], str]) -> Cited:
    """An answer that consists of quotes: there is nothing to check.

    `shown` is how a quote stands in the text.
    """
    found, at = [], 0
    for quote in quotes:
        start = text.index(shown(quote.text), at)
        at = start + len(shown(quote.text))
        marker = quote.passage.number
        found.append(Sentence(start, at, supported=True, support=1.0, markers=(marker,)))
    return Cited(text, tuple(citation(quote) for quote in quotes), tuple(found))


def _check(sentence: str, context: Context, checker: Checker) -> _Checked:
    claim = MARKER.sub("", sentence).strip()
    pointed = [passage for passage in context.passages if passage.number in _numbers(sentence)]
    if is_refusal(claim) or (not pointed and not _claims(claim)):
        return _Checked(_without_dangling(sentence, ())[0])
    checks = (checker.check(claim, passage) for passage in pointed or context.passages)
    found = [one for one in checks if one is not None]
    if pointed:
        found = _joined(claim, found, checker)
    best = max(found, key=lambda one: one.probability, default=None)
    proving = [one for one in found if one.enough]
    if not pointed:
        proving = proving and [max(proving, key=lambda one: one.probability)]
    proved = {one.quote.passage.number for one in proving}
    least = checker.calibration.threshold
    support = {one.quote.passage.number: one.probability for one in found}
    lost = [passage.number for passage in pointed if passage.number not in proved]
    text, _ = _without_dangling(sentence, proved)
    if proving and not pointed:
        text = _with_marker(sentence, proving[0].quote.passage.number)
    return _Checked(
        text,
        supported=bool(proving),
        support=best.probability if best else 0.0,
        proofs=tuple(one.quote for one in proving),
        cuts=tuple(
            Cut(f"[{n}]", f"{_unsupported(support.get(n), least)}: {claim[:100]!r}") for n in lost
        ),
        attributed=bool(proving) and not pointed,
    )


def _joined(claim: str, found: list[Supported], checker: Checker) -> list[Supported]:
    """The best two, where those support the claim together and none does alone.

    A sentence that joins what two passages say points at both, and neither says all of it.
    """
    if len(found) < 2 or any(one.enough for one in found):
        return found
    best = sorted(found, key=lambda one: -one.probability)[:2]
    joined = " ".join(one.quote.text for one in best)
    both = checker.check(claim, replace(best[0].quote.passage, text=joined))
    if both is None or not both.enough:
        return found
    return [replace(one, probability=both.probability, enough=True) for one in best]


def _claims(sentence: str) -> bool:
    """Whether a sentence without a pointer says something that could be wrong."""
    return not sentence.endswith(("?", ":")) and len(content_words(sentence)) >= LEAST_WORDS


def _placed(checked: Sequence[_Checked]) -> Iterator[Sentence]:
    at = 0
    for one in checked:
        body = one.text.strip()
        start = at + one.text.find(body)
        markers = tuple(dict.fromkeys(proof.passage.number for proof in one.proofs))
        if body:
            yield Sentence(start, start + len(body), one.supported, one.support, markers)
        at += len(one.text)


def _notes(
    checked: Sequence[_Checked], unsupported: Sequence[_Checked], policy: CitationPolicy
) -> tuple[str, ...]:
    notes = []
    if attributed := sum(one.attributed for one in checked):
        notes.append(f"{attributed} sentences without a citation were given one")
    if unsupported:
        fate = "marked" if policy == "mark" else "taken out"
        notes.append(f"{len(unsupported)} sentences that no passage supports were {fate}")
    return tuple(notes)


def _unsupported(support: float | None, least: float) -> str:
    found = 0.0 if support is None else support
    return f"the passage supports it with {found:.2f}, and {least:.2f} is needed"


def _without_dangling(text: str, numbers: Container[int]) -> tuple[str, list[int]]:
    dangling: list[int] = []
    spaced = -1  # where a marker ended that was taken out with the space before it

    def keep(match: re.Match[str]) -> str:
        nonlocal spaced
        named = [int(n) for n in re.findall(r"\d+", match[1])]
        real = [n for n in named if n in numbers]
        dangling.extend(n for n in named if n not in real)
        lead = " " if match[0][0].isspace() or spaced == match.start() else ""
        if not real:
            spaced = match.end() if lead else -1
            return ""
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
