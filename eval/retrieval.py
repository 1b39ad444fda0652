"""Quality of retrieval on a test collection: python -m eval.retrieval FOLDER [--model ID]

Prints nDCG@10, recall@10 and MRR@10 of dense, BM25, their fusions, and reranking.
"""

import argparse
import logging
import time
from collections.abc import Callable
from pathlib import Path

import ir_measures
from ir_measures import RR, R, nDCG
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.collection import Collection, indexed
from eval.datasets import Dataset, load_dataset
from eval.vectors import open_embedder
from rag.rerank import LateInteractionReranker, rerank
from rag.settings import PROFILES
from rag.types import Hit

MEASURES = [nDCG @ 10, R @ 10, RR @ 10]
Ranker = Callable[[str], list[Hit]]


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dataset = load_dataset(options.folder, options.qrels)
    embedder = open_embedder(options.model)
    with indexed(dataset, embedder) as collection:
        rows = {
            name: evaluate(dataset, ranker, name)
            for name, ranker in rankers(collection, options.depth).items()
        }
    table = Table("", *(str(measure) for measure in MEASURES), "ms per question")
    for name, (scores, seconds) in rows.items():
        table.add_row(name, *(f"{scores[m]:.3f}" for m in MEASURES), f"{1000 * seconds:.0f}")
    Console().print(f"{dataset.name}, {len(dataset.qrels)} questions, {options.model}", table)


def rankers(collection: Collection, depth: int) -> dict[str, Ranker]:
    """The settings that are compared, by name."""
    late_interaction = LateInteractionReranker(collection.embedder)

    def reranked(question: str) -> list[Hit]:
        hits = collection.retrieve(question)
        return rerank(question, hits, late_interaction, depth, collection.frequencies)[0]

    return {
        "dense": lambda q: collection.retrieve(q, mode="dense"),
        "bm25": lambda q: collection.retrieve(q, mode="bm25"),
        "hybrid rrf": lambda q: collection.retrieve(q, fusion="rrf"),
        "hybrid weighted": lambda q: collection.retrieve(q, fusion="weighted"),
        "hybrid dbsf": lambda q: collection.retrieve(q),
        f"hybrid dbsf + late interaction, {depth}": reranked,
    }


def evaluate(
    dataset: Dataset, ranker: Ranker, name: str
) -> tuple[dict[ir_measures.Measure, float], float]:
    """(measures, seconds per question) of a ranker."""
    start = time.perf_counter()
    run = {
        query: document_scores(ranker(dataset.queries[query]))
        for query in track(dataset.qrels, name)
    }
    seconds = (time.perf_counter() - start) / len(run)
    return ir_measures.calc_aggregate(MEASURES, dataset.qrels, run), seconds


def document_scores(hits: list[Hit]) -> dict[str, float]:
    """A document ranks where its best chunk does; ranks as scores keep the order exactly."""
    scores: dict[str, float] = {}
    for rank, hit in enumerate(hits):
        scores.setdefault(hit.chunk.document_id, -float(rank))
    return scores


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="corpus.jsonl, queries.jsonl, qrels/")
    parser.add_argument("--qrels", default="test", help="which file of qrels/")
    parser.add_argument("--model", default=PROFILES["starter"].embedder)
    parser.add_argument("--depth", type=int, default=20, help="candidates reranked")
    return parser.parse_args()


if __name__ == "__main__":
    main()
