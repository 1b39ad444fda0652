"""The catalog: what exists. Qdrant holds candidates, these tables say which of them are real.

A document has generations. Ingesting opens generation N (state `writing`), writes its points, then
`flip` makes it the live one in one transaction; generation ids are never reused, so a point that a
crash left behind can never come alive again. Deleting is one transaction too. `purged` forgets the
stale generations once their points are gone.
"""

import re
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rag.database import Database, utc
from rag.errors import Conflict, InvalidInput, NotFound
from rag.store import PREFIX
from rag.tables import (
    collections,
    documents,
    doomed,
    generations,
    jobs,
    tasks,
    token_chunks,
)
from rag.types import Metadata, Scope

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HASHES = ("content_hash", "text_hash", "parsed_hash")


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents built by one pipeline; `physical` names its vectors in the store.

    `settings` holds choices made per collection (`bm25_language`, fusion, ...); `chunks` counts
    live chunks.
    """

    id: int
    tenant: str
    name: str
    physical: str
    pipeline: Mapping[str, Any]
    settings: Mapping[str, Any]
    system_prompt: str
    answer_language: str
    chunks: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A live document as users see it.

    `fingerprint` covers everything that it was made from: the same again means no work.
    """

    id: str
    generation: int
    source: str
    title: str
    media_type: str
    metadata: Metadata
    content_hash: str
    fingerprint: str
    text_hash: str
    parsed_hash: str
    chunks: int
    tokens: int
    pages: int
    characters: int
    warnings: tuple[str, ...]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Revision:
    """What a flip makes live: the document's face and the counts of its new generation."""

    document_id: str
    generation: int
    source: str
    title: str
    media_type: str
    metadata: Metadata
    content_hash: str
    fingerprint: str
    chunks: int
    tokens: int
    pages: int
    characters: int
    warnings: tuple[str, ...]
    token_chunks: Mapping[int, int]  # token id -> how many of the chunks hold it


@dataclass(frozen=True, slots=True)
class Generations:
    """(document, generation) by state; of live ones the number of chunks.

    `writing` are those that a task goes on with, `orphans` were begun and have none.
    """

    live: Mapping[tuple[str, int], int]
    writing: Set[tuple[str, int]]
    orphans: Set[tuple[str, int]]
    stale: Set[tuple[str, int]]


