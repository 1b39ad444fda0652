"""The steps of ingesting one document, in the order in which `Orchestrator.add` takes them."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag import parsed
from rag.catalog import Collection, DocumentRecord, Revision
from rag.collection import index_of, source_fingerprint
from rag.errors import NotFound, RagError
from rag.journal import Arrival
from rag.language import language_warning
from rag.objects import digest
from rag.parse import text_document
from rag.parse.options import Options
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


class Keeper(Protocol):
    """Who remembers how far a document is, so that an end at any point loses nothing of it."""

    def generation(self) -> tuple[int, str, str] | None:
        """(id, text hash, parsed hash) of what an earlier attempt was writing; None without one."""

    def opened(self, *, text_hash: str, parsed_hash: str, attached: Sequence[str]) -> int:
        """A new generation to write into, which refers to objects of these digests."""

    def stored(self) -> int:
        """How many chunks of the generation are in the store already, and on its disk."""

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """How far the document is."""

    def flip(self, revision: Revision, children: Sequence[Arrival]) -> DocumentReport:
        """Make the generation the live one, and see to what is attached to it."""


def read(source: Source, settings: Settings) -> bytes:
    """The source's bytes, its id and metadata checked. Raises InvalidInput, TooLarge, NotFound."""
    check_id(source.document_id)
    if not source.parent:  # the metadata of an attachment are its parent's, with one more
        check_metadata(source.metadata, settings.max_metadata_bytes)
    return source.read(settings.max_file_bytes)


def unchanged(
    parts: Parts, scope: Scope, found: Collection, source: Source, content_hash: str
) -> DocumentReport | None:
    """The report of the document that was made from exactly the same, if it is there already."""
    try:
        record = parts.catalog.document(scope, found.name, source.document_id)
    except NotFound:
        return None
    same = record.fingerprint == source_fingerprint(source, content_hash)
    return report_of(record, "unchanged") if same else None


def parse(parts: Parts, source: Source, content: bytes) -> Document:
    """The document of a source: a text is taken as it is, a file is parsed in a child process."""
    if source.is_text:
        text = content.decode("utf8", "surrogatepass")
        return text_document(text, title=source.title or "")
    return parts.parsers.parse(
        content,
        name=source.name,
        media_type=source.media_type,
        title=source.title,
        max_chars=parts.settings.max_text_chars,
        options=parse_options(parts.settings, source),
    )


def parse_options(settings: Settings, source: Source) -> Options:
    """What the settings let a parser do with a source."""
    is_deep = source.depth >= settings.max_attachment_depth
    return Options(
        password=source.password,
        max_attachments=0 if is_deep else settings.max_attachments,
        max_attachment_bytes=settings.max_attachment_bytes,
        ocr=settings.ocr_languages if settings.ocr == "auto" else "",
        ocr_data=str(settings.ocr_data or ""),
    )


def open_generation(parts: Parts, keeper: Keeper, document: Document) -> int:
    """A generation for the document, its text and structure kept before anything is written."""
    text, structure = document.text.encode("utf8"), parsed.pack(document)
    attached = [attachment.content_hash for attachment in document.attachments]
    opened = keeper.opened(text_hash=digest(text), parsed_hash=digest(structure), attached=attached)
    for attachment in document.attachments:
        parts.objects.put(attachment.content)
    parts.objects.put(text)
    parts.objects.put(structure)
    return opened


def resume(parts: Parts, keeper: Keeper) -> tuple[int, Document] | None:
    """The generation and document of an attempt that ended early, if they are whole."""
    if (begun := keeper.generation()) is None:
        return None
    generation, text_hash, parsed_hash = begun
    try:
        text, structure = parts.objects.get(text_hash), parts.objects.get(parsed_hash)
    except NotFound:  # it ended between the generation's row and the last object
        return None
    if not parsed.is_current(structure):
        return None
    document = parsed.unpack(text, structure)
    if not all(parts.objects.has(one.content_hash) for one in document.attachments):
        return None
    return generation, document


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
    """Write the points of chunks, onto the disk; invisible until their generation is live."""
    points = [
        Point(point_id(scope.tenant, found.id, chunk), chunk, vector)
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]
    parts.store.upsert(scope, index_of(found), points)
    parts.store.flush(index_of(found))


