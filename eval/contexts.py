"""What a question is answered from, once it is chosen how to search: contexts and their support."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from eval.datasets import Dataset
from eval.pool import LIMIT, Searchable
from eval.systems import Pooled, System, rank
from rag.choices import Choices, answered_from
from rag.pack import pack
from rag.quote import gather
from rag.rerank import LateInteractionReranker, rerank
from rag.retrieve import fuse
from rag.types import Context, Hit

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The two numbers of `rag.support`, and whether a relevant document is in the context."""

    sentence: float
    fused: float
    answerable: bool


def fused_hits(hits: Iterable[Hit], choices: Choices, held_out: Collection[str] = ()) -> list[Hit]:
    """The hits as `choices` fuse them, as if the documents that are held out were not there."""
    known = {hit.point_id: hit for hit in hits if hit.chunk.document_id not in held_out}
    dense = [(p, hit.scores.dense) for p, hit in known.items() if hit.scores.dense is not None]
    bm25 = [(p, hit.scores.bm25) for p, hit in known.items() if hit.scores.bm25 is not None]
    return [
        replace(known[p], score=score, scores=replace(known[p].scores, fused=score))
        for p, score in fuse(dense, bm25, choices)
    ]


def best_hits(
    question: str,
    hits: Iterable[Hit],
    source: Searchable,
    choices: Choices,
    held_out: Collection[str] = (),
) -> list[Hit]:
    """The hits that `ask` would answer from."""
    found = fused_hits(hits, choices, held_out)
    limit = answered_from(choices)
    if source.reranker is not None and choices.rerank_limit:
        found, _ = rerank(
            question, found, source.reranker, limit, source.frequencies, blend=choices.rerank_blend
        )
    return found[:limit]


def from_pool(one: Pooled, hits: Iterable[Hit], system: System) -> list[Hit]:
    """The same for a question whose candidates are scored already."""
    known = {hit.point_id: hit for hit in fused_hits(hits, system.choices)}
    best = rank(one, system)[: answered_from(system.choices)]
    return [replace(known[p], score=score) for p, score in best if p in known]


def span_recall(
    pool: Iterable[Pooled],
    source: Searchable,
    ways: Sequence[System],
    judged: Dataset,
    count_tokens: CountTokens,
) -> dict[str, list[bool]]:
    """Question -> whether an answer is in the context of each way to search, its budget included.

    Of those questions whose answers are known.
    """
    found = {}
    for one in pool:
        answers = judged.answers.get(one.query)
        if not answers:
            continue
        hits, _ = source.retrieve(judged.queries[one.query], LIMIT)
        relevant = judged.relevant(one.query)
        found[one.query] = [
            holds(_context(one, hits, way, count_tokens), answers, relevant) for way in ways
        ]
    return found


def _context(one: Pooled, hits: Sequence[Hit], way: System, count_tokens: CountTokens) -> Context:
    best = from_pool(one, hits, way)
    return pack(best, budget=way.choices.context_tokens, count_tokens=count_tokens)


def holds(context: Context, answers: Iterable[str], relevant: Collection[str]) -> bool:
    """Whether a passage of a relevant document has one of the answers, in whole words.

    Elsewhere the same words are chance: a `no` or a year is in many passages.
    """
    texts = [_plain(p.text) for p in context.passages if p.document_id in relevant]
    patterns = [rf"(?<!\w){re.escape(_plain(answer))}(?!\w)" for answer in answers]
    return any(re.search(pattern, text) for pattern in patterns for text in texts)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def evidence(
    question: str,
    best: Sequence[Hit],
    source: Searchable,
    late_interaction: LateInteractionReranker,
    choices: Choices,
    relevant: Collection[str],
    count_tokens: CountTokens,
) -> Evidence:
    """What `rag.support` decides by, for the hits that are answered from."""
    context = pack(best, budget=choices.context_tokens, count_tokens=count_tokens)
    found = gather(question, context, late_interaction, source.frequencies)
    return Evidence(
        found.best,
        max((hit.scores.fused or 0.0 for hit in best), default=0.0),
        any(passage.document_id in relevant for passage in context.passages),
    )