class Catalog:
    """Thread-safe; one per process and database."""

    def __init__(
        self, database: Database, *, drop_object: Callable[[str], None] = lambda _: None
    ) -> None:
        self._database = database
        self._drop_object = drop_object  # called for a digest that nothing refers to any more

    def _read(self, within: sa.Connection | None) -> AbstractContextManager[sa.Connection]:
        return nullcontext(within) if within is not None else self._database.read()

    def _write(self, within: sa.Connection | None) -> AbstractContextManager[sa.Connection]:
        return nullcontext(within) if within is not None else self._database.write()

    # Collections

    def create_collection(
        self,
        scope: Scope,
        name: str,
        pipeline: Mapping[str, Any],
        *,
        settings: Mapping[str, Any] | None = None,
        system_prompt: str = "",
        answer_language: str = "",
    ) -> Collection:
        """A new, empty collection. Raises Conflict when the name is taken."""
        if not NAME.fullmatch(name):
            raise InvalidInput(
                f"{name[:80]!r} cannot name a collection.",
                hint="Use 1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit.",
            )
        if not scope.allows(name):
            raise _no_collection(name)
        row = {
            "tenant": scope.tenant,
            "name": name,
            "physical": f"{PREFIX}{uuid4().hex}",
            "pipeline": dict(pipeline),
            "settings": dict(settings or {}),
            "system_prompt": system_prompt,
            "answer_language": answer_language,
            "chunks": 0,
            "created_at": datetime.now(UTC),
        }
        try:
            with self._database.write() as connection:
                connection.execute(collections.insert().values(row))
        except IntegrityError:
            raise Conflict(
                f"There is a collection {name!r} already.",
                hint="Pick another name, or delete that one first.",
            ) from None
        return self.collection(scope, name)

    def collection(
        self, scope: Scope, name: str, *, within: sa.Connection | None = None
    ) -> Collection:
        """The collection of that name. Raises NotFound, also for one outside the scope."""
        with self._read(within) as connection:
            return _collection(connection, scope, name)

    def collections(self, scope: Scope) -> list[Collection]:
        """Every collection within the scope, by name."""
        query = collections.select().where(collections.c.tenant == scope.tenant)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(collections.c.name)).mappings().all()
        return [Collection(**utc(row)) for row in rows if scope.allows(row["name"])]

    def every_collection(self) -> list[Collection]:
        """Those of all tenants: for maintenance, which sees everything."""
        with self._database.read() as connection:
            rows = connection.execute(collections.select()).mappings().all()
        return [Collection(**utc(row)) for row in rows]

    def update_collection(self, scope: Scope, name: str, **changes: object) -> Collection:
        """Change `settings`, `system_prompt` or `answer_language`; None leaves one as it is."""
        given = {key: value for key, value in changes.items() if value is not None}
        with self._database.write() as connection:
            found = _collection(connection, scope, name)
            if given:
                connection.execute(
                    collections.update().where(collections.c.id == found.id).values(given)
                )
            return _collection(connection, scope, name)

    def delete_collection(
        self, scope: Scope, name: str, *, only_unused: bool = False
    ) -> Collection:
        """Forget a collection with all its documents and jobs; the caller drops its vectors.

        With `only_unused` one into which something was sent is left as it is.
        """
        with self._database.write() as connection:
            found = _collection(connection, scope, name)
            row = sa.select(collections.c.id).where(collections.c.id == found.id)
            connection.execute(row.with_for_update())  # nothing is accepted into it any more
            sent = sa.select(jobs.c.id).where(jobs.c.collection_id == found.id).limit(1)
            if only_unused and connection.execute(sent).first() is not None:
                return found
            mine = generations.c.collection_id == found.id
            hashes = _hashes(connection, mine, tasks.c.collection_id == found.id)
            for table in (tasks, jobs, token_chunks, documents, generations):
                connection.execute(table.delete().where(table.c.collection_id == found.id))
            connection.execute(collections.delete().where(collections.c.id == found.id))
            self.doom(connection, hashes)
        self.drop_doomed()
        return found

    # Documents

    def documents(
        self, scope: Scope, name: str, *, after: str = "", limit: int = 100
    ) -> list[DocumentRecord]:
        """Live documents by id, from the first id behind `after` on."""
        with self._database.read() as connection:
            found = _collection(connection, scope, name)
            query = _live(found).where(documents.c.document_id > after)
            query = query.order_by(documents.c.document_id).limit(limit)
            return [_document(row) for row in connection.execute(query).mappings()]

    def document(self, scope: Scope, name: str, document_id: str) -> DocumentRecord:
        """One live document. Raises NotFound."""
        with self._database.read() as connection:
            found = _collection(connection, scope, name)
            query = _live(found).where(documents.c.document_id == document_id)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise _no_document(document_id, name)
        return _document(row)

    def live_generations(
        self,
        scope: Scope,
        name: str,
        document_ids: Sequence[str],
        *,
        within: sa.Connection | None = None,
    ) -> dict[str, int]:
        """Document id -> its live generation, for those of `document_ids` that are live."""
        with self._read(within) as connection:
            found = _collection(connection, scope, name)
            query = sa.select(documents.c.document_id, documents.c.generation).where(
                documents.c.collection_id == found.id, documents.c.document_id.in_(document_ids)
            )
            return {row.document_id: row.generation for row in connection.execute(query)}

    def begin_generation(
        self,
        scope: Scope,
        name: str,
        document_id: str,
        *,
        content_hash: str,
        text_hash: str,
        parsed_hash: str,
        within: sa.Connection | None = None,
    ) -> int:
        """Open a generation to write points into; invisible until `flip`.

        The hashes are recorded from the start, so that no purge takes their objects away.
        """
        row = {
            "document_id": document_id,
            "state": "writing",
            "content_hash": content_hash,
            "text_hash": text_hash,
            "parsed_hash": parsed_hash,
            "chunks": 0,
            "tokens": 0,
            "pages": 0,
            "characters": 0,
            "warnings": [],
            "token_chunks": b"",
            "created_at": datetime.now(UTC),
        }
        with self._write(within) as connection:
            self._database.lock_objects(connection, shared=True)
            found = _collection(connection, scope, name)
            result = connection.execute(generations.insert().values(collection_id=found.id, **row))
        return int(result.inserted_primary_key[0])  # type: ignore[index] # one row was inserted

    def flip(
        self, scope: Scope, name: str, revision: Revision, *, within: sa.Connection | None = None
    ) -> bool:
        """Make the revision's generation the live one, in one transaction.

        False when a newer generation is live already, or this one was given up: then only its
        points have to go.
        """
        with self._write(within) as connection:
            found = _collection(connection, scope, name)
            live = self._lock_document(connection, found, revision.document_id)
            if live is not None and live.generation == revision.generation:
                return True  # a repeated step must neither count twice nor mark the live one stale
            if live is not None and live.generation > revision.generation:
                _mark_stale(connection, [revision.generation])
                return False
            if not _is_writing(connection, revision.generation):
                return False  # it was given up meanwhile, and its points may be gone
            self._make_live(connection, found, revision, replace=live is not None)
            if live is not None:
                self._count(connection, found, live.generation, -1)
                _mark_stale(connection, [live.generation])
        return True

    def delete_document(
        self, scope: Scope, name: str, document_id: str, *, within: sa.Connection | None = None
    ) -> None:
        """Effective at commit; the points of its generations are purged behind it.

        Raises NotFound.
        """
        with self._write(within) as connection:
            found = _collection(connection, scope, name)
            live = self._lock_document(connection, found, document_id)
            if live is None:
                raise _no_document(document_id, name)
            self._count(connection, found, live.generation, -1)
            connection.execute(
                documents.delete().where(
                    documents.c.collection_id == found.id, documents.c.document_id == document_id
                )
            )
            _mark_stale(connection, [live.generation])

    def abandon(self, scope: Scope, name: str, generation: int) -> None:
        """Mark a generation that will not be finished, so that its points are purged."""
        with self._database.write() as connection:
            found = _collection(connection, scope, name)
            query = generations.update().where(
                generations.c.collection_id == found.id,
                generations.c.id == generation,
                generations.c.state == "writing",
            )
            connection.execute(query.values(state="stale"))

    def stale_generations(self, scope: Scope, name: str, document_id: str) -> list[int]:
        """Generations of a document whose points are to be deleted, and nobody writes any more."""
        with self._database.read() as connection:
            found = _collection(connection, scope, name)
            query = sa.select(generations.c.id).where(
                generations.c.collection_id == found.id,
                generations.c.document_id == document_id,
                generations.c.state == "stale",
                ~_is_held(),
            )
            return list(connection.execute(query).scalars())

    def has_generation(self, generation: int) -> bool:
        """Whether a generation is known, in whatever state: one that was purged is not."""
        query = sa.select(generations.c.id).where(generations.c.id == generation)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def purged(self, scope: Scope, name: str, stale: Sequence[int]) -> None:
        """Forget stale generations whose points are gone, and the objects that only they used."""
        with self._database.write() as connection:
            found = _collection(connection, scope, name)
            mine = sa.and_(
                generations.c.collection_id == found.id,
                generations.c.id.in_(stale),
                generations.c.state == "stale",
                ~_is_held(),
            )
            hashes = _hashes(connection, mine)
            connection.execute(generations.delete().where(mine))
            self.doom(connection, hashes)
        self.drop_doomed()

    def all_stale(self) -> list[tuple[Scope, str, str]]:
        """(scope, collection, document) of every document with points that are to be deleted."""
        query = (
            sa.select(collections.c.tenant, collections.c.name, generations.c.document_id)
            .join(collections, collections.c.id == generations.c.collection_id)
            .where(generations.c.state == "stale", ~_is_held())
            .distinct()
        )
        with self._database.read() as connection:
            return [(Scope(row[0]), row[1], row[2]) for row in connection.execute(query)]

    def abandon_orphans(self, before: datetime) -> None:
        """Mark generations begun before a time that nobody is writing any more.

        Those of tasks that are not done are kept: whoever takes the task up goes on with them.
        """
        with self._database.write() as connection:
            connection.execute(
                generations.update()
                .where(
                    generations.c.state == "writing",
                    generations.c.created_at < before,
                    ~_is_wanted(),
                )
                .values(state="stale")
            )

    def generations_of(self, found: Collection) -> Generations:
        """All generations of a collection, by state."""
        of = generations.c
        query = sa.select(of.document_id, of.id, of.state, of.chunks, _is_wanted().label("wanted"))
        query = query.where(generations.c.collection_id == found.id)
        live: dict[tuple[str, int], int] = {}
        writing: set[tuple[str, int]] = set()
        orphans: set[tuple[str, int]] = set()
        stale: set[tuple[str, int]] = set()
        with self._database.read() as connection:
            for document_id, generation, state, chunks, wanted in connection.execute(query):
                if state == "live":
                    live[document_id, generation] = chunks
                elif state == "stale":
                    stale.add((document_id, generation))
                else:
                    (writing if wanted else orphans).add((document_id, generation))
        return Generations(live, writing, orphans, stale)

    def referenced_objects(self) -> set[str]:
        """The digest of every object that something refers to."""
        with self._database.read() as connection:
            return _hashes(connection, sa.true(), sa.true())

    def doom(self, connection: sa.Connection, hashes: Set[str]) -> None:
        """Write down, within a transaction, that objects may have lost their last reference."""
        if hashes:
            rows = [{"name": name} for name in sorted(hashes)]
            connection.execute(self._database.insert(doomed).on_conflict_do_nothing(), rows)

    def drop_doomed(self) -> None:
        """Drop what was written down and nothing refers to.

        In a transaction after the one that took the last reference away, so that no file is gone
        before that is certain; interrupted, it is repeated. Whoever is about to store the same
        bytes has said so in a transaction: either it is seen here, or it comes after this one and
        stores them anew.
        """
        names: set[str] | None = None
        while names is None or names:
            with self._database.write() as connection:
                self._database.lock_objects(connection)
                query = sa.select(doomed.c.name).limit(500)
                names = set(connection.execute(query).scalars())
                for name in _unused(connection, names):
                    self._drop_object(name)
                connection.execute(doomed.delete().where(doomed.c.name.in_(names)))

    def token_document_frequencies(
        self, scope: Scope, name: str, tokens: Sequence[int]
    ) -> tuple[dict[int, int], int]:
        """(token id -> live chunks that hold it, number of live chunks)."""
        with self._database.read() as connection:
            found = _collection(connection, scope, name)
            query = sa.select(token_chunks.c.token, token_chunks.c.chunks).where(
                token_chunks.c.collection_id == found.id, token_chunks.c.token.in_(tokens)
            )
            counts = {row.token: row.chunks for row in connection.execute(query)}
        return counts, found.chunks

    # Inside a transaction

    def lock(self, connection: sa.Connection, found: Collection) -> None:
        """Take turns with others who flip or delete in a collection, until the transaction ends.

        It orders flips of new documents, which have no row to lock yet, and keeps the counters
        exact. Comes before locks of tasks and generations, or two would wait for each other. On
        SQLite a write transaction is alone anyway.
        """
        row = sa.select(collections.c.id).where(collections.c.id == found.id)
        connection.execute(row.with_for_update(key_share=True))

    def _lock_document(
        self, connection: sa.Connection, found: Collection, document_id: str
    ) -> sa.Row[Any] | None:
        """The live row of a document, in a collection that is locked."""
        self.lock(connection, found)
        return connection.execute(
            sa.select(documents.c.generation).where(
                documents.c.collection_id == found.id, documents.c.document_id == document_id
            )
        ).one_or_none()

    def _make_live(
        self, connection: sa.Connection, found: Collection, revision: Revision, *, replace: bool
    ) -> None:
        now = datetime.now(UTC)
        connection.execute(
            generations.update()
            .where(generations.c.id == revision.generation)
            .values(
                state="live",
                chunks=revision.chunks,
                tokens=revision.tokens,
                pages=revision.pages,
                characters=revision.characters,
                warnings=list(revision.warnings),
                token_chunks=_pack(revision.token_chunks),
            )
        )
        face = {
            "generation": revision.generation,
            "source": revision.source,
            "title": revision.title,
            "media_type": revision.media_type,
            "metadata": dict(revision.metadata),
            "content_hash": revision.content_hash,
            "fingerprint": revision.fingerprint,
            "updated_at": now,
        }
        key = {"collection_id": found.id, "document_id": revision.document_id}
        if replace:
            connection.execute(
                documents.update()
                .where(*(documents.c[column] == value for column, value in key.items()))
                .values(face)
            )
        else:
            connection.execute(documents.insert().values(**key, **face, created_at=now))
        self._count(connection, found, revision.generation, +1)

    def _count(
        self, connection: sa.Connection, found: Collection, generation: int, sign: int
    ) -> None:
        """Add (+1) or take away (-1) a generation's chunks from the collection's counters."""
        query = sa.select(generations.c.chunks, generations.c.token_chunks)
        row = connection.execute(query.where(generations.c.id == generation)).one()
        rows = [
            {"collection_id": found.id, "token": token, "chunks": sign * count}
            for token, count in sorted(_unpack(row.token_chunks).items())
        ]
        if rows:
            insert = self._database.insert(token_chunks)
            added = token_chunks.c.chunks + insert.excluded.chunks
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["collection_id", "token"], set_={"chunks": added}
                ),
                rows,
            )
        # Last: Postgres does not notice that a session stands still right after a batch of rows.
        connection.execute(
            collections.update()
            .where(collections.c.id == found.id)
            .values(chunks=collections.c.chunks + sign * row.chunks)
        )


