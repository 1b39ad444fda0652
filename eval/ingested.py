"""A test collection as one of Ragstone's own: ingested once, kept, and asked like a user's."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from eval.collection import CACHE
from eval.datasets import Dataset
from rag import collection as shelf
from rag.orchestrator import Orchestrator
from rag.settings import Settings, load_settings
from rag.sources import Source
from rag.split import SPLITTER

COLLECTION = "eval"
THREADS = 8  # documents at once, so that their chunks share batches
BLOCK = 200  # documents handed to the threads at once: what an interruption waits for


def smaller(dataset: Dataset, keep: set[str], documents: int, seed: int = 0) -> Dataset:
    """The same with the documents to keep, and others drawn up to so many in all."""
    others = sorted(set(dataset.texts) - keep)
    random.Random(seed).shuffle(others)
    left_out = set(others[max(0, documents - len(keep)) :])
    return dataset.without(left_out, f"{dataset.name}-{len(dataset.texts) - len(left_out)}")


@contextmanager
def ingested(
    dataset: Dataset,
    *,
    cache: Path = CACHE,
    show: bool = True,
    **settings: Any,  # noqa: ANN401 - those of `rag.settings`
) -> Iterator[Orchestrator]:
    """Ragstone with the documents in collection `eval`, under the ids that they have in the set.

    Kept below `cache`: the next time costs nothing. An ingestion that was interrupted goes on.
    Blank documents, which Ragstone refuses, are left out and counted.
    """
    folder = cache / "collections" / _key(dataset, load_settings(**settings))
    whole = folder / "whole.json"
    with Orchestrator.open(folder / "data", **settings) as rag:
        if not whole.exists():
            blank = _ingest(rag, dataset, show)
            whole.write_text(json.dumps({"dataset": dataset.name, "blank": blank}), "utf8")
        if blank := json.loads(whole.read_text("utf8"))["blank"]:
            Console().print(f"{dataset.name}: {blank} documents are blank and left out")
        yield rag


def _key(dataset: Dataset, settings: Settings) -> str:
    corpus = Dataset("", dataset.titles, dataset.texts, {}, {}).fingerprint()
    cut = (settings.chunk_tokens, settings.chunk_overlap, SPLITTER)
    made_from = json.dumps([corpus, settings.models.embedder, settings.embedder_precision, *cut])
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def _ingest(rag: Orchestrator, dataset: Dataset, show: bool) -> int:
    """Add every document. Returns how many are blank."""
    shelf.ensure(rag.parts, rag.scope, COLLECTION)
    ids = [id_ for id_, text in dataset.texts.items() if text.strip()]
    with Progress(disable=not show) as progress, ThreadPoolExecutor(THREADS) as pool:
        task = progress.add_task(f"{dataset.name}: ingesting", total=len(ids))
        for part in _blocks(ids):
            for _ in pool.map(lambda id_: _add(rag, dataset, id_), part):
                progress.advance(task)
    return len(dataset.texts) - len(ids)


def _add(rag: Orchestrator, dataset: Dataset, id_: str) -> None:
    title = dataset.titles[id_] or None
    source = Source(name=id_, origin=id_, id=id_, title=title, text=dataset.texts[id_])
    rag.add(source, collection=COLLECTION)


def _blocks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(ids), BLOCK):
        yield ids[at : at + BLOCK]
