"""What questions are put to: a test collection in the real store, or one of a user's own."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from eval.datasets import Dataset
from eval.vectors import VectorCache, computed_in
from rag import collection as shelf
from rag.choices import Choices
from rag.embed import Embedder
from rag.errors import InvalidInput
from rag.orchestrator import Orchestrator
from rag.parse import text_document
from rag.rerank import Reranker
from rag.retrieve import Mode, retrieve
from rag.split import SPLITTER, Split, split_document
from rag.store import Index, Point, point_id
from rag.store.edge import EdgeStore
from rag.types import Hit, Scope

SCOPE = Scope("eval")
GENERATION = 1
CACHE = Path(__file__).parent / "cache"
DOCUMENTS = 500  # split, embedded and stored at once: a bound on memory
CHUNK_TOKENS, OVERLAP = 256, 32
ALL = Choices("dbsf", rerank_limit=0)  # retrieving for systems that fuse afterwards


@dataclass(frozen=True, slots=True)
class Collection:
    """A dataset's chunks in a Qdrant Edge shard; `Searchable`."""

    name: str
    store: EdgeStore
    index: Index
    embedder: Embedder
    token_chunks: Mapping[int, int]
    chunks: int
    key: str
    reranker: Reranker | None = None

    def fingerprint(self) -> dict[str, Any]:
        """What the candidates depend on."""
        reranker = self.reranker.id if self.reranker is not None else "none"
        return {
            "index": self.key,
            "embedder": self.embedder.fingerprint,
            "precision": computed_in(self.embedder),
            "reranker": reranker,
        }

    def frequencies(self, tokens: Sequence[int]) -> tuple[dict[int, int], int]:
        """Token document frequencies, as the catalog gives them."""
        return {token: self.token_chunks.get(token, 0) for token in tokens}, self.chunks

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text in the embedder's tokenizer."""
        return self.embedder.count_tokens(texts)

    def retrieve(
        self,
        question: str,
        limit: int = 50,
        *,
        mode: Mode = "hybrid",
        choices: Choices = ALL,
    ) -> tuple[list[Hit], dict[str, float]]:
        """The real retrieval, everything being live."""
        start = time.perf_counter()
        vector = self.embedder.embed_queries([question])[0] if mode != "bm25" else None
        embedded = time.perf_counter()
        hits, _ = retrieve(
            self.store,
            SCOPE,
            self.index,
            question=question,
            vector=vector,
            mode=mode,
            choices=choices,
            conditions=(),
            limit=limit,
            live=lambda ids: dict.fromkeys(ids, GENERATION),
        )
        took = {"embed": embedded - start, "search": time.perf_counter() - embedded}
        return hits, took