def _collection(connection: sa.Connection, scope: Scope, name: str) -> Collection:
    row = None
    if scope.allows(name):
        query = collections.select().where(
            collections.c.tenant == scope.tenant, collections.c.name == name
        )
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_collection(name)
    return Collection(**utc(row))


def _no_collection(name: str) -> NotFound:
    return NotFound(
        f"There is no collection {name[:80]!r}.",
        hint="`rag ls` or GET /v1/collections lists those there are; `rag ingest` creates one.",
    )


def _no_document(document_id: str, name: str) -> NotFound:
    return NotFound(
        f"There is no document {document_id[:200]!r} in collection {name!r}.",
        hint=f"`rag ls {name}` or GET /v1/documents lists those there are.",
    )


def _live(found: Collection) -> sa.Select[Any]:
    counts = ("text_hash", "parsed_hash", "chunks", "tokens", "pages", "characters", "warnings")
    return (
        sa.select(documents, *(generations.c[column] for column in counts))
        .join(generations, generations.c.id == documents.c.generation)
        .where(documents.c.collection_id == found.id)
    )


def _document(row: Mapping[Any, Any]) -> DocumentRecord:
    fields = utc(row)
    fields["id"] = fields.pop("document_id")
    fields["warnings"] = tuple(fields["warnings"])
    del fields["collection_id"]
    return DocumentRecord(**fields)


