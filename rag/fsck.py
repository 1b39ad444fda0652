"""`rag fsck`: catalog, object store and vectors compared with one another, both ways."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rag import ingest as steps
from rag import parsed
from rag.catalog import Collection
from rag.collection import check_embedder, index_of, split_options
from rag.errors import Conflict, NotFound
from rag.parts import Parts
from rag.sources import Source
from rag.split import split_document
from rag.types import Scope

Kind = Literal[
    "missing points",
    "surplus points",
    "orphan points",
    "missing vectors",
    "orphan vectors",
    "missing object",
    "orphan object",
    "unfinished object",
    "unpurged generation",
    "unfinished generation",
    "orphan attachment",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. `repair` mends it; None where only the bytes of old would."""

    kind: Kind
    what: str
    repair: Callable[[], None] | None = None


def examine(parts: Parts) -> Iterator[Finding]:
    """Everything that does not fit. Read-only; `Finding.repair` is what changes something.

    For a data folder on which nothing else works meanwhile: what is just being written looks like
    an orphan.
    """
    found = parts.catalog.every_collection()
    for collection in found:
        yield from _points(parts, collection)
    known = {collection.physical for collection in found}
    for physical in sorted(set(parts.store.physical_names()) - known):
        yield Finding("orphan vectors", physical, partial(parts.store.drop_physical, physical))
    for scope, name, document_id in parts.catalog.orphans():
        delete = partial(_delete, parts, scope, name, document_id)
        yield Finding("orphan attachment", f"{scope.tenant}/{name}: {document_id!r}", delete)
    yield from _objects(parts)


def _points(parts: Parts, collection: Collection) -> Iterator[Finding]:
    scope, index = Scope(collection.tenant), index_of(collection)
    name = f"{collection.tenant}/{collection.name}"
    known = parts.catalog.generations_of(collection)
    try:
        there = parts.store.inventory(scope, index)
    except NotFound:
        yield Finding("missing vectors", name)
        return
    for document_id, generation in sorted(known.stale):
        yield Finding(
            "unpurged generation",
            f"{name}: {document_id!r}, generation {generation}",
            partial(steps.purge, parts, scope, collection.name, document_id),
        )
    for document_id, generation in sorted(known.orphans):
        yield Finding(
            "unfinished generation",
            f"{name}: {document_id!r}, generation {generation}",
            partial(_give_up, parts, scope, collection.name, document_id, generation),
        )
    for key, chunks in sorted(known.live.items()):
        if there[key] != chunks:
            kind: Kind = "missing points" if there[key] < chunks else "surplus points"
            yield Finding(
                kind,
                f"{name}: {key[0]!r} has {there[key]} of {chunks} points",
                partial(_rewrite, parts, scope, collection, key[0]),
            )
    rest = set(there) - set(known.live) - known.writing - known.orphans - known.stale
    for document_id, generation in sorted(rest):
        points = there[document_id, generation]
        yield Finding(
            "orphan points",
            f"{name}: {points} points of {document_id!r}, generation {generation}",
            partial(parts.store.delete, scope, index, document_id, [generation]),
        )


def _give_up(
    parts: Parts, scope: Scope, collection: str, document_id: str, generation: int
) -> None:
    """Purge what an interrupted process began to write, and nobody will finish."""
    parts.catalog.abandon(scope, collection, generation)
    steps.purge(parts, scope, collection, document_id)


def _delete(parts: Parts, scope: Scope, collection: str, document_id: str) -> None:
    """Delete an attachment whose mail is gone."""
    attached = parts.journal.delete_document(scope, collection, document_id)
    for gone in (document_id, *attached):
        steps.purge(parts, scope, collection, gone)


def _rewrite(parts: Parts, scope: Scope, collection: Collection, document_id: str) -> None:
    """Write a live document's points again, from its text. Raises NotFound, PipelineMismatch."""
    check_embedder(collection, parts.embedder)
    record = parts.catalog.document(scope, collection.name, document_id)
    text, structure = (parts.objects.get(h) for h in (record.text_hash, record.parsed_hash))
    document = parsed.unpack(text, structure)
    source = Source(record.title, record.source, id=record.id, metadata=record.metadata)
    options = split_options(parts, collection, source, record.generation)
    split = split_document(document, **options)
    if len(split.chunks) != record.chunks:
        raise Conflict(
            f"{document_id!r} would have {len(split.chunks)} chunks now and had {record.chunks}.",
            hint="Ingest it again.",
        )
    parts.store.delete(scope, index_of(collection), document_id, [record.generation])
    for chunks, vectors in steps.embed(parts, split.chunks):
        steps.store(parts, scope, collection, chunks, vectors)


def _objects(parts: Parts) -> Iterator[Finding]:
    referenced = parts.catalog.referenced_objects()
    kept = set(parts.objects.names())
    for name in sorted(referenced - kept):
        yield Finding("missing object", name)
    for name in sorted(kept - referenced):
        yield Finding("orphan object", name, partial(parts.objects.delete, name))
    if unfinished := len(list(parts.objects.unfinished())):
        what = f"{unfinished} files that an interrupted write left"
        yield Finding("unfinished object", what, parts.objects.delete_unfinished)
