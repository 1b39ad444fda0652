"""Migrating a collection to another embedder: the steps, each of which can be repeated.

An index is built aside from the stored texts while the old one serves (`catch_up`), both are asked
the same questions (`rag.compare`), then it takes the old one's place (`flip`). Until it is dropped
the index of before can be brought up to date and put back in the same way.

Nothing remembers how far building is but the index itself: what it has in the collection's version
is done, whatever it lacks is made, whatever it has too much is deleted. So an end at any point
costs the document that was at work, and changes made meanwhile are only another difference.
"""

import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from rag import ingest as steps
from rag import parsed
from rag.builds import Migration, Obstacle, Options
from rag.catalog import DocumentRecord, Revision
from rag.collection import drop_vectors, index_of, pipeline, split_options
from rag.compare import compare, is_worse
from rag.errors import Conflict, InvalidInput, NotFound, RagError
from rag.models.presets import split_task
from rag.parts import Parts
from rag.sources import Source
from rag.split import split_document
from rag.types import Document, Scope

log = logging.getLogger(__name__)

PAGE = 100  # documents that are looked up at once
MOST_ROUNDS = 100  # of catching up with a collection that changes faster
PATIENT_ROUNDS = 5  # in which nothing is held up, while much has changed since the one before


class Watch(Protocol):
    """Who is told how far a migration is, and may end it by raising."""

    def tick(self, *, done: int | None = None, total: int | None = None, doing: str = "") -> None:
        """Called often. Raises Cancelled, LeaseLost."""

    def wait(self, obstacle: Obstacle) -> None:
        """Let a moment pass. Raises as `tick`."""


def model_id(model: str, task: str = "") -> str:
    """The id of a model for one of its tasks. Raises InvalidInput for a task it does not have.

    A folder by its whole path: the collection is served by it wherever we are started.
    """
    if (Path(model).expanduser() / "config.json").is_file():
        model = str(Path(model).expanduser().resolve())
    if not task:
        return model
    named = f"{model}#{task}"
    if not split_task(named)[1]:
        raise InvalidInput(
            f"{model} has no tasks.", hint="Leave --task out; BAAI/llm-embedder has some."
        )
    return named


def start(parts: Parts, scope: Scope, name: str, to: str, options: Options) -> Migration:
    """Begin to build an index by the model `to` beside a collection, or go on with it.

    Returns before anything is embedded. Raises NotFound, Conflict, ModelUnavailable.
    """
    parts.catalog.collection(scope, name)  # before a model is loaded in vain
    embedder = parts.embedder_named(to)
    wanted = pipeline(parts.settings, embedder)
    migration = parts.builds.start(scope, name, wanted, options)
    parts.store.create(index_of(migration.build))
    return migration


def advance(parts: Parts, migration: Migration, watch: Watch) -> None:
    """Do what a claimed migration's state asks for, to its end. Can be repeated at any point."""
    if migration.state == "building":
        build(parts, migration, watch)
    elif migration.state in ("flipping", "returning"):
        flip(parts, migration, watch)
    elif migration.state == "dropping":
        drop(parts, migration)


def build(parts: Parts, migration: Migration, watch: Watch) -> None:
    """Fill the index aside, compare both, and go on to the flip unless something speaks against."""
    clear(parts, migration)
    catch_up(parts, migration, watch)
    now = parts.builds.find(migration.scope, migration.collection.name)
    migration = replace(migration, options=now.options)  # they may have been given anew
    comparison = compare(parts, migration, partial(watch.tick, doing="comparing both indexes"))
    options = migration.options
    worse = is_worse(comparison, options.most_loss)
    if worse:
        log.warning("%r is not flipped: %s", migration.collection.name, worse)
    comparison = replace(comparison, verdict=worse)
    go_on = options.flip and not worse
    parts.builds.settle(migration, "flipping" if go_on else "ready", report=asdict(comparison))


def flip(parts: Parts, migration: Migration, watch: Watch) -> None:
    """Catch up, and exchange both indexes in the moment in which they hold the same.

    Each round has less to do than the one before. When little is left, no document is begun any
    more until it is over: what is accepted waits for as long as those few documents take. Raises
    Conflict when the collection changes all the same.
    """
    clear(parts, migration)
    rounds = 0
    while rounds < MOST_ROUNDS:
        catch_up(parts, migration, watch)
        obstacle = parts.builds.exchange(migration)
        if not obstacle:
            return
        rounds += obstacle == "documents that changed"
        if rounds > PATIENT_ROUNDS or parts.builds.missing(migration) <= PAGE:
            parts.builds.pause(migration)
        watch.wait(obstacle)
    raise Conflict(
        f"Collection {migration.collection.name!r} changes faster than its other index can follow.",
        hint="Ask for the flip again when less is written into it.",
    )


