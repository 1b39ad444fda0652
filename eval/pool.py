"""One pass of the models over the questions, kept on disk: the candidates that systems then rank.

A line of the file is a question. An interrupted pass goes on behind the last whole line.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.progress import track

from eval.lines import take_up
from eval.systems import Pooled, System, fused
from rag.rerank import Frequencies, Reranker
from rag.types import Hit

LIMIT = 50  # of each retriever


class Searchable(Protocol):
    """What questions are put to: a test collection, or one of a user's own."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def reranker(self) -> Reranker | None:
        """What scores its candidates."""
        ...

    @property
    def frequencies(self) -> Frequencies:
        """In how many of its chunks tokens occur."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything that its candidates depend on."""
        ...

    def retrieve(self, question: str, limit: int) -> tuple[list[Hit], dict[str, float]]:
        """(the first `limit` hits of each retriever, seconds of the stages embed and search)."""
        ...

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, as the reranker reads it."""
        ...


class Pool:
    """The candidates of questions, in a file. Reading it takes the memory of one question."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Pooled]:
        with self.path.open(encoding="utf8") as lines:
            for line in lines:
                yield _pooled(json.loads(line))

    def fill(
        self,
        source: Searchable,
        questions: Mapping[str, str],
        systems: Sequence[System],
        *,
        show: bool = True,
    ) -> None:
        """Ask what was not asked yet, and rerank what some of the systems would."""
        known = set(take_up(self.path, only="query"))
        missing = [(query, text) for query, text in sorted(questions.items()) if query not in known]
        if missing:  # models load and compile at the first question, which counts for nothing
            ask(source, *missing[0], systems)
            if source.reranker is not None:
                source.reranker.forget()
        with self.path.open("a", encoding="utf8") as file:
            for query, text in track(
                missing, f"{source.name}: asking", disable=not (show and missing)
            ):
                file.write(json.dumps(_row(ask(source, query, text, systems))) + "\n")
                file.flush()


def ask(source: Searchable, query: str, text: str, systems: Iterable[System]) -> Pooled:
    """The candidates of one question, scored as far as some system reranks them."""
    hits, seconds = source.retrieve(text, LIMIT)
    found = {hit.point_id: hit for hit in hits}
    bare = Pooled(
        query,
        _ranking({point: hit.scores.dense for point, hit in found.items()}),
        _ranking({point: hit.scores.bm25 for point, hit in found.items()}),
        {},
        {point: hit.chunk.document_id for point, hit in found.items()},
        seconds,
    )
    wanted = sorted({
        point
        for system in systems
        for point, _ in fused(bare, system)[: system.choices.rerank_limit]
    })  # fmt: skip
    if source.reranker is None or not wanted:
        return bare
    passages = [found[point].chunk.embedded_text for point in wanted]
    start = time.perf_counter()
    scores = source.reranker.relevance(text, passages, source.frequencies)
    each = (time.perf_counter() - start) / len(wanted)
    return Pooled(
        query,
        bare.dense,
        bare.bm25,
        dict(zip(wanted, map(float, scores), strict=True)),
        bare.documents,
        {**seconds, "rerank": each},
        sum(source.count_tokens(passages)) // len(passages),
    )


def _ranking(scores: Mapping[str, float | None]) -> list[tuple[str, float]]:
    known = [(point, score) for point, score in scores.items() if score is not None]
    return sorted(known, key=lambda pair: (-pair[1], pair[0]))


def _row(pooled: Pooled) -> dict[str, Any]:
    dense, bm25 = dict(pooled.dense), dict(pooled.bm25)
    return {
        "query": pooled.query,
        "candidates": [
            [point, document, dense.get(point), bm25.get(point), pooled.relevance.get(point)]
            for point, document in pooled.documents.items()
        ],
        "seconds": dict(pooled.seconds),
        "tokens": pooled.tokens,
    }


def _pooled(row: Mapping[str, Any]) -> Pooled:
    candidates = row["candidates"]
    return Pooled(
        row["query"],
        _ranking({point: dense for point, _, dense, _, _ in candidates}),
        _ranking({point: bm25 for point, _, _, bm25, _ in candidates}),
        {point: score for point, _, _, _, score in candidates if score is not None},
        {point: document for point, document, _, _, _ in candidates},
        row["seconds"],
        row["tokens"],
    )
