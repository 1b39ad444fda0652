"""The catalog: what exists. Qdrant holds candidates, these tables say which of them are real.

A document has generations. Ingesting opens generation N (state `writing`), writes its points, then
`flip` makes it the live one in one transaction; generation ids are never reused, so a point that a
crash left behind can never come alive again. Deleting is one transaction too. `purged` forgets the
stale generations once their points are gone.

A document may have a parent: the mail that it is attached to. It lives and goes with it: a flip
of the parent takes those children away that the new version no longer has, a delete all of them.

While somebody holds the catalog (a backup that is being written) nothing that was live when the
hold began goes away for good: points, objects and vectors that have to go wait for its end. Deletes
are effective at their commit all the same.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rag import access
from rag.database import Database, utc
from rag.errors import CollectionMoved, Conflict, Forbidden, InvalidInput, NotFound
from rag.store import PREFIX
from rag.tables import (
    backups,
    collections,
    documents,
    doomed,
    doomed_vectors,
    enclosed,
    generations,
    jobs,
    migrations,
    tasks,
    token_chunks,
    trace_documents,
    traces,
)
from rag.types import Metadata, Scope

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HASHES = ("content_hash", "text_hash", "parsed_hash")


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents built by one pipeline; `physical` names its vectors in the store.

    `settings` holds choices made per collection (`bm25_language`, fusion, ...); `chunks` counts
    live chunks; `version` grows with every document that comes, changes or goes. `build_for` is set
    for an index beside the one that serves, which nobody can name: the id of the collection that
    users see (see `rag.builds`).
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
    build_for: int | None = None
    version: int = 0


Which = str | Collection
"""A collection by its name, or one that was looked up before: that very one, whatever it is called
by now. Who looked a collection up once, and keeps to that, sees one index throughout."""


@dataclass(frozen=True, slots=True)
class DocumentRecord:
    """A live document as users see it.

    `fingerprint` covers everything that it was made from: the same again means no work. `patches`
    counts what was changed since (see `rag/patch.py`), `renamed` says that its title was.
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
    patches: int = 0
    renamed: bool = False
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Revision:
    """What a flip makes live: the document's face and the counts of its new generation.

    `parent` is the document that it is attached to, `children` are those attached to it. Unless it
    `says_acl`, who may see the document stays as it is, if it is there.
    """

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
    parent: str | None = None
    children: tuple[str, ...] = ()
    truncated_tokens: int = 0  # that the embedder did not read; only for the report
    says_acl: bool = True


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
        self, scope: Scope, which: Which, *, within: sa.Connection | None = None
    ) -> Collection:
        """As it is now. Raises NotFound, also for a name outside the scope."""
        with self._read(within) as connection:
            return _collection(connection, scope, which)

    def indexes(self, scope: Scope, which: Which) -> list[Collection]:
        """A collection and what is built beside it. Raises NotFound."""
        with self._database.read() as connection:
            found = _collection(connection, scope, which)
            return [found, *_aside(connection, found)]

    def collections(self, scope: Scope) -> list[Collection]:
        """Every collection within the scope, by name; not what is built aside."""
        mine = sa.and_(access.collection_rows(scope), collections.c.build_for.is_(None))
        query = collections.select().where(mine)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(collections.c.name)).mappings().all()
        return [Collection(**utc(row)) for row in rows]

    def every_collection(self) -> list[Collection]:
        """Those of all tenants, and what is built aside: for maintenance, which sees everything."""
        with self._database.read() as connection:
            rows = connection.execute(collections.select()).mappings().all()
        return [Collection(**utc(row)) for row in rows]

    def update_collection(self, scope: Scope, name: str, **changes: object) -> Collection:
        """Change `settings`, `system_prompt` or `answer_language`; None leaves one as it is."""
        given = {key: value for key, value in changes.items() if value is not None}
        with self._database.write() as connection:
            found = self.locked(connection, scope, name)
            if given:
                connection.execute(
                    collections.update().where(collections.c.id == found.id).values(given)
                )
            return _collection(connection, scope, found)

    def delete_collection(self, scope: Scope, name: str, *, only_unused: bool = False) -> None:
        """Forget a collection with all its documents and jobs, and what is built aside for it.

        Their vectors are among the `vectors_to_drop` from then on. With `only_unused` one into
        which something was sent is left as it is.
        """
        with self._database.write() as connection:
            found = self.locked(connection, scope, name, alone=True)
            sent = sa.select(jobs.c.id).where(jobs.c.collection_id == found.id).limit(1)
            if only_unused and connection.execute(sent).first() is not None:
                return
            built = [
                self.locked(connection, scope, aside, alone=True)
                for aside in _aside(connection, found)
            ]
            for one in (*built, found):
                self.forget(connection, one)
        self.drop_doomed()

    # Documents

    def documents(
        self, scope: Scope, which: Which, *, after: str = "", limit: int = 100
    ) -> list[DocumentRecord]:
        """Live documents by id, from the first id behind `after` on."""
        with self._database.read() as connection:
            found = _collection(connection, scope, which)
            query = _live(scope, found).where(documents.c.document_id > after)
            query = query.order_by(documents.c.document_id).limit(limit)
            return [_document(row) for row in connection.execute(query).mappings()]

    def sources_below(self, scope: Scope, which: Which, prefix: str) -> list[tuple[str, str]]:
        """(id, source) of live documents whose source begins with `prefix`, by id."""
        query = sa.select(documents.c.document_id, documents.c.source)
        with self._database.read() as connection:
            found = _collection(connection, scope, which)
            query = query.where(
                documents.c.collection_id == found.id,
                documents.c.source.startswith(prefix, autoescape=True),
                access.document_rows(scope, documents.c.acl),
            )
            rows = connection.execute(query.order_by(documents.c.document_id)).all()
        # SQLite does not tell upper case from lower there.
        return [(row[0], row[1]) for row in rows if row[1].startswith(prefix)]

    def document(
        self, scope: Scope, which: Which, document_id: str, *, within: sa.Connection | None = None
    ) -> DocumentRecord:
        """One live document. Raises NotFound."""
        with self._read(within) as connection:
            found = _collection(connection, scope, which)
            query = _live(scope, found).where(documents.c.document_id == document_id)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise no_document(document_id, found.name)
        return _document(row)

    def live_generations(
        self,
        scope: Scope,
        which: Which,
        document_ids: Sequence[str],
        *,
        within: sa.Connection | None = None,
    ) -> dict[str, int]:
        """Document id -> its live generation, for those of `document_ids` that are live and seen
        by the scope.
        """
        with self._read(within) as connection:
            found = _collection(connection, scope, which)
            query = sa.select(documents.c.document_id, documents.c.generation).where(
                documents.c.collection_id == found.id,
                documents.c.document_id.in_(document_ids),
                access.document_rows(scope, documents.c.acl),
            )
            return {row.document_id: row.generation for row in connection.execute(query)}

    def begin_generation(
        self,
        scope: Scope,
        which: Which,
        document_id: str,
        *,
        content_hash: str,
        text_hash: str,
        parsed_hash: str,
        attached: Iterable[str] = (),
        within: sa.Connection | None = None,
    ) -> int:
        """Open a generation to write points into; invisible until `flip`.

        The hashes, `attached` those of its attachments, are recorded from the start, so that no
        purge takes their objects away. Raises CollectionMoved.
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
            found = _unmoved(_collection(connection, scope, which), which)
            result = connection.execute(generations.insert().values(collection_id=found.id, **row))
            opened = int(result.inserted_primary_key[0])  # type: ignore[index] # one row was
            if rows := [{"generation": opened, "content_hash": h} for h in sorted(set(attached))]:
                connection.execute(enclosed.insert(), rows)
        return opened

    def attached(self, generation: int) -> list[str]:
        """The digests of a generation's attachments."""
        query = sa.select(enclosed.c.content_hash).where(enclosed.c.generation == generation)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def flip(
        self, scope: Scope, which: Which, revision: Revision, *, within: sa.Connection | None = None
    ) -> bool:
        """Make the revision's generation the live one, in one transaction.

        Children that the revision does not name are deleted with it. False when a newer generation
        is live already, or this one was given up: then only its points have to go. Where the acl of
        before stays (`says_acl`), the points are to be painted. Raises CollectionMoved, and
        Forbidden where it would replace what the scope does not see.
        """
        with self._write(within) as connection:
            found = self.locked(connection, scope, which)
            self.check_seen(connection, scope, found, [revision.document_id])
            live = _live_row(connection, found, revision.document_id)
            if live is not None and live.generation == revision.generation:
                return True  # a repeated step must neither count twice nor mark the live one stale
            if live is not None and live.generation > revision.generation:
                _mark_stale(connection, [revision.generation])
                return False
            if not _is_writing(connection, found, revision.generation):
                return False  # it was given up meanwhile, and its points may be gone
            self._make_live(connection, found, revision, live)
            if live is not None:
                self._count(connection, found, [live.generation], -1)
                _mark_stale(connection, [live.generation])
            gone = _descendants(connection, found, {revision.document_id}, revision.children)
            if gone:
                self._delete_attached(connection, found, gone)
        return True

    def delete_document(
        self, scope: Scope, which: Which, document_id: str, *, within: sa.Connection | None = None
    ) -> None:
        """Effective at commit; the points of its generations are purged behind it.

        Its attachments go with it, and both from what is built aside as well: nobody who deletes
        wants them kept there. Raises NotFound, CollectionMoved.
        """
        with self._write(within) as connection:
            found = self.locked(connection, scope, which)
            self.document(scope, which, document_id, within=connection)  # one that is seen
            self.delete_documents(connection, found, [document_id])

    def abandon(self, scope: Scope, which: Which, generation: int) -> None:
        """Mark a generation that will not be finished, so that its points are purged."""
        with self._database.write() as connection:
            found = _collection(connection, scope, which)
            query = generations.update().where(
                generations.c.collection_id == found.id,
                generations.c.id == generation,
                generations.c.state == "writing",
            )
            connection.execute(query.values(state="stale"))

    def stale_generations(self, scope: Scope, which: Which, document_id: str) -> list[int]:
        """Generations of a document whose points are to be deleted.

        Not those that somebody may still be writing; none while somebody holds the catalog.
        """
        with self._database.read() as connection:
            found = _collection(connection, scope, which)
            query = sa.select(generations.c.id).where(
                generations.c.collection_id == found.id,
                generations.c.document_id == document_id,
                generations.c.state == "stale",
                ~_is_held(),
                ~_backup_runs(),
            )
            return list(connection.execute(query).scalars())

    def has_generation(self, generation: int) -> bool:
        """Whether a generation is known, in whatever state: one that was purged is not."""
        query = sa.select(generations.c.id).where(generations.c.id == generation)
        with self._database.read() as connection:
            return connection.execute(query).first() is not None

    def purged(self, scope: Scope, which: Which, stale: Sequence[int]) -> None:
        """Forget stale generations whose points are gone, and the objects that only they used."""
        with self._database.write() as connection:
            found = _collection(connection, scope, which)
            mine = sa.and_(
                generations.c.collection_id == found.id,
                generations.c.id.in_(stale),
                generations.c.state == "stale",
                ~_is_held(),
            )
            hashes = _hashes(connection, mine)
            _forget_enclosed(connection, mine)
            connection.execute(generations.delete().where(mine))
            self.doom(connection, hashes)
        self.drop_doomed()

    def all_stale(self) -> list[tuple[Scope, Collection, str]]:
        """(scope, collection, document) of every document with `stale_generations`."""
        query = (
            sa.select(generations.c.collection_id, generations.c.document_id)
            .where(generations.c.state == "stale", ~_is_held(), ~_backup_runs())
            .distinct()
        )
        known = {found.id: found for found in self.every_collection()}
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [(Scope(known[at].tenant), known[at], name) for at, name in rows if at in known]

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
        stores them anew. While somebody holds the catalog, everything stays written down.
        """
        names: set[str] | None = None
        while names is None or names:
            with self._database.write() as connection:
                self._database.lock_objects(connection)
                if connection.execute(sa.select(_backup_runs())).scalar_one():
                    return
                query = sa.select(doomed.c.name).limit(500)
                names = set(connection.execute(query).scalars())
                for name in _unused(connection, names):
                    self._drop_object(name)
                connection.execute(doomed.delete().where(doomed.c.name.in_(names)))

    def vectors_to_drop(self) -> list[str]:
        """Physical names of deleted collections; none while somebody holds the catalog."""
        query = sa.select(doomed_vectors.c.physical).where(~_backup_runs())
        with self._database.read() as connection:
            return list(connection.execute(query.order_by(doomed_vectors.c.physical)).scalars())

    def vectors_dropped(self, physical: str) -> None:
        """The vectors of a deleted collection are gone."""
        query = doomed_vectors.delete().where(doomed_vectors.c.physical == physical)
        with self._database.write() as connection:
            connection.execute(query)

    # Backups

    def hold(self, lease: timedelta) -> str:
        """Begin to hold the catalog, for as long as `renew_hold` is called before the lease ends.

        A snapshot that is taken after this refers to nothing that goes away before the hold ends:
        what was being purged or dropped when it began had lost its last reference before.
        """
        name, now = uuid4().hex, datetime.now(UTC)
        with self._database.write() as connection:
            self._database.lock_objects(connection, shared=True)  # what is being dropped is gone
            connection.execute(backups.delete().where(backups.c.lease_until <= now))
            connection.execute(backups.insert().values(id=name, lease_until=now + lease))
        return name

    def renew_hold(self, name: str, lease: timedelta) -> bool:
        """False when the lease had ended: what the hold was about may be gone."""
        now = datetime.now(UTC)
        mine = sa.and_(backups.c.id == name, backups.c.lease_until > now)
        with self._database.write() as connection:
            query = backups.update().where(mine).values(lease_until=now + lease)
            return bool(connection.execute(query).rowcount)

    def release_hold(self, name: str) -> None:
        """What had to wait may go now."""
        with self._database.write() as connection:
            connection.execute(backups.delete().where(backups.c.id == name))

    def release_holds(self) -> None:
        """End the holds of processes that are gone, where nobody else can be working."""
        with self._database.read() as connection:
            if connection.execute(sa.select(backups.c.id).limit(1)).first() is None:
                return  # as nearly always: nothing to write
        with self._database.write() as connection:
            connection.execute(backups.delete())

    def token_document_frequencies(
        self, scope: Scope, which: Which, tokens: Sequence[int]
    ) -> tuple[dict[int, int], int]:
        """(token id -> live chunks that hold it, number of live chunks)."""
        with self._database.read() as connection:
            found = _collection(connection, scope, which)
            query = sa.select(token_chunks.c.token, token_chunks.c.chunks).where(
                token_chunks.c.collection_id == found.id, token_chunks.c.token.in_(tokens)
            )
            counts = {row.token: row.chunks for row in connection.execute(query)}
        return counts, found.chunks

    # Inside a transaction

    def hidden(
        self, connection: sa.Connection, scope: Scope, found: Collection, ids: Sequence[str]
    ) -> list[str]:
        """Those of a few hundred documents that are there, and not for this scope to see."""
        query = sa.select(documents.c.document_id).where(
            documents.c.collection_id == found.id,
            documents.c.document_id.in_(ids),
            ~access.document_rows(scope, documents.c.acl),
        )
        return sorted(connection.execute(query).scalars())

    def check_seen(
        self, connection: sa.Connection, scope: Scope, found: Collection, ids: Sequence[str]
    ) -> None:
        """Raise Forbidden where one of a few hundred documents is there, and not for this scope."""
        if hidden := self.hidden(connection, scope, found, ids):
            raise Forbidden(
                f"There is a document {hidden[0][:200]!r} that is not yours to replace.",
                hint="Send it under another id.",
            )

    def records(
        self,
        connection: sa.Connection,
        scope: Scope,
        found: Collection,
        document_ids: Sequence[str],
    ) -> list[DocumentRecord]:
        """Those of a few hundred documents that are live, and seen by the scope."""
        query = _live(scope, found).where(documents.c.document_id.in_(document_ids))
        return [_document(row) for row in connection.execute(query).mappings()]

    def delete_documents(
        self, connection: sa.Connection, found: Collection, document_ids: Sequence[str]
    ) -> list[str]:
        """Delete those of a few hundred documents that are live, in a collection that is locked,
        with what is attached to them, and both in what is built aside. Returns the ids of those
        that were live.
        """
        deleted = self._delete(connection, found, document_ids)
        for aside in _aside(connection, found):
            beside = self.locked(connection, Scope(found.tenant), aside)
            self._delete(connection, beside, document_ids)
        return deleted

    def locked(
        self,
        connection: sa.Connection,
        scope: Scope,
        which: Which,
        *,
        alone: bool = False,
        shared: bool = False,
    ) -> Collection:
        """Take turns with others who flip or delete in a collection, until the transaction ends.

        It orders flips of new documents, which have no row to lock yet, and keeps the counters
        exact. Comes before locks of tasks and generations, or two would wait for each other. On
        SQLite a write transaction is alone anyway.

        `shared`: only that the collection stays what it is; `alone`: nobody else even does that.
        Raises NotFound, and CollectionMoved for one that was looked up under another name.
        """
        while True:
            found = _unmoved(_collection(connection, scope, which), which)
            query = collections.select().where(collections.c.id == found.id)
            query = query.with_for_update(key_share=not alone, read=shared)
            row = connection.execute(query).mappings().one_or_none()
            if row is not None and row["name"] == found.name:
                return Collection(**utc(row))
            # It was deleted, or another index was put in its place, while we waited for the lock.

    def forget(self, connection: sa.Connection, found: Collection) -> None:
        """Delete every row of a collection that is locked.

        Its vectors are among the `vectors_to_drop` from then on.
        """
        mine = generations.c.collection_id == found.id
        hashes = _hashes(connection, mine, tasks.c.collection_id == found.id)
        either = sa.or_(migrations.c.collection_id == found.id, migrations.c.build_id == found.id)
        connection.execute(migrations.delete().where(either))
        _forget_enclosed(connection, mine)
        for table in (traces, tasks, jobs, token_chunks, documents, generations):
            connection.execute(table.delete().where(table.c.collection_id == found.id))
        connection.execute(collections.delete().where(collections.c.id == found.id))
        connection.execute(doomed_vectors.insert().values(physical=found.physical))
        self.doom(connection, hashes)

    def _unmake(
        self, connection: sa.Connection, found: Collection, document_ids: Sequence[str]
    ) -> list[str]:
        """Delete those that are live. Returns their ids."""
        mine = sa.and_(
            documents.c.collection_id == found.id, documents.c.document_id.in_(document_ids)
        )
        _forget_shown(connection, found.id, document_ids)
        query = sa.select(documents.c.document_id, documents.c.generation).where(mine)
        live = {row.document_id: row.generation for row in connection.execute(query)}
        if not live:
            return []
        self._count(connection, found, list(live.values()), -1)
        connection.execute(documents.delete().where(mine))
        _mark_stale(connection, list(live.values()))
        return sorted(live)

    def descendants(
        self,
        scope: Scope,
        which: Which,
        document_ids: Set[str],
        *,
        but: Iterable[str] = (),
        within: sa.Connection | None = None,
    ) -> set[str]:
        """Ids of what is attached to documents, and to that, and so on: live or only accepted.

        Without their children `but` and what is attached to those.
        """
        with self._read(within) as connection:
            found = _collection(connection, scope, which)
            return _descendants(connection, found, document_ids, but)

    def orphans(self) -> list[tuple[Scope, str, str]]:
        """(scope, collection, document) of attachments whose parent is not there."""
        parents = documents.alias()
        query = (
            sa.select(collections.c.tenant, collections.c.name, documents.c.document_id)
            .join(collections, collections.c.id == documents.c.collection_id)
            .where(
                documents.c.parent.is_not(None),
                collections.c.build_for.is_(None),  # an index that is built has not all parents yet
                ~sa.exists().where(
                    parents.c.collection_id == documents.c.collection_id,
                    parents.c.document_id == documents.c.parent,
                ),
            )
        )
        with self._database.read() as connection:
            return [(Scope(row[0]), row[1], row[2]) for row in connection.execute(query)]

    def _delete(
        self, connection: sa.Connection, found: Collection, document_ids: Sequence[str]
    ) -> list[str]:
        below = _descendants(connection, found, set(document_ids))
        deleted = self._unmake(connection, found, document_ids)
        if below:
            self._delete_attached(connection, found, below)
        return deleted

    def _delete_attached(self, connection: sa.Connection, found: Collection, ids: Set[str]) -> None:
        """Delete those of the documents that are live attachments."""
        for part in _in_parts(ids):
            query = sa.select(documents.c.document_id).where(
                documents.c.collection_id == found.id,
                documents.c.document_id.in_(part),
                documents.c.parent.is_not(None),  # else somebody made it a document of its own
            )
            self._unmake(connection, found, list(connection.execute(query).scalars()))

    def _make_live(
        self,
        connection: sa.Connection,
        found: Collection,
        revision: Revision,
        live: sa.Row[Any, Any] | None,
    ) -> None:
        now = datetime.now(UTC)
        metadata = dict(revision.metadata)
        if live is not None and not revision.says_acl:
            metadata = access.guarded(metadata, live.metadata)
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
            "metadata": metadata,
            "acl": access.packed(metadata),
            "content_hash": revision.content_hash,
            "fingerprint": revision.fingerprint,
            "patches": int(metadata != revision.metadata),  # its points say something else
            "painted": 0,
            "renamed": False,
            "updated_at": now,
            "parent": revision.parent,
        }
        key = {"collection_id": found.id, "document_id": revision.document_id}
        if live is not None:
            connection.execute(
                documents.update()
                .where(*(documents.c[column] == value for column, value in key.items()))
                .values(face)
            )
        else:
            connection.execute(documents.insert().values(**key, **face, created_at=now))
        self._count(connection, found, [revision.generation], +1)

    def _count(
        self, connection: sa.Connection, found: Collection, ids: Sequence[int], sign: int
    ) -> None:
        """Add (+1) or take away (-1) generations' chunks from the collection's counters."""
        query = sa.select(generations.c.chunks, generations.c.token_chunks)
        chunks, tokens = 0, Counter[int]()
        for row in connection.execute(query.where(generations.c.id.in_(ids))):
            chunks += row.chunks
            tokens.update(_unpack(row.token_chunks))
        rows = [
            {"collection_id": found.id, "token": token, "chunks": sign * count}
            for token, count in sorted(tokens.items())
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
            .values(chunks=collections.c.chunks + sign * chunks, version=collections.c.version + 1)
        )


def _collection(connection: sa.Connection, scope: Scope, which: Which) -> Collection:
    query = collections.select()
    if isinstance(which, Collection):  # what is built aside has a name of its own
        query = query.where(access.tenant_rows(scope), collections.c.id == which.id)
    else:
        mine = sa.and_(access.collection_rows(scope), collections.c.build_for.is_(None))
        query = query.where(mine, collections.c.name == which)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_collection(which if isinstance(which, str) else which.name)
    return Collection(**utc(row))


def _aside(connection: sa.Connection, found: Collection) -> list[Collection]:
    """What is built beside a collection: one index, or none."""
    query = collections.select().where(collections.c.build_for == found.id)
    return [Collection(**utc(row)) for row in connection.execute(query).mappings()]


def _unmoved(found: Collection, which: Which) -> Collection:
    """Raise CollectionMoved when what was looked up is called something else by now."""
    if isinstance(which, Collection) and found.name != which.name:
        raise CollectionMoved(
            f"The index of collection {which.name!r} was replaced by another meanwhile.",
            hint="Nothing was changed; try again.",
        )
    return found


def _no_collection(name: str) -> NotFound:
    return NotFound(
        f"There is no collection {name[:80]!r}.",
        hint="`rag ls` or GET /v1/collections lists those there are; `rag ingest` creates one.",
    )


def no_document(document_id: str, name: str) -> NotFound:
    """What is said of a document that is not there, and of one that is not to be seen."""
    return NotFound(
        f"There is no document {document_id[:200]!r} in collection {name!r}.",
        hint=f"`rag ls {name}` or GET /v1/documents lists those there are.",
    )


def _live(scope: Scope, found: Collection) -> sa.Select[Any]:
    counts = ("text_hash", "parsed_hash", "chunks", "tokens", "pages", "characters", "warnings")
    return (
        sa.select(documents, *(generations.c[column] for column in counts))
        .join(generations, generations.c.id == documents.c.generation)
        .where(documents.c.collection_id == found.id, access.document_rows(scope, documents.c.acl))
    )


def _document(row: Mapping[Any, Any]) -> DocumentRecord:
    fields = utc(row)
    fields["id"] = fields.pop("document_id")
    fields["warnings"] = tuple(fields["warnings"])
    del fields["collection_id"], fields["painted"], fields["acl"]
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
    attached = sa.select(enclosed.c.content_hash).join(
        generations, generations.c.id == enclosed.c.generation
    )
    found.update(connection.execute(attached.where(which)).scalars())
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


def _backup_runs() -> sa.ColumnElement[bool]:
    """Whether somebody holds the catalog."""
    return sa.exists().where(backups.c.lease_until > datetime.now(UTC))


def _unused(connection: sa.Connection, hashes: Set[str]) -> list[str]:
    """Those of the hashes that neither a generation nor a task refers to."""
    used: set[str] = set()
    columns = (
        *(generations.c[name] for name in _HASHES), tasks.c.content_hash, enclosed.c.content_hash,
    )  # fmt: skip
    for column in columns:
        for part in _in_parts(hashes):
            used.update(connection.execute(sa.select(column).where(column.in_(part))).scalars())
    return sorted(hashes - used)


def _in_parts(values: Set[str]) -> Iterator[list[str]]:
    """All values in lists of bounded length, because databases bound the number of parameters."""
    ordered = sorted(values)
    for at in range(0, len(ordered), 500):
        yield ordered[at : at + 500]


def _descendants(
    connection: sa.Connection, found: Collection, ids: Set[str], but: Iterable[str] = ()
) -> set[str]:
    """What is attached to documents, and so on, without their children `but` and theirs."""
    below: set[str] = set()
    last = _children(connection, found, ids) - {*ids, *but}
    while last:
        below |= last
        last = _children(connection, found, last) - below - ids
    return below


def _children(connection: sa.Connection, found: Collection, parents: Set[str]) -> set[str]:
    """Ids of the documents attached to one of the parents, live or only accepted."""
    ids: set[str] = set()
    for table in (documents, tasks):
        for part in _in_parts(parents):
            query = sa.select(table.c.document_id).where(
                table.c.collection_id == found.id, table.c.parent.in_(part)
            )
            ids.update(connection.execute(query).scalars())
    return ids


def _forget_enclosed(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Forget the attachments of some generations, before these are deleted."""
    ids = sa.select(generations.c.id).where(which)
    connection.execute(enclosed.delete().where(enclosed.c.generation.in_(ids)))


def _forget_shown(connection: sa.Connection, collection_id: int, ids: Sequence[str]) -> None:
    """Forget what traces hold of a few hundred documents: with a text that was read, all of it."""
    shown = sa.select(trace_documents.c.trace_id).where(trace_documents.c.document_id.in_(ids))
    here = traces.c.collection_id == collection_id
    connection.execute(
        traces.delete().where(here, traces.c.id.in_(shown.where(trace_documents.c.read)))
    )
    connection.execute(
        trace_documents.delete().where(
            trace_documents.c.document_id.in_(ids),
            sa.exists().where(traces.c.id == trace_documents.c.trace_id, here),
        )
    )


def _live_row(
    connection: sa.Connection, found: Collection, document_id: str
) -> sa.Row[Any, Any] | None:
    """The live row of a document, in a collection that is locked."""
    return connection.execute(
        sa.select(documents.c.generation, documents.c.metadata).where(
            documents.c.collection_id == found.id, documents.c.document_id == document_id
        )
    ).one_or_none()


def _is_writing(connection: sa.Connection, found: Collection, generation: int) -> bool:
    query = sa.select(generations.c.state).where(
        generations.c.id == generation, generations.c.collection_id == found.id
    )
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
