"""The passages of a document, as the store holds them."""

from rag.catalog import DocumentRecord
from rag.collection import index_of
from rag.errors import Conflict, NotFound
from rag.parts import Parts
from rag.types import Chunk, Scope


def passages(
    parts: Parts, scope: Scope, collection: str, record: DocumentRecord, first: int, limit: int
) -> list[Chunk]:
    """Up to `limit` chunks of a document, by index, from `first` on.

    Raises Conflict when the document was replaced or deleted meanwhile, NotFound where points are
    missing, StoreUnreachable.
    """
    found = parts.catalog.collection(scope, collection)
    expected = max(0, min(limit, record.chunks - first))
    chunks = parts.store.chunks(
        scope, index_of(found), record.id, record.generation, first, expected
    )
    if len(chunks) == expected:
        return chunks
    live = parts.catalog.live_generations(scope, collection, [record.id])
    if live.get(record.id) != record.generation:
        raise Conflict(f"{record.id[:200]!r} was changed meanwhile.", hint="Ask again.")
    raise NotFound(
        f"The store holds {len(chunks)} of {expected} passages of {record.id[:200]!r}.",
        hint="`rag fsck --repair` writes them again.",
    )
