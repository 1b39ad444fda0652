"""Hits -> context within a token budget. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise

from rag.types import Chunk, Context, Cut, Dropped, Hit, Passage, Scores

MAX_LEAD = 64  # characters of white space between neighbours that are merged


def pack(hits: Sequence[Hit], *, budget: int, count_tokens: Callable[[str], int]) -> Context:
    """The best hits that fit into `budget` tokens, as numbered passages, best first.

    Neighbouring chunks of one document become one passage that reads as the document does;
    texts seen before are dropped. `count_tokens` counts as the generator does.
    """
    fresh, repeated = _without_repeats(hits)
    kept, beyond = _within(fresh, budget, count_tokens)
    dropped = [Dropped(hit, f"the context holds {budget} tokens") for hit in beyond]
    dropped += [Dropped(hit, "its text is in the context already") for hit in repeated]
    reasons = Counter(one.why for one in dropped)
    cuts = tuple(Cut(f"{count} hits", why) for why, count in reasons.items())
    passages = tuple(_passage(n, run, count_tokens) for n, run in enumerate(_runs(kept), 1))
    tokens = sum(passage.tokens for passage in passages)
    return Context(passages, tokens, cuts, tuple(dropped))


def _without_repeats(hits: Sequence[Hit]) -> tuple[list[Hit], list[Hit]]:
    best = {_words(hit): hit for hit in reversed(hits)}
    fresh = [hit for hit in hits if best[_words(hit)] is hit]
    return fresh, [hit for hit in hits if best[_words(hit)] is not hit]


def _words(hit: Hit) -> str:
    return " ".join(hit.chunk.text.split()).casefold()


def _within(
    hits: Sequence[Hit], budget: int, count_tokens: Callable[[str], int]
) -> tuple[Sequence[Hit], Sequence[Hit]]:
    """(the first hits that fit, the rest)."""
    left = budget
    for at, hit in enumerate(hits):
        left -= count_tokens(hit.chunk.embedded_text)
        if left < 0:
            return hits[:at], hits[at:]  # rank decides, not length: no shorter one slips in
    return hits, []


def _runs(hits: Sequence[Hit]) -> list[list[Hit]]:
    """Hits of touching chunks together, each run in document order, runs by their best hit."""
    rank = {hit.point_id: at for at, hit in enumerate(hits)}
    runs: list[list[Hit]] = []
    for hit in sorted(hits, key=lambda h: (h.chunk.document_id, h.chunk.index)):
        if runs and _touch(runs[-1][-1].chunk, hit.chunk):
            runs[-1].append(hit)
        else:
            runs.append([hit])
    return sorted(runs, key=lambda run: min(rank[hit.point_id] for hit in run))


def _touch(before: Chunk, after: Chunk) -> bool:
    return (
        before.document_id == after.document_id
        and before.index + 1 == after.index
        and after.start - before.end <= MAX_LEAD
    )


def _passage(number: int, run: Sequence[Hit], count_tokens: Callable[[str], int]) -> Passage:
    chunks = [hit.chunk for hit in run]
    text = chunks[0].text
    for before, after in pairwise(chunks):
        overlap = before.end - after.start
        text += after.text[overlap:] if overlap >= 0 else after.lead + after.text
    first = chunks[0]
    return Passage(
        number=number,
        document_id=first.document_id,
        title=first.title,
        text=text,
        start=first.start,
        end=chunks[-1].end,
        tokens=count_tokens(text),
        page=first.page,
        headings=first.headings,
        source=first.source,
        scores=_best_scores(run),
        chunks=tuple(chunks),
    )


def _best_scores(run: Sequence[Hit]) -> Scores:
    """The scores of the run's best hit: the one that brought the passage in."""
    return max(run, key=lambda hit: hit.score).scores