def _hashes(
    connection: sa.Connection,
    which: sa.ColumnElement[bool],
    sent: sa.ColumnElement[bool] | None = None,
) -> set[str]:
    """Digests that some generations, and some tasks, refer to."""
    columns = [generations.c[name] for name in _HASHES]
    rows = connection.execute(sa.select(*columns).where(which)).all()
    found = {value for row in rows for value in row}
    if sent is not None:
        found.update(connection.execute(sa.select(tasks.c.content_hash).where(sent)).scalars())
    return found - {""}


def _is_wanted() -> sa.ColumnElement[bool]:
    """Whether a task that is not done will go on with a generation."""
    return sa.exists().where(
        tasks.c.generation == generations.c.id, tasks.c.state.in_(("queued", "running"))
    )


def _is_held() -> sa.ColumnElement[bool]:
    """Whether somebody may still be writing a generation, though its task was cancelled."""
    return sa.exists().where(
        tasks.c.generation == generations.c.id, tasks.c.lease_until > datetime.now(UTC)
    )


def _unused(connection: sa.Connection, hashes: Set[str]) -> list[str]:
    """Those of the hashes that neither a generation nor a task refers to."""
    used: set[str] = set()
    for column in (*(generations.c[name] for name in _HASHES), tasks.c.content_hash):
        # In parts, because databases bound the number of parameters.
        for at in range(0, len(hashes), 500):
            part = sorted(hashes)[at : at + 500]
            used.update(connection.execute(sa.select(column).where(column.in_(part))).scalars())
    return sorted(hashes - used)


def _is_writing(connection: sa.Connection, generation: int) -> bool:
    query = sa.select(generations.c.state).where(generations.c.id == generation)
    return connection.execute(query).scalar_one_or_none() == "writing"


def _mark_stale(connection: sa.Connection, ids: Sequence[int]) -> None:
    query = generations.update().where(generations.c.id.in_(ids))
    connection.execute(query.values(state="stale"))


def _pack(counts: Mapping[int, int]) -> bytes:
    pairs = np.array(sorted(counts.items()), dtype="<i4").reshape(-1, 2)
    return zlib.compress(pairs.tobytes())


def _unpack(blob: bytes) -> dict[int, int]:
    if not blob:
        return {}
    pairs = np.frombuffer(zlib.decompress(blob), dtype="<i4").reshape(-1, 2)
    return {int(token): int(count) for token, count in pairs}