class Shelved:
    """A collection in Ragstone, as it is searched there; `Searchable`."""

    def __init__(self, rag: Orchestrator, name: str) -> None:
        self._rag = rag
        self._found = rag.parts.catalog.collection(rag.scope, name)
        self._embedder = rag.parts.embedder_for(self._found)
        self.name = name
        self.reranker = rag.parts.reranker_for(self._found)
        self.frequencies = rag.parts.frequencies(rag.scope, self._found)

    def fingerprint(self) -> dict[str, Any]:
        """What the candidates depend on: the documents that are live among it."""
        live = hashlib.sha256()
        after = ""
        while part := self._rag.parts.catalog.documents(
            self._rag.scope, self._found, after=after, limit=1000
        ):
            for record in part:
                live.update(f"{record.id}\0{record.generation}\n".encode())
            after = part[-1].id
        return {
            "index": live.hexdigest()[:16],
            "embedder": dict(self._found.pipeline),
            "precision": computed_in(self._embedder),
            "reranker": self.reranker.id if self.reranker is not None else "none",
        }

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text in the collection's embedder's tokenizer."""
        return self._embedder.count_tokens(texts)

    def retrieve(self, question: str, limit: int) -> tuple[list[Hit], dict[str, float]]:
        """As `search` does it."""
        parts, start = self._rag.parts, time.perf_counter()
        vector = self._embedder.embed_queries([question])[0]
        embedded = time.perf_counter()
        hits, _ = retrieve(
            parts.store,
            self._rag.scope,
            shelf.index_of(self._found),
            question=question,
            vector=vector,
            mode="hybrid",
            choices=ALL,
            conditions=(),
            limit=limit,
            live=parts.live_generations(self._rag.scope, self._found),
        )
        took = {"embed": embedded - start, "search": time.perf_counter() - embedded}
        return hits, took


def check_judged(rag: Orchestrator, name: str, judged: Dataset) -> str:
    """What to say of relevant documents that a collection does not hold; "" when it holds all.

    Raises InvalidInput when it holds none: the ids are then those of somewhere else.
    """
    there = set(rag.parts.builds.ids(rag.parts.catalog.collection(rag.scope, name)))
    wanted = {document for query in judged.judged for document in judged.relevant(query)}
    if wanted and not wanted & there:
        raise InvalidInput(
            f"Collection {name!r} holds none of the {len(wanted)} documents that {judged.name}"
            f" judges relevant, such as {min(wanted)!r}.",
            hint=f"Judgements are of document ids; `rag ls {name}` lists them.",
        )
    gone = len(wanted - there)
    return (
        f"{gone} of {len(wanted)} relevant documents are not in {name}: they are never found."
        if gone
        else ""
    )


@contextmanager
def indexed(
    dataset: Dataset,
    embedder: Embedder,
    reranker: Reranker | None = None,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    cache: Path = CACHE,
    show: bool = True,
) -> Iterator[Collection]:
    """The dataset's passages as documents, split, embedded and stored as a user's would be.

    The index is kept in the cache and used again. One that was interrupted is built anew, from the
    vectors that are known by then.
    """
    key = _key(dataset, embedder, chunk_tokens)
    folder = cache / "indexes" / key
    counts = folder / "counts.json"
    index = Index(f"eval-{key}", embedder.dim)
    if not counts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        _build(dataset, embedder, index, folder, chunk_tokens, cache, show)
    known = json.loads(counts.read_text("utf8"))
    store = EdgeStore(folder)
    store.create(index)
    tokens = {int(token): count for token, count in known["token_chunks"].items()}
    try:
        yield Collection(
            dataset.name, store, index, embedder, tokens, known["chunks"], key, reranker
        )
    finally:
        store.close()


def _key(dataset: Dataset, embedder: Embedder, chunk_tokens: int) -> str:
    corpus = Dataset(dataset.name, dataset.titles, dataset.texts, {}, {})
    model = [embedder.fingerprint, computed_in(embedder)]
    made_from = [corpus.fingerprint(), model, chunk_tokens, OVERLAP, SPLITTER]
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:16]


def _build(
    dataset: Dataset,
    embedder: Embedder,
    index: Index,
    folder: Path,
    chunk_tokens: int,
    cache: Path,
    show: bool,
) -> None:
    vectors = VectorCache(embedder, cache)
    token_chunks: Counter[int] = Counter()
    chunks = 0
    store = EdgeStore(folder)
    store.create(index)
    documents = list(dataset.texts)
    with Progress(disable=not show) as progress:
        task = progress.add_task(f"{dataset.name}: indexing", total=len(documents))
        for at in range(0, len(documents), DOCUMENTS):
            part = documents[at : at + DOCUMENTS]
            split = [_split(dataset, id_, embedder, chunk_tokens) for id_ in part]
            found = [chunk for one in split for chunk in one.chunks]
            made = vectors.embed([chunk.embedded_text for chunk in found], show=False)
            points = [Point(point_id("eval", 0, c), c, v) for c, v in zip(found, made, strict=True)]
            store.upsert(SCOPE, index, points)
            for one in split:
                token_chunks.update(one.token_chunks)
            chunks += len(found)
            progress.advance(task, len(part))
    store.flush(index)
    store.close()
    counts = {"chunks": chunks, "token_chunks": {str(t): n for t, n in token_chunks.items()}}
    half_written = folder / "counts.part"
    half_written.write_text(json.dumps(counts), "utf8")
    half_written.rename(folder / "counts.json")


def _split(dataset: Dataset, document_id: str, embedder: Embedder, chunk_tokens: int) -> Split:
    return split_document(
        text_document(dataset.texts[document_id], title=dataset.titles[document_id]),
        document_id=document_id,
        generation=GENERATION,
        tokenizer=embedder.tokenizer,
        chunk_tokens=min(chunk_tokens, embedder.max_tokens),
        overlap=OVERLAP,
        instruction=embedder.preset.passage_instruction,
    )
