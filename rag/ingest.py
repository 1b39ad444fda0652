"""The steps of ingesting one document, in the order in which `Orchestrator.add` takes them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag.catalog import Collection, DocumentRecord, Revision
from rag.collection import index_of, source_fingerprint
from rag.errors import NotFound, RagError
from rag.language import language_warning
from rag.objects import digest
from rag.parse import text_document
from rag.parts import Parts
from rag.settings import Settings
from rag.sources import Source, check_id, check_metadata
from rag.split import Split
from rag.store import Point, point_id
from rag.types import Chunk, Document, DocumentReport, Progress, Scope
from rag.work import Priority, current_work, working

log = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """The progress that nobody watches."""


def read(source: Source, settings: Settings) -> bytes:
    """The source's bytes, its id and metadata checked. Raises InvalidInput, TooLarge, NotFound."""
    check_id(source.document_id)
    check_metadata(source.metadata, settings.max_metadata_bytes)
    return source.read(settings.max_file_bytes)


def unchanged(
    parts: Parts, scope: Scope, found: Collection, source: Source, content: bytes
) -> DocumentReport | None:
    """The report of the document that was made from exactly the same, if it is there already."""
    try:
        record = parts.catalog.document(scope, found.name, source.document_id)
    except NotFound:
        return None
    same = record.fingerprint == source_fingerprint(source, digest(content))
    return report_of(record, "unchanged") if same else None


def parse(parts: Parts, source: Source, content: bytes) -> Document:
    """The document of a source: a text is taken as it is, a file is parsed in a child process."""
    if source.text is not None:
        return text_document(source.text, title=source.title or "")
    return parts.parsers.parse(
        content,
        name=source.name,
        media_type=source.media_type,
        title=source.title,
        max_chars=parts.settings.max_text_chars,
    )


@contextmanager
def generation(
    parts: Parts,
    scope: Scope,
    found: Collection,
    source: Source,
    content: bytes,
    document: Document,
) -> Iterator[int]:
    """A new generation with its original and text kept; whatever fails inside takes it away."""
    text = document.text.encode("utf8")
    opened = parts.catalog.begin_generation(
        scope,
        found.name,
        source.document_id,
        content_hash=digest(content),
        text_hash=digest(text),
    )
    try:
        parts.objects.put(content)
        parts.objects.put(text)
        yield opened
    except BaseException:
        _abandon(parts, scope, found, opened)
        raise
    finally:
        purge(parts, scope, found, source.document_id)


def embed(
    parts: Parts, chunks: Sequence[Chunk]
) -> Iterator[tuple[Sequence[Chunk], NDArray[np.float32]]]:
    """Chunks with their vectors, a batch at a time."""
    batch = parts.settings.embed_batch
    for at in range(0, len(chunks), batch):
        part = chunks[at : at + batch]
        with working(replace(current_work(), priority=Priority.BULK)):
            vectors = parts.embedder.embed_passages([chunk.embedded_text for chunk in part])
        yield part, vectors


def store(
    parts: Parts,
    scope: Scope,
    found: Collection,
    chunks: Sequence[Chunk],
    vectors: NDArray[np.float32],
) -> None:
    """Write the points of chunks; they stay invisible until their generation is live."""
    points = [
        Point(point_id(scope.tenant, found.id, chunk), chunk, vector)
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]
    parts.store.upsert(scope, index_of(found), points)


def flip(
    parts: Parts,
    scope: Scope,
    found: Collection,
    source: Source,
    content: bytes,
    document: Document,
    split: Split,
    opened: int,
) -> DocumentReport:
    """Make the generation the live one, in one transaction, once its points are safe on disk."""
    parts.store.flush(index_of(found))
    replaces = bool(parts.catalog.live_generations(scope, found.name, [source.document_id]))
    revision = Revision(
        document_id=source.document_id,
        generation=opened,
        source=source.origin,
        title=document.title,
        media_type=document.media_type,
        metadata=source.metadata,
        content_hash=digest(content),
        fingerprint=source_fingerprint(source, digest(content)),
        chunks=len(split.chunks),
        tokens=sum(chunk.tokens for chunk in split.chunks),
        pages=len(document.pages),
        characters=len(document.text),
        warnings=_warnings(parts, document, split),
        token_chunks=split.token_chunks,
    )
    parts.catalog.flip(scope, found.name, revision)
    record = parts.catalog.document(scope, found.name, source.document_id)
    return report_of(record, "replaced" if replaces else "ingested")


def purge(parts: Parts, scope: Scope, found: Collection, document_id: str) -> None:
    """Delete points and objects of generations that are no longer live.

    They are invisible already; when the store does not answer, the next change of the document
    tries again.
    """
    try:
        stale = parts.catalog.stale_generations(scope, found.name, document_id)
        if stale:
            parts.store.delete(scope, index_of(found), document_id, stale)
            for name in parts.catalog.purged(scope, found.name, stale):
                parts.objects.delete(name)
    except RagError as error:
        log.warning("old points of %r are invisible but not deleted yet: %s", document_id, error)


def report_of(record: DocumentRecord, status: str) -> DocumentReport:
    """The report of a document that is live."""
    return DocumentReport(
        id=record.id,
        status=status,
        source=record.source,
        title=record.title,
        chunks=record.chunks,
        tokens=record.tokens,
        pages=record.pages,
        characters=record.characters,
        warnings=record.warnings,
    )


def failed(source: Source, error: RagError) -> DocumentReport:
    """The report of a document that could not be ingested."""
    return DocumentReport(
        id=source.document_id,
        status="failed",
        source=source.origin,
        error=error.message,
        hint=error.hint,
    )


def _abandon(parts: Parts, scope: Scope, found: Collection, opened: int) -> None:
    try:
        parts.catalog.abandon(scope, found.name, opened)
    except RagError as error:
        log.warning("generation %d stays unfinished and invisible: %s", opened, error)


def _warnings(parts: Parts, document: Document, split: Split) -> tuple[str, ...]:
    languages = parts.embedder.preset.languages
    foreign = language_warning(document.text, languages, parts.embedder.id)
    return (*document.warnings, *split.warnings, *([foreign] if foreign else []))
