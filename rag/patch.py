"""Changing a document's title and metadata without embedding it again.

The catalog's row changes in one transaction, which counts the patch as well. The points are painted
behind it: until `painted` has caught up with `patches` they may show what was there before, and
whoever sweeps paints them. Hits are shown as the catalog has them whatever their points say.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from rag import access, parsed
from rag.catalog import Collection, DocumentRecord, Which
from rag.collection import index_of
from rag.errors import Conflict, InvalidInput, RagError, StorageFull, StoreUnreachable
from rag.parts import Parts
from rag.sources import check_id, check_metadata
from rag.store.filters import Condition, chunk_field, matches
from rag.tables import collections, documents, tasks
from rag.types import Cut, Hit, Scope

log = logging.getLogger(__name__)

FIELDS = ("title", "metadata")
MAX_TITLE_CHARS = 2000


def change(
    parts: Parts, scope: Scope, collection: str, document_id: str, merge: Mapping[str, Any]
) -> DocumentRecord:
    """Apply an RFC 7396 merge patch to title and metadata: null removes, what is left out stays.

    A title that is removed is again the one that was found in the document. Who may see a document
    may see what is attached to it: a changed `acl` is given to that as well, unless the scope does
    not see it. Raises NotFound, InvalidInput, TooLarge, and Conflict while a newer version of the
    document is being ingested.
    """
    check_id(document_id)
    _check(merge)
    changed, attached = _write_down(parts, scope, collection, document_id, merge)
    for painted in (document_id, *attached):
        show(parts, scope, collection, painted)
    return changed


def show(parts: Parts, scope: Scope, collection: Which, document_id: str) -> None:
    """Have the points of a document say what the catalog says; if not now, the next sweep does."""
    try:
        paint(parts, scope, collection, document_id)
    except RagError as error:
        log.warning("the points of %r do not show its patch yet: %s", document_id, error)


def paint(
    parts: Parts, scope: Scope, collection: Which, document_id: str, *, again: bool = False
) -> None:
    """Bring the points of a document up to its patches, if they are behind or with `again`.

    The document's row stays locked meanwhile (on SQLite the database): of two patches the later
    one's metadata cannot be overtaken by the earlier one's. Raises StoreUnreachable, StorageFull.
    """
    with parts.database.write() as connection:
        found = parts.catalog.collection(scope, collection, within=connection)
        mine = sa.and_(
            documents.c.collection_id == found.id, documents.c.document_id == document_id
        )
        behind = sa.true() if again else documents.c.painted < documents.c.patches
        query = documents.select().where(mine, behind).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            return
        parts.store.paint(
            scope,
            index_of(found),
            document_id,
            row.generation,
            metadata=row.metadata,
            title=row.title if row.renamed else None,
        )
        parts.store.flush(index_of(found))
        connection.execute(documents.update().where(mine).values(painted=documents.c.patches))


def paint_all(parts: Parts) -> None:
    """Bring all points up to their documents' patches; what the store does not take, waits."""
    query = sa.select(documents.c.collection_id, documents.c.document_id)
    query = query.where(documents.c.painted < documents.c.patches)
    with parts.database.read() as connection:
        behind = connection.execute(query).all()
    known = {found.id: found for found in parts.catalog.every_collection()} if behind else {}
    for collection_id, document_id in behind:
        if collection_id not in known:
            continue  # made since, or dropped
        found = known[collection_id]
        try:
            paint(parts, Scope(found.tenant), found, document_id)
        except (StoreUnreachable, StorageFull) as error:
            log.warning("%d documents' points do not show their patches: %s", len(behind), error)
            return  # nor would it take the others
        except RagError as error:
            log.warning("the points of %r do not show its patch: %s", document_id, error)


def as_patched(
    parts: Parts, found: Collection, hits: Sequence[Hit], conditions: Sequence[Condition]
) -> tuple[list[Hit], list[Cut]]:
    """Hits with the titles and metadata that the catalog has now.

    What no longer matches the filter, and was found because its points are behind, is dropped.
    """
    patched = _patched(parts, found, sorted({hit.chunk.document_id for hit in hits}))
    if not patched:
        return list(hits), []
    conditions = [condition for condition in conditions if not chunk_field(condition)]
    shown = []
    for hit in hits:
        row = patched.get((hit.chunk.document_id, hit.chunk.generation))
        if row is not None:
            title = row.title if row.renamed else hit.chunk.title
            chunk = replace(hit.chunk, title=title, metadata=row.metadata)
            own = {"document_id": chunk.document_id, "title": title, "source": chunk.source}
            if not matches(conditions, own, row.metadata):
                continue
            hit = replace(hit, chunk=chunk)
        shown.append(hit)
    dropped = len(hits) - len(shown)
    why = "their document was changed, and the filter does not hold any more"
    return shown, [Cut(f"{dropped} passages", why)] if dropped else []