def drop(parts: Parts, migration: Migration) -> None:
    """Delete the index aside: what the catalog knows of it, then its vectors."""
    parts.builds.forget(migration)
    try:
        drop_vectors(parts)
    except RagError as error:
        log.warning("vectors that nobody searches any more are not deleted yet: %s", error)


def clear(parts: Parts, migration: Migration) -> None:
    """Purge what an earlier attempt left half-written, so that every attempt begins alike."""
    parts.store.create(index_of(migration.build))  # an end may have come between row and vectors
    parts.builds.abandon(migration)
    for scope, collection, document_id in parts.catalog.all_stale():
        if collection.id == migration.build.id:
            steps.purge(parts, scope, collection, document_id)


def catch_up(parts: Parts, migration: Migration, watch: Watch) -> None:
    """Make the index aside hold what the collection holds, as far as that stands still."""
    total = parts.builds.count(migration.collection)
    done = max(0, total - parts.builds.missing(migration))
    watch.tick(done=done, total=total)
    while surplus := parts.builds.surplus(migration, limit=PAGE):
        for document_id in surplus:
            _delete(parts, migration, document_id)
            watch.tick(done=done, total=total)
    for document_id in _missing(parts, migration):
        copy(parts, migration, document_id, watch)
        done = min(done + 1, total)
        watch.tick(done=done, total=total)


def copy(parts: Parts, migration: Migration, document_id: str, watch: Watch) -> None:
    """Split, embed and store a document for the index aside, from its stored text."""
    scope, build = migration.scope, migration.build
    try:
        record = parts.catalog.document(scope, migration.collection, document_id)
    except NotFound:
        return  # deleted meanwhile
    generation = parts.catalog.begin_generation(
        scope,
        build,
        document_id,
        content_hash=record.content_hash,
        text_hash=record.text_hash,
        parsed_hash=record.parsed_hash,
        attached=parts.catalog.attached(record.generation),
    )
    made = False
    try:
        # Only now, that the new generation refers to its text, nobody deletes that any more.
        document = _stored(parts, migration, record)
        if document is not None:
            revision = _written(parts, migration, record, document, generation, watch)
            made = parts.builds.adopt(migration, revision, record)
    finally:
        if not made:
            parts.catalog.abandon(scope, build, generation)
        steps.purge(parts, scope, build, document_id)


def _missing(parts: Parts, migration: Migration) -> Iterator[str]:
    after = ""
    while page := parts.builds.next_missing(migration, after=after, limit=PAGE):
        yield from page
        after = page[-1]


def _delete(parts: Parts, migration: Migration, document_id: str) -> None:
    parts.catalog.delete_document(migration.scope, migration.build, document_id)
    steps.purge(parts, migration.scope, migration.build, document_id)


def _stored(parts: Parts, migration: Migration, record: DocumentRecord) -> Document | None:
    """The document as it was parsed. None when it was replaced or deleted meanwhile."""
    try:
        document = parsed.stored(parts.objects, record)
    except NotFound:
        now = parts.catalog.live_generations(migration.scope, migration.collection, [record.id])
        if now.get(record.id) == record.generation:
            raise  # it is there, and its text is lost
        return None
    return replace(document, title=record.title)


def _written(
    parts: Parts,
    migration: Migration,
    record: DocumentRecord,
    document: Document,
    generation: int,
    watch: Watch,
) -> Revision:
    """Write the points of a document's copy; what then makes them live."""
    build = migration.build
    source = Source(record.title, record.source, id=record.id, metadata=record.metadata)
    split = split_document(document, **split_options(parts, build, source, generation))
    with closing(steps.embed(parts, build, split.chunks)) as embedded:
        for chunks, vectors in embedded:
            steps.store(parts, migration.scope, build, chunks, vectors)
            watch.tick()
    content_hash = record.content_hash
    made = steps.revision(parts, build, source, content_hash, document, split, generation, ())
    return replace(
        made,
        media_type=record.media_type,
        fingerprint=record.fingerprint,
        parent=record.parent,
        children=tuple(parts.catalog.descendants(migration.scope, build, {record.id})),
    )
