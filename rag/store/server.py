"""A Qdrant server or cluster through qdrant-client, over REST or gRPC."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc  # type: ignore[import-untyped] # ships no types
import httpx
import numpy as np
from numpy.typing import NDArray
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from rag import access
from rag.errors import NotFound, Overloaded, RagError, StorageFull, StoreUnreachable
from rag.store import (
    BM25,
    DENSE,
    FACE,
    GROUPS,
    INTEGERS,
    KEYWORDS,
    PREFIX,
    SCROLL,
    SCROLL_WHOLE,
    Face,
    Found,
    Index,
    Point,
    chunk_of,
    face_of,
    face_payload,
    of_chunks,
    of_generation,
    payload,
    ranked,
    sparse_document,
    sparse_query,
    stored_point,
)
from rag.store.filters import AnyOf, Condition, Not, Range
from rag.types import Chunk, Metadata, Scope


class ServerStore:
    """The client's timeouts hold for every call; nothing is retried here."""

    def __init__(self, client: QdrantClient, *, address: str) -> None:
        self._client = client
        self._address = address

    def create(self, index: Index) -> None:
        """Make room for a collection; nothing happens when it is there."""
        with self._reached():
            if self._client.collection_exists(index.physical):
                return
            self._client.create_collection(
                index.physical,
                vectors_config={
                    DENSE: models.VectorParams(size=index.dim, distance=models.Distance.COSINE)
                },
                sparse_vectors_config={
                    BM25: models.SparseVectorParams(modifier=models.Modifier.IDF)
                },
            )
            for field, schema in _indexes():
                self._client.create_payload_index(index.physical, field, field_schema=schema)

    def drop(self, index: Index) -> None:
        """Remove a collection with all its points."""
        with self._reached():
            self._client.delete_collection(index.physical)

    def upsert(self, scope: Scope, index: Index, points: Sequence[Point]) -> None:
        """Write points; the same id again replaces."""
        if not points:
            return
        batch = [_struct(scope, index, point) for point in points]
        with self._reached():
            self._client.upsert(index.physical, batch, wait=True)

    def flush(self, index: Index) -> None:
        """Nothing to do: the server had each write in its log before it answered."""

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
        queries: dict[str, list[float] | models.SparseVector] = {}
        if vector is not None:
            queries[DENSE] = vector.tolist()
        sparse = sparse_query(index, text) if text is not None else None
        if sparse is not None and sparse.indices:
            queries[BM25] = models.SparseVector(indices=sparse.indices, values=sparse.values)
        where = _filter(scope, conditions)
        batch = [
            models.QueryRequest(
                query=models.NearestQuery(nearest=query),
                using=name,
                filter=where,
                limit=limit,
                with_payload=True,
            )
            for name, query in queries.items()
        ]
        if not batch:
            return [], []
        with self._reached():
            results = self._client.query_batch_points(index.physical, batch)
        found = dict(zip(queries, (result.points for result in results), strict=True))
        return _found(found.get(DENSE, [])), _found(found.get(BM25, []))

    def delete(
        self, scope: Scope, index: Index, document_id: str, generations: Sequence[int]
    ) -> None:
        """Delete the points of these generations of a document."""
        where = _filter(
            scope,
            [AnyOf("document_id", (document_id,)), AnyOf("generation", tuple(generations))],
        )
        with self._reached():
            selector = models.FilterSelector(filter=where)
            self._client.delete(index.physical, selector, wait=True)

    def count(self, scope: Scope, index: Index, document_id: str | None = None) -> int:
        """How many points there are, of all generations."""
        only = [AnyOf("document_id", (document_id,))] if document_id is not None else []
        with self._reached():
            where = _filter(scope, only)
            return self._client.count(index.physical, count_filter=where, exact=True).count

    def inventory(
        self, scope: Scope, index: Index, document_id: str | None = None
    ) -> Counter[tuple[str, int]]:
        """How many points there are of each (document, generation), or of one document's.

        Reads all of them.
        """
        only = [AnyOf("document_id", (document_id,))] if document_id is not None else []
        payloads = self._scroll(scope, index, only, ["document_id", "generation"])
        return Counter((one["document_id"], one["generation"]) for one in payloads)

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
        where = _filter(scope, of_generation(document_id, generation))
        with self._reached():
            changed = face_payload(metadata, title)
            self._client.set_payload(index.physical, changed, points=where, wait=True)

    def chunks(
        self, scope: Scope, index: Index, document_id: str, generation: int, first: int, limit: int
    ) -> list[Chunk]:
        """Those chunks of a generation that are there, by index, from `first` on up to `limit`."""
        where = of_chunks(document_id, generation, first, limit)
        found = map(chunk_of, self._scroll(scope, index, where, True))
        return sorted(found, key=lambda chunk: chunk.index)

    def faces(self, scope: Scope, index: Index) -> Iterator[Face]:
        """What every point says of its document."""
        return map(face_of, self._scroll(scope, index, [], list(FACE)))

    def points(self, scope: Scope, index: Index) -> Iterator[list[Point]]:
        """Every point that is there when the reading comes to it, in batches, by id."""
        where, offset = _filter(scope, []), None
        while True:
            with self._reached():
                records, offset = self._client.scroll(
                    index.physical,
                    scroll_filter=where,
                    limit=SCROLL_WHOLE,
                    offset=offset,
                    with_payload=True,
                    with_vectors=[DENSE],
                )
            yield [stored_point(str(r.id), r.payload, r.vector) for r in records]
            if offset is None:
                return

    def physical_names(self) -> list[str]:
        """The collections that are there, by their physical names."""
        with self._reached():
            there = self._client.get_collections().collections
        return [one.name for one in there if one.name.startswith(PREFIX)]

    def drop_physical(self, physical: str) -> None:
        """Remove a collection that nothing else is known of."""
        self.drop(Index(physical, dim=0))

    def ping(self) -> None:
        """Raise StoreUnreachable when the server does not answer."""
        with self._reached():
            self._client.get_collections()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _scroll(
        self,
        scope: Scope,
        index: Index,
        conditions: Sequence[Condition],
        fields: list[str] | bool,
    ) -> Iterator[dict[str, Any]]:
        """The payloads of all points for which the conditions hold, or these fields of them."""
        where, offset = _filter(scope, conditions), None
        while True:
            with self._reached():
                records, offset = self._client.scroll(
                    index.physical,
                    scroll_filter=where,
                    limit=SCROLL,
                    offset=offset,
                    with_payload=fields,
                )
            yield from (record.payload or {} for record in records)
            if offset is None:
                return

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """The client's errors in the words of `rag.errors`."""
        try:
            yield
        except UnexpectedResponse as error:
            raise self._refused(error) from error
        except ResourceExhaustedResponse as error:
            raise Overloaded(
                f"Qdrant at {self._address} has too much to do ({_cause(error)}).",
                retry_after=error.retry_after_s,
            ) from error
        except (ResponseHandlingException, httpx.HTTPError, grpc.RpcError, OSError) as error:
            raise StoreUnreachable(
                "Qdrant does not answer.",
                hint="Start it, or check RAG_QDRANT_URL, RAG_QDRANT_API_KEY and the network.",
                inside=f"{self._address}: {_cause(error)}",
            ) from error

    def _refused(self, error: UnexpectedResponse) -> RagError:
        reason = error.content.decode("utf8", "replace")[:300]
        if error.status_code == 404 and "doesn't exist" in reason:
            return NotFound(
                f"The vectors of this collection are missing from Qdrant at {self._address}.",
                hint="Restore them from a backup, or delete the collection.",
            )
        if "No space left" in reason or "disk" in reason.lower():
            return StorageFull(
                f"Qdrant at {self._address} has no room: {reason}", hint="Free disk space there."
            )
        return StoreUnreachable(
            f"Qdrant at {self._address} refused the call with status {error.status_code}: {reason}",
            hint="401 and 403 mean that RAG_QDRANT_API_KEY is wrong.",
        )