def _write_down(
    parts: Parts, scope: Scope, collection: str, document_id: str, merge: Mapping[str, Any]
) -> tuple[DocumentRecord, list[str]]:
    """(the document as it is now, ids of those attached to it whose `acl` was changed with it)."""
    attached: list[str] = []
    with parts.database.write() as connection:
        found = parts.catalog.locked(connection, scope, collection)
        record = parts.catalog.document(scope, collection, document_id, within=connection)
        _check_settled(connection, found, document_id)
        title, metadata = _merged(parts, record, merge)
        if (title, metadata) == (record.title, dict(record.metadata)):
            return record, []
        check_metadata(metadata, parts.settings.max_metadata_bytes)
        renamed = record.renamed or title != record.title
        _set(connection, found, document_id, metadata, title=title, renamed=renamed)
        if access.packed(metadata) != access.packed(record.metadata):
            attached = _give_attached(parts, scope, connection, found, document_id, metadata)
        connection.execute(
            collections.update()
            .where(collections.c.id == found.id)
            .values(version=collections.c.version + 1)
        )
        changed = parts.catalog.document(Scope(found.tenant), found, document_id, within=connection)
        return changed, attached


def _give_attached(
    parts: Parts,
    scope: Scope,
    connection: sa.Connection,
    found: Collection,
    document_id: str,
    metadata: Mapping[str, Any],
) -> list[str]:
    """Give what is attached to a document, and seen by the scope, its `acl`. Returns the ids."""
    everything = Scope(found.tenant)
    ids = sorted(parts.catalog.descendants(everything, found, {document_id}, within=connection))
    records = parts.catalog.records(connection, scope, found, ids)
    for record in records:
        _set(connection, found, record.id, access.guarded(record.metadata, metadata))
    return [record.id for record in records]


def _set(
    connection: sa.Connection,
    found: Collection,
    document_id: str,
    metadata: Mapping[str, Any],
    **more: object,
) -> None:
    connection.execute(
        documents.update()
        .where(documents.c.collection_id == found.id, documents.c.document_id == document_id)
        .values(
            metadata=dict(metadata),
            acl=access.packed(metadata),
            patches=documents.c.patches + 1,
            updated_at=datetime.now(UTC),
            **more,
        )
    )


def _merged(
    parts: Parts, record: DocumentRecord, merge: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    title, metadata = record.title, dict(record.metadata)
    if "title" in merge:
        title = merge["title"] if merge["title"] is not None else _found_title(parts, record)
    if merge.get("metadata", {}) is None:
        metadata = {}
    for key, value in (merge.get("metadata") or {}).items():
        metadata[key] = value
        if value is None:
            del metadata[key]
    return title, metadata


def _found_title(parts: Parts, record: DocumentRecord) -> str:
    """The title of before any patch."""
    if not record.renamed:
        return record.title
    return parsed.title_of(parts.objects.get(record.parsed_hash))


def _check(merge: Mapping[str, Any]) -> None:
    unknown = sorted(set(merge) - set(FIELDS))
    if unknown:
        raise InvalidInput(
            f"{', '.join(unknown)} of a document cannot be changed.",
            hint="Title and metadata can; everything else comes from what is ingested.",
        )
    title, metadata = merge.get("title"), merge.get("metadata")
    if title is not None and not (
        isinstance(title, str) and title.strip() and len(title) <= MAX_TITLE_CHARS
    ):
        raise InvalidInput(
            f"A title has 1 to {MAX_TITLE_CHARS} characters.", hint="null removes one that was set."
        )
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidInput("Metadata are an object.", hint='For example {"year": 1811}.')


def _check_settled(connection: sa.Connection, found: Collection, document_id: str) -> None:
    """Raise Conflict while a version is on its way in: it would replace what is patched now."""
    query = sa.select(tasks.c.job_id).where(
        tasks.c.collection_id == found.id,
        tasks.c.document_id == document_id,
        tasks.c.state.in_(("queued", "running")),
    )
    job_id = connection.execute(query.limit(1)).scalar_one_or_none()
    if job_id is not None:
        raise Conflict(
            f"A newer version of {document_id[:200]!r} is being ingested.",
            hint=f"Wait for it: GET /v1/jobs/{job_id}. Or send the metadata with the document.",
        )


def _patched(
    parts: Parts, found: Collection, document_ids: Sequence[str]
) -> dict[tuple[str, int], Any]:
    of = documents.c
    query = sa.select(of.document_id, of.generation, of.title, of.renamed, of.metadata).where(
        of.collection_id == found.id, of.document_id.in_(document_ids), of.patches > 0
    )
    with parts.database.read() as connection:
        rows = connection.execute(query).all()
    return {(row.document_id, row.generation): row for row in rows}
