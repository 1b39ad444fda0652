"""The steps of ingesting one document, in the order in which `Orchestrator.add` takes them."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rag import parsed
from rag.catalog import Collection, DocumentRecord, Revision, Which
from rag.collection import index_of, source_fingerprint
from rag.embed import Embedder
from rag.errors import NotFound, RagError, StorageFull, StoreUnreachable
from rag.folder import LeftOut
from rag.journal import Arrival
from rag.language import language_warning
from rag.objects import digest
from rag.parse import text_document
from rag.parse.options import Options
from rag.parts import Parts
from rag.patch import show
from rag.settings import Settings
from rag.sources import Source, as_text, check_id, check_metadata
from rag.split import Split
from rag.store import Point, point_id
from rag.types import Chunk, Document, DocumentReport, Progress, Scope
from rag.work import Cancellation, Priority, current_work, working

log = logging.getLogger(__name__)

_T = TypeVar("_T")

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

    def room(self, document: Document) -> AbstractContextManager[None]:
        """Room in memory for the document's chunks, held for the length of the block."""

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
        record = parts.catalog.document(scope, found, source.document_id)
    except NotFound:
        return None
    same = record.fingerprint == source_fingerprint(source, content_hash)
    return report_of(record, "unchanged") if same else None


def parse(parts: Parts, source: Source, content: bytes | Path) -> Document:
    """The document of a source: a text is taken as it is, a file is parsed in a child process.

    A file given by its path is never whole in this process's memory.
    """
    if source.is_text:
        data = content if isinstance(content, bytes) else content.read_bytes()
        text = data.decode("utf8", "surrogatepass")
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
        ocr_data=settings.ocr_data,
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
    parts: Parts, found: Collection, chunks: Sequence[Chunk]
) -> Generator[tuple[Sequence[Chunk], NDArray[np.float32]]]:
    """Chunks with their vectors, a batch at a time: while one is stored the next is embedded.

    By the embedder of their collection. To be closed: then what nobody waits for any more is not
    computed.
    """
    size, embedder = parts.settings.embed_batch, parts.embedder_for(found)
    batches = [chunks[at : at + size] for at in range(0, len(chunks), size)]
    bulk = replace(current_work(), priority=Priority.BULK, cancelled=Cancellation())
    forget = current_work().cancelled.call(bulk.cancelled.set)
    with working(bulk):
        context = copy_context()
    ahead = ThreadPoolExecutor(1, "embed-ahead")

    def begin(batch: Sequence[Chunk]) -> Future[NDArray[np.float32]]:
        texts = [chunk.embedded_text for chunk in batch]
        return ahead.submit(context.run, embedder.embed_passages, texts)

    try:
        for batch, vectors in zip(batches, _one_ahead(map(begin, batches)), strict=True):
            yield batch, vectors.result()
    finally:
        bulk.cancelled.set()
        ahead.shutdown()
        forget()


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
    found: Collection,
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
        warnings=warnings_of(parts.embedder_for(found), document, split),
        token_chunks=split.token_chunks,
        parent=source.parent or None,
        children=tuple(child.source.document_id for child in children),
        truncated_tokens=truncated(split, parts.embedder_for(found).max_tokens),
        says_acl=source.says_acl,
    )


def truncated(split: Split, most: int) -> int:
    """Tokens of the chunks that an embedder which reads `most` of each would cut off."""
    return sum(max(0, chunk.tokens - most) for chunk in split.chunks)


def purge(
    parts: Parts, scope: Scope, collection: Which, document_id: str, *, written: int | None = None
) -> bool:
    """Delete points and objects of generations that are no longer live.

    Those of the generation `written`, too, if it was purged while the caller still wrote to it.

    They are invisible already; False when the store does not answer: the next sweep tries again.
    """
    try:
        is_forgotten = written is not None and not parts.catalog.has_generation(written)
        for found in parts.catalog.indexes(scope, collection):
            stale = parts.catalog.stale_generations(scope, found, document_id)
            if written is not None and is_forgotten:
                stale.append(written)
            if stale:
                parts.store.delete(scope, index_of(found), document_id, stale)
                parts.store.flush(index_of(found))
                parts.catalog.purged(scope, found, stale)
    except RagError as error:
        log.warning("old points of %r are invisible but not deleted yet: %s", document_id, error)
        return not isinstance(error, StoreUnreachable | StorageFull)
    return True


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
        document_id = self._source.document_id
        if kind is not None and self._opened is not None:
            try:
                self._parts.catalog.abandon(self._scope, self._found, self._opened)
            except RagError as error:
                log.warning("generation %d stays unfinished and invisible: %s", self._opened, error)
        for gone in (document_id, *sorted(self._gone)):
            purge(self._parts, self._scope, self._found, gone)

    def generation(self) -> None:
        """Nothing is left of earlier attempts."""

    def stored(self) -> int:
        """Nothing."""
        return 0

    def opened(self, *, text_hash: str, parsed_hash: str, attached: Sequence[str]) -> int:
        """A new generation to write into."""
        self._opened = self._parts.catalog.begin_generation(
            self._scope,
            self._found,
            self._source.document_id,
            content_hash=digest(self._content),
            text_hash=text_hash,
            parsed_hash=parsed_hash,
            attached=attached,
        )
        self._parts.objects.put(self._content)
        return self._opened

    def room(self, document: Document) -> AbstractContextManager[None]:  # noqa: ARG002
        """As much as it needs: one document is at work at a time."""
        return nullcontext()

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Tell the caller."""
        self._on_progress(Progress(self._source.name, stage, done, total))

    def flip(self, revision: Revision, children: Sequence[Arrival]) -> DocumentReport:
        """Make the generation the live one, in one transaction."""
        catalog, scope, found = self._parts.catalog, self._scope, self._found
        replaces = bool(catalog.live_generations(scope, found, [revision.document_id]))
        ids = {revision.document_id}
        self._gone = catalog.descendants(scope, found, ids, but=revision.children)
        catalog.flip(scope, found, revision)
        if replaces and not revision.says_acl:
            show(self._parts, scope, found, revision.document_id)
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
        truncated_tokens=made.truncated_tokens if isinstance(made, Revision) else None,
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
        kind=type(error).__name__,
    )


def _one_ahead(items: Iterable[_T]) -> Iterator[_T]:
    """The items, each when the one behind it has been drawn."""
    drawn: deque[_T] = deque()
    for item in items:
        drawn.append(item)
        if len(drawn) > 1:
            yield drawn.popleft()
    yield from drawn


def unread(left_out: LeftOut) -> list[DocumentReport]:
    """The reports of folders and links that could not be read."""
    return [
        DocumentReport("", "failed", as_text(str(path)), error=f"It cannot be read: {why}.")
        for path, why in left_out.unreadable
    ]


def warnings_of(embedder: Embedder, document: Document, split: Split) -> tuple[str, ...]:
    """What the owner of a document should know of it."""
    foreign = language_warning(document.text, embedder.preset.languages, embedder.id)
    unread = truncated(split, embedder.max_tokens)
    lost = f"{unread} tokens are beyond what the embedder reads: no vector knows of them."
    return (
        *document.warnings,
        *split.warnings,
        *([foreign] if foreign else []),
        *([lost] if unread else []),
    )
