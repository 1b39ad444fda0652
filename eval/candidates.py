"""The candidates that hybrid retrieval hands to a reranker, kept on disk per test collection."""

import json
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from eval.collection import CACHE, indexed
from eval.datasets import Dataset, load_dataset
from eval.vectors import open_embedder
from rag.settings import PROFILES

DEPTH = 20
# Every site's policy answers policyqa's questions; this file of judgements says so.
QRELS = {"policyqa": "any-site"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a reranker sees of a hit. `dense`, `bm25`: None where that retriever did not find it."""

    point_id: str
    document_id: str
    text: str
    fused: float
    dense: float | None
    bm25: float | None


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its candidates, best fused score first."""

    id: str
    text: str
    candidates: tuple[Candidate, ...]


def load(folder: Path) -> Dataset:
    """The collection with the judgements that fit a search without filters."""
    return load_dataset(folder, QRELS.get(folder.name, "test"))


def candidates(dataset: Dataset) -> list[Question]:
    """The first 20 hits of every judged question: the starter embedder and BM25, fused by DBSF."""
    path = CACHE / f"candidates-{dataset.name}.jsonl"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        rows = _retrieve(dataset)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    lines = path.read_text(encoding="utf8").splitlines()
    return [_question(*json.loads(line)) for line in lines]


def _retrieve(dataset: Dataset) -> list[tuple[str, str, list[list[object]]]]:
    embedder = open_embedder(PROFILES["starter"].embedder)
    rows = []
    with indexed(dataset, embedder) as collection:
        for query in track(dataset.qrels, "retrieving"):
            hits = collection.retrieve(dataset.queries[query])[0][:DEPTH]
            found = [
                [
                    hit.point_id,
                    hit.chunk.document_id,
                    hit.chunk.embedded_text,
                    hit.score,
                    hit.scores.dense,
                    hit.scores.bm25,
                ]
                for hit in hits
            ]
            rows.append((query, dataset.queries[query], found))
    return rows


def _question(id: str, text: str, found: list[list[object]]) -> Question:
    return Question(id, text, tuple(Candidate(*row) for row in found))  # type: ignore[arg-type] # as written
