"""A test collection inside the real store: split, embedded and searched as a user's would be."""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from eval.datasets import Dataset
from eval.vectors import RememberingEmbedder, VectorCache
from rag.parse import text_document
from rag.retrieve import Mode, retrieve
from rag.settings import FusionName
from rag.split import split_document
from rag.store import Index, Point, point_id
from rag.store.edge import EdgeStore
from rag.types import Chunk, Hit, Scope

SCOPE = Scope("eval")
GENERATION = 1
CACHE = Path(__file__).parent / "cache"
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Collection:
    """A dataset's chunks in a Qdrant Edge shard."""

    store: EdgeStore
    index: Index
    embedder: RememberingEmbedder
    token_chunks: Mapping[int, int]
    chunks: int

    def frequencies(self, tokens: Sequence[int]) -> tuple[dict[int, int], int]:
        """Token document frequencies, as the catalog gives them."""
        return {token: self.token_chunks.get(token, 0) for token in tokens}, self.chunks

    def retrieve(
        self, question: str, *, mode: Mode = "hybrid", fusion: FusionName = "dbsf", limit: int = 50
    ) -> list[Hit]:
        """The real retrieval, everything being live."""
        hits, _ = retrieve(
            self.store,
            SCOPE,
            self.index,
            question=question,
            vector=self.embedder.embed_queries([question])[0],
            mode=mode,
            fusion=fusion,
            conditions=(),
            limit=limit,
            live=lambda ids: dict.fromkeys(ids, GENERATION),
        )
        return hits


@contextmanager
def indexed(dataset: Dataset, embedder: RememberingEmbedder) -> Iterator[Collection]:
    """The dataset in a store of its own, which goes away afterwards."""
    chunks, token_chunks = _split(dataset, embedder)
    vectors = VectorCache(embedder, CACHE).embed([chunk.embedded_text for chunk in chunks])
    index = Index(dataset.name, embedder.dim)
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder))
        store.create(index)
        for at in track(range(0, len(chunks), BATCH), "storing"):
            pairs = zip(chunks[at : at + BATCH], vectors[at : at + BATCH], strict=True)
            store.upsert(SCOPE, index, [Point(point_id("eval", 0, c), c, v) for c, v in pairs])
        yield Collection(store, index, embedder, token_chunks, len(chunks))
        store.close()


def _split(dataset: Dataset, embedder: RememberingEmbedder) -> tuple[list[Chunk], Counter[int]]:
    chunks: list[Chunk] = []
    token_chunks: Counter[int] = Counter()
    for document_id, text in track(dataset.texts.items(), "splitting"):
        split = split_document(
            text_document(text, title=dataset.titles[document_id]),
            document_id=document_id,
            generation=GENERATION,
            tokenizer=embedder.tokenizer,
            chunk_tokens=min(256, embedder.max_tokens),
            overlap=32,
            instruction=embedder.preset.passage_instruction,
        )
        chunks += split.chunks
        token_chunks.update(split.token_chunks)
    return chunks, token_chunks
