"""Vectors and payloads in Qdrant: `edge.py` in the process, `server.py` a server or cluster.

Both hold the same points and rank alike: cosine over the dense vectors, and BM25 as a sparse
vector with Qdrant's IDF modifier, its term weights computed here by the same class for both.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol
from uuid import UUID, uuid5

import numpy as np
from numpy.typing import NDArray
from qdrant_edge import Bm25, Bm25Config, SparseVector

from rag.errors import InvalidInput
from rag.store.filters import AnyOf, Condition, Range
from rag.types import Chunk, Metadata, Scope

DENSE = "dense"
BM25 = "bm25"
GROUPS = "metadata.acl"  # who may see it, see rag/access.py
KEYWORDS = ("tenant", "document_id", "source", GROUPS)
PREFIX = "ragstone_"  # of every physical name
INTEGERS = ("generation", "page")
FACE = ("document_id", "generation", "title", "metadata")

SCROLL = 1000  # points that are read at once
SCROLL_WHOLE = 256  # with their vectors and texts

_POINT_IDS = UUID("6f1c58ab-3f0c-4d0e-9a55-0d6f7a8f5b61")


@dataclass(frozen=True, slots=True)
class Index:
    """A collection's place in the store: its physical name, dimension and BM25 language."""

    physical: str
    dim: int
    language: str = "english"


@dataclass(frozen=True, slots=True)
class Point:
    """A chunk with its vector, float32 (dim,), unit length."""

    id: str
    chunk: Chunk
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk that one retriever returned, with that retriever's score."""

    id: str
    score: float
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Face:
    """What a point says of its document."""

    document_id: str
    generation: int
    title: str
    metadata: Metadata


class VectorStore(Protocol):
    """What a store does. Every call is within a scope; all are safe to repeat."""

    def create(self, index: Index) -> None:
        """Make room for a collection; nothing happens when it is there."""

    def drop(self, index: Index) -> None:
        """Remove a collection with all its points."""

    def upsert(self, scope: Scope, index: Index, points: Sequence[Point]) -> None:
        """Write points; the same id again replaces."""

    def flush(self, index: Index) -> None:
        """Return when what was written would survive a power cut."""

    def search(
        self,
        scope: Scope,
        index: Index,
        *,
        vector: NDArray[np.float32] | None,
        text: str | None,
        conditions: Sequence[Condition],
        limit: int,
    ) -> tuple[list[Found], list[Found]]:
        """(dense, BM25) rankings in one batch; None for `vector` or `text` leaves one empty."""

    def delete(
        self, scope: Scope, index: Index, document_id: str, generations: Sequence[int]
    ) -> None:
        """Delete the points of these generations of a document."""

    def count(self, scope: Scope, index: Index, document_id: str | None = None) -> int:
        """How many points there are, of all generations."""

    def inventory(
        self, scope: Scope, index: Index, document_id: str | None = None
    ) -> Counter[tuple[str, int]]:
        """How many points there are of each (document, generation), or of one document's.

        Reads all of them.
        """

    def paint(
        self,
        scope: Scope,
        index: Index,
        document_id: str,
        generation: int,
        *,
        metadata: Metadata,
        title: str | None = None,
    ) -> None:
        """Give all points of a document's generation other metadata, and a title unless None."""

    def chunks(
        self, scope: Scope, index: Index, document_id: str, generation: int, first: int, limit: int
    ) -> list[Chunk]:
        """Those chunks of a generation that are there, by index, from `first` on up to `limit`."""

    def faces(self, scope: Scope, index: Index) -> Iterator[Face]:
        """What every point says of its document."""

    def points(self, scope: Scope, index: Index) -> Iterator[list[Point]]:
        """Every point that is there when the reading comes to it, in batches, by id.

        What is written or deleted meanwhile may or may not be among them.
        """

    def physical_names(self) -> list[str]:
        """The collections that are there, by their physical names."""

    def drop_physical(self, physical: str) -> None:
        """Remove a collection that nothing else is known of."""

    def ping(self) -> None:
        """Raise StoreUnreachable when the store does not answer."""

    def close(self) -> None:
        """Release files and connections."""


def point_id(tenant: str, collection_id: int, chunk: Chunk) -> str:
    """UUIDv5 of what a chunk is, so that a repeated step writes the same points."""
    name = (tenant, collection_id, chunk.document_id, chunk.generation, chunk.index)
    return str(uuid5(_POINT_IDS, repr(name)))


@lru_cache(maxsize=64)
def bm25(language: str) -> Bm25:
    """BM25 with a language's stemmer and stop words. Raises InvalidInput for an unknown one."""
    try:
        return Bm25(Bm25Config(language=language))
    except ValueError as error:
        raise InvalidInput(
            f"BM25 knows no language {language!r}.",
            hint="Use an English name in lower case, such as english, german, spanish or french.",
        ) from error


def sparse_document(index: Index, chunk: Chunk) -> SparseVector:
    """The chunk's BM25 term weights (the IDF is the store's part)."""
    return bm25(index.language).embed_document(chunk.embedded_text)


def sparse_query(index: Index, text: str) -> SparseVector:
    """The question's terms, each with weight 1."""
    return bm25(index.language).embed_query(text)


def payload(scope: Scope, chunk: Chunk) -> dict[str, Any]:
    """What is stored beside a chunk's vectors: all of it."""
    return {
        "tenant": scope.tenant,
        "document_id": chunk.document_id,
        "generation": chunk.generation,
        "index": chunk.index,
        "title": chunk.title,
        "text": chunk.text,
        "start": chunk.start,
        "end": chunk.end,
        "tokens": chunk.tokens,
        "page": chunk.page,
        "page_breaks": list(chunk.page_breaks),
        "headings": list(chunk.headings),
        "lead": chunk.lead,
        "source": chunk.source,
        "metadata": dict(chunk.metadata),
    }


def face_of(stored: dict[str, Any]) -> Face:
    """What a point says of its document, out of a part of its payload."""
    return Face(*(stored[name] for name in FACE))


def face_payload(metadata: Metadata, title: str | None) -> dict[str, Any]:
    """The part of a payload that `VectorStore.paint` sets."""
    return {"metadata": dict(metadata)} | ({} if title is None else {"title": title})


def of_generation(document_id: str, generation: int) -> list[Condition]:
    """The points of one generation of a document."""
    return [AnyOf("document_id", (document_id,)), AnyOf("generation", (generation,))]


def of_chunks(document_id: str, generation: int, first: int, limit: int) -> list[Condition]:
    """The points of some chunks of a generation that follow one another."""
    return [*of_generation(document_id, generation), Range("index", gte=first, lt=first + limit)]


def chunk_of(stored: dict[str, Any]) -> Chunk:
    """The chunk back from its payload."""
    fields = {key: value for key, value in stored.items() if key != "tenant"}
    fields["headings"] = tuple(fields["headings"])
    fields["page_breaks"] = tuple(fields["page_breaks"])
    return Chunk(**fields)


def stored_point(name: str, stored: dict[str, Any] | None, vectors: Any) -> Point:  # noqa: ANN401
    """A point back from what an engine gives: its payload, and its vectors by name."""
    return Point(name, chunk_of(stored or {}), np.asarray(vectors[DENSE], dtype=np.float32))


def ranked(found: list[Found]) -> list[Found]:
    """Best first, ties by id: the engines return ties in varying order."""
    return sorted(found, key=lambda hit: (-hit.score, hit.id))
