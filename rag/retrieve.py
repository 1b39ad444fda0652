"""Question -> dense and BM25 hits in one batch, what is not live dropped, then fused."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rag.choices import Choices
from rag.fuse import Ranking, dbsf, ordered, rrf, weighted
from rag.store import Found, Index, VectorStore
from rag.store.filters import Condition
from rag.types import Cut, Hit, Scope, Scores

Mode = Literal["hybrid", "dense", "bm25"]
LiveGenerations = Callable[[Sequence[str]], Mapping[str, int]]
MAX_ROUNDS = 4  # each asks for twice as many; stale points are few unless a purge is behind


def retrieve(
    store: VectorStore,
    scope: Scope,
    index: Index,
    *,
    question: str,
    vector: NDArray[np.float32] | None,
    mode: Mode,
    choices: Choices,
    conditions: Sequence[Condition],
    limit: int,
    live: LiveGenerations,
) -> tuple[list[Hit], list[Cut]]:
    """The best `limit` live hits of each retriever, fused, best first.

    `vector` is the question's, float32 (dim,); not needed for mode `bm25`. `live` maps document
    ids to their live generations: a point of any other generation is a leftover and is dropped,
    and the store asked for more when that leaves too few. A document that was replaced between the
    search and that look-up has only leftovers among what was found: the store is asked again.
    """
    ask = limit
    known: set[tuple[str, int]] = set()
    for _ in range(MAX_ROUNDS):
        dense, bm25 = store.search(
            scope,
            index,
            vector=vector if mode != "bm25" else None,
            text=question if mode != "dense" else None,
            conditions=conditions,
            limit=ask,
        )
        generations = live(sorted({found.chunk.document_id for found in (*dense, *bm25)}))
        rankings = [_live_only(ranking, generations) for ranking in (dense, bm25)]
        kept = {(f.chunk.document_id, f.chunk.generation) for some in rankings for f in some}
        replaced = set(generations.items()) - kept
        full = all(
            len(some) >= limit or len(found) < ask
            for some, found in zip(rankings, (dense, bm25), strict=True)
        )
        if full and replaced <= known:
            break
        known |= replaced  # asked for once more at most: the better leftover may not be purged yet
        ask = ask if full else ask * 2
    stale = len({f.id for f in (*dense, *bm25)}) - len({f.id for some in rankings for f in some})
    cuts = [Cut(f"{stale} points", "their generation is not the live one")] if stale else []
    return fuse_found(rankings[0][:limit], rankings[1][:limit], choices), cuts


def fuse_found(dense: Sequence[Found], bm25: Sequence[Found], choices: Choices) -> list[Hit]:
    """One ranking out of two, each hit with the scores it had; a single list keeps its scores."""
    chunks = {found.id: found.chunk for found in (*bm25, *dense)}
    by_dense = {found.id: found.score for found in dense}
    by_bm25 = {found.id: found.score for found in bm25}
    fused = fuse(list(by_dense.items()), list(by_bm25.items()), choices)
    return [
        Hit(
            point_id=point,
            chunk=chunks[point],
            score=score,
            scores=Scores(dense=by_dense.get(point), bm25=by_bm25.get(point), fused=score),
        )
        for point, score in fused
    ]


def fuse(dense: Ranking, bm25: Ranking, choices: Choices) -> list[tuple[str, float]]:
    """One ranking out of two; a single list keeps its scores."""
    rankings = [ranking for ranking in (dense, bm25) if ranking]
    if len(rankings) < 2:
        return ordered((rankings or [[]])[0])
    if choices.fusion == "rrf":
        return rrf(rankings)
    if choices.fusion == "weighted":
        return weighted(rankings, [choices.dense_weight, 1 - choices.dense_weight])
    return dbsf(rankings)


def _live_only(ranking: Sequence[Found], generations: Mapping[str, int]) -> list[Found]:
    return [f for f in ranking if generations.get(f.chunk.document_id) == f.chunk.generation]
