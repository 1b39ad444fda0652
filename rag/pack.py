"""Hits -> context within a token budget. Pure."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from rag.types import Chunk, Context, Cut, Hit, Passage, Scores

MAX_LEAD = 64  # characters of white space between neighbours that are merged


def pack(hits: Sequence[Hit], *, budget: int, count_tokens: Callable[[str], int]) -> Context:
    """The best hits that fit into `budget` tokens, as numbered passages, best first.

    Neighbouring chunks of one document become one passage that reads as the document does;
    texts seen before are dropped. `count_tokens` counts as the generator does.
    """
    fresh = _without_repeats(hits)
    kept, cuts = _within(fresh, budget, count_tokens)
    if len(fresh) < len(hits):
        what = f"{len(hits) - len(fresh)} hits"
        cuts.append(Cut(what, "their text is in the context already"))
    passages = tuple(_passage(n, run, count_tokens) for n, run in enumerate(_runs(kept), 1))
    return Context(passages, sum(passage.tokens for passage in passages), tuple(cuts))


def _without_repeats(hits: Sequence[Hit]) -> list[Hit]:
    best = {_words(hit): hit for hit in reversed(hits)}
    return [hit for hit in hits if best[_words(hit)] is hit]


def _words(hit: Hit) -> str:
    return " ".join(hit.chunk.text.split()).casefold()


def _within(
    hits: Sequence[Hit], budget: int, count_tokens: Callable[[str], int]
) -> tuple[list[Hit], list[Cut]]:
    kept: list[Hit] = []
    left = budget
    for hit in hits:
        tokens = count_tokens(hit.chunk.embedded_text)
        if tokens > left:
            break  # the next best is not let in before this one: rank decides, not length
        kept.append(hit)
        left -= tokens
    dropped = len(hits) - len(kept)
    cuts = [Cut(f"{dropped} hits", f"the context holds {budget} tokens")] if dropped else []
    return kept, cuts


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