def revision(
    parts: Parts,
    source: Source,
    content_hash: str,
    document: Document,
    split: Split,
    generation: int,
    children: Sequence[Arrival],
) -> Revision:
    """What the flip makes live."""
    return Revision(
        document_id=source.document_id,
        generation=generation,
        source=source.origin,
        title=document.title,
        media_type=document.media_type,
        metadata=source.metadata,
        content_hash=content_hash,
        fingerprint=source_fingerprint(source, content_hash),
        chunks=len(split.chunks),
        tokens=sum(chunk.tokens for chunk in split.chunks),
        pages=len(document.pages),
        characters=len(document.text),
        warnings=_warnings(parts, document, split),
        token_chunks=split.token_chunks,
        parent=source.parent or None,
        children=tuple(child.source.document_id for child in children),
    )


def purge(parts: Parts, scope: Scope, collection: str, document_id: str) -> None:
    """Delete points and objects of generations that are no longer live.

    They are invisible already; when the store does not answer, the next sweep tries again.
    """
    try:
        found = parts.catalog.collection(scope, collection)
        stale = parts.catalog.stale_generations(scope, collection, document_id)
        if stale:
            parts.store.delete(scope, index_of(found), document_id, stale)
            parts.store.flush(index_of(found))
            parts.catalog.purged(scope, collection, stale)
    except RagError as error:
        log.warning("old points of %r are invisible but not deleted yet: %s", document_id, error)


class Unjournaled:
    """The keeper of a document whose caller waits for it: an attempt that ends early is undone."""

    def __init__(
        self,
        parts: Parts,
        scope: Scope,
        found: Collection,
        source: Source,
        content: bytes,
        on_progress: OnProgress,
    ) -> None:
        self._parts, self._scope, self._found = parts, scope, found
        self._source, self._content, self._on_progress = source, content, on_progress
        self._opened: int | None = None
        self.children: Sequence[Arrival] = ()  # what the caller is to see to
        self._gone: set[str] = set()

    def __enter__(self) -> "Unjournaled":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        name, document_id = self._found.name, self._source.document_id
        if kind is not None and self._opened is not None:
            try:
                self._parts.catalog.abandon(self._scope, name, self._opened)
            except RagError as error:
                log.warning("generation %d stays unfinished and invisible: %s", self._opened, error)
        for gone in (document_id, *sorted(self._gone)):
            purge(self._parts, self._scope, name, gone)

    def generation(self) -> None:
        """Nothing is left of earlier attempts."""

    def stored(self) -> int:
        """Nothing."""
        return 0

    def opened(self, *, text_hash: str, parsed_hash: str, attached: Sequence[str]) -> int:
        """A new generation to write into."""
        self._opened = self._parts.catalog.begin_generation(
            self._scope,
            self._found.name,
            self._source.document_id,
            content_hash=digest(self._content),
            text_hash=text_hash,
            parsed_hash=parsed_hash,
            attached=attached,
        )
        self._parts.objects.put(self._content)
        return self._opened

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Tell the caller."""
        self._on_progress(Progress(self._source.name, stage, done, total))

    def flip(self, revision: Revision, children: Sequence[Arrival]) -> DocumentReport:
        """Make the generation the live one, in one transaction."""
        catalog, scope, name = self._parts.catalog, self._scope, self._found.name
        replaces = bool(catalog.live_generations(scope, name, [revision.document_id]))
        self._gone = catalog.descendants(scope, name, revision.document_id, but=revision.children)
        catalog.flip(scope, name, revision)
        self.children = children
        return report_of(revision, "replaced" if replaces else "ingested")


def report_of(made: DocumentRecord | Revision, status: str) -> DocumentReport:
    """The report of a document that is live, or is just made live."""
    return DocumentReport(
        id=made.document_id if isinstance(made, Revision) else made.id,
        status=status,
        source=made.source,
        title=made.title,
        chunks=made.chunks,
        tokens=made.tokens,
        pages=made.pages,
        characters=made.characters,
        warnings=made.warnings,
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


def _warnings(parts: Parts, document: Document, split: Split) -> tuple[str, ...]:
    languages = parts.embedder.preset.languages
    foreign = language_warning(document.text, languages, parts.embedder.id)
    return (*document.warnings, *split.warnings, *([foreign] if foreign else []))