def connect(
    url: str,
    *,
    api_key: str | None = None,
    grpc_port: int | None = None,
    timeout: float = 10.0,
    ca_file: str | None = None,
) -> ServerStore:
    """A store on a server. `grpc_port` given means gRPC. Connects on the first call."""
    options: dict[str, Any] = {"verify": ca_file} if ca_file else {}
    client = QdrantClient(
        url=url,
        api_key=api_key,
        prefer_grpc=grpc_port is not None,
        grpc_port=grpc_port or 6334,
        timeout=max(1, round(timeout)),
        # The version check would talk to the server here, with a warning instead of an error.
        check_compatibility=False,
        **options,
    )
    return ServerStore(client, address=url)


def _cause(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _indexes() -> Iterator[tuple[str, Any]]:
    for field in KEYWORDS:
        yield (
            field,
            models.KeywordIndexParams(
                type=models.KeywordIndexType.KEYWORD, is_tenant=True if field == "tenant" else None
            ),
        )
    for field in INTEGERS:
        yield field, models.PayloadSchemaType.INTEGER


def _struct(scope: Scope, index: Index, point: Point) -> models.PointStruct:
    sparse = sparse_document(index, point.chunk)
    return models.PointStruct(
        id=point.id,
        vector={
            DENSE: point.vector.tolist(),
            BM25: models.SparseVector(indices=sparse.indices, values=sparse.values),
        },
        payload=payload(scope, point.chunk),
    )


def _found(points: Sequence[models.ScoredPoint]) -> list[Found]:
    return ranked([Found(str(p.id), p.score, chunk_of(p.payload or {})) for p in points])


def _filter(scope: Scope, conditions: Sequence[Condition]) -> models.Filter:
    tenant = models.FieldCondition(key="tenant", match=models.MatchValue(value=scope.tenant))
    must: list[Any] = [_field(c) for c in conditions if not isinstance(c, Not)]
    must_not = [_field(c.condition) for c in conditions if isinstance(c, Not)]
    groups = access.point_groups(scope)
    if groups is not None:
        nobody = models.IsEmptyCondition(is_empty=models.PayloadField(key=GROUPS))
        member = models.FieldCondition(key=GROUPS, match=models.MatchAny(any=list(groups)))
        must.append(models.Filter(should=[nobody, member] if groups else [nobody]))
    return models.Filter(must=[tenant, *must], must_not=must_not or None)


def _field(condition: AnyOf | Range) -> models.FieldCondition | models.Filter:
    if isinstance(condition, Range):
        bounds = models.Range(
            gt=condition.gt, gte=condition.gte, lt=condition.lt, lte=condition.lte
        )
        return models.FieldCondition(key=condition.key, range=bounds)
    values: list[Any] = list(condition.values)
    if len(values) == 1:
        return models.FieldCondition(key=condition.key, match=models.MatchValue(value=values[0]))
    if isinstance(values[0], bool):  # true or false: MatchAny takes no booleans
        matches = [models.MatchValue(value=value) for value in values]
        return models.Filter(
            should=[models.FieldCondition(key=condition.key, match=match) for match in matches]
        )
    return models.FieldCondition(key=condition.key, match=models.MatchAny(any=values))
