"""Indexes that are built aside, and the migrations to them, as the catalog knows them.

A collection that is migrated has two indexes. Each is a row of `collections` with vectors,
documents, generations and counters of its own; `build_for` keeps the one that does not serve from
being named or listed. `exchange` swaps them in one transaction. A migration's states:

    building   documents are written into the index aside
    ready      it holds what the collection holds, and waits to be put in its place
    flipping   it is put in its place as soon as it holds exactly what the collection holds
    flipped    it serves; the index of before is aside now, as it was
    returning  the index of before is brought up to date, to be put back; then `ready` again
    failed     building ended with an error; started again, it goes on
    dropping   the index aside is deleted, and with it the migration

Who works on one holds a lease, as the tasks of `rag.journal` do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

import sqlalchemy as sa

from rag.catalog import Catalog, Collection, DocumentRecord, Revision
from rag.database import Database, utc
from rag.errors import Conflict, NotFound, RagError
from rag.journal import Failure, LeaseLost
from rag.store import PREFIX
from rag.tables import collections, documents, generations, jobs, migrations, tasks, traces
from rag.types import Scope

State = Literal["building", "ready", "flipping", "flipped", "returning", "failed", "dropping"]
Obstacle = Literal["", "documents at work", "documents that changed"]
Wish = Literal["flip", "back", "drop"]
WORKED_ON: tuple[State, ...] = ("building", "flipping", "returning", "dropping")
LEASE = timedelta(seconds=60)
PAUSE = timedelta(seconds=30)  # for so long nothing is begun when its worker died in between
AFTER_FAILING: Mapping[State, State] = {
    "building": "failed",
    "flipping": "ready",
    "returning": "flipped",
    "dropping": "dropping",
}
_FACE = ("content_hash", "fingerprint", "source", "title", "media_type")


@dataclass(frozen=True, slots=True)
class Query:
    """A question to compare two indexes with, and the documents that answer it, where known."""

    text: str
    documents: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """`flip` at once when all is built; `most_loss` of recall that keeps it from that. No queries:
    they are made of the collection.
    """

    flip: bool = True
    most_loss: float = 0.02
    queries: tuple[Query, ...] = ()


@dataclass(frozen=True, slots=True)
class Migration:
    """A collection, the index beside it, and what is being done with that.

    `done` of `total` documents are the same in both. `report` is a `rag.compare.Comparison`.
    """

    scope: Scope
    collection: Collection
    build: Collection
    state: State
    options: Options
    done: int
    total: int
    rate: float  # documents per second
    doing: str
    report: Mapping[str, Any] | None
    error: Failure | None
    owner: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def settled(self) -> bool:
        """Whether nothing happens until somebody asks for it."""
        return self.state not in WORKED_ON


class Builds:
    """Thread-safe."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    # Asking for

    def start(
        self, scope: Scope, name: str, pipeline: Mapping[str, Any], options: Options
    ) -> Migration:
        """An empty index beside a collection, to be built with this pipeline.

        The same as is being built already goes on. Raises NotFound, Conflict.
        """
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, name)
            if (begun := self._of(connection, found)) is not None:
                self._go_on(connection, begun, pipeline, options)
            elif found.pipeline == pipeline:
                raise Conflict(
                    f"Collection {name!r} is built with exactly this already.",
                    hint="Name another model, or change RAG_CHUNK_TOKENS or RAG_CHUNK_OVERLAP.",
                )
            else:
                self._insert(connection, found, pipeline, options)
        return self.find(scope, name)

    def find(self, scope: Scope, name: str) -> Migration:
        """The migration of a collection. Raises NotFound."""
        with self._database.read() as connection:
            found = self._catalog.collection(scope, name, within=connection)
            migration = self._of(connection, found)
        if migration is None:
            raise NotFound(
                f"Collection {name!r} is not being migrated, and no index of before is kept.",
                hint=f"`rag migrate {name} --to MODEL` starts a migration.",
            )
        return migration

    def ask(self, scope: Scope, name: str, wanted: Wish) -> Migration:
        """Ask for what a migration's worker then does. Raises NotFound, Conflict."""
        changes: Mapping[str, tuple[State, tuple[State, ...]]] = {
            "flip": ("flipping", ("ready",)),
            "back": ("returning", ("flipped",)),
            "drop": ("dropping", ("building", "ready", "flipping", "flipped", "failed")),
        }
        state, before = changes[wanted]
        migration = self.find(scope, name)
        with self._database.write() as connection:
            changed = connection.execute(
                migrations.update()
                .where(
                    migrations.c.collection_id == migration.collection.id,
                    migrations.c.state.in_(before),
                )
                .values(
                    state=state, owner=None, lease_until=None, paused_until=None, error=None,
                    doing="", updated_at=_now(),
                )
            )  # fmt: skip
        if not changed.rowcount:
            raise _wrong_state(self.find(scope, name), wanted)
        return self.find(scope, name)

    # Working

    def claim(self, owner: str, *, only: Collection | None = None) -> Migration | None:
        """A migration that has something to be done and nobody who does it, now the owner's."""
        now = _now()
        due = sa.and_(
            migrations.c.state.in_(WORKED_ON),
            sa.or_(migrations.c.lease_until.is_(None), migrations.c.lease_until <= now),
        )
        if only is not None:
            due = sa.and_(due, migrations.c.collection_id == only.id)
        pick = sa.select(migrations.c.collection_id).where(due)
        pick = pick.order_by(migrations.c.updated_at).limit(1).with_for_update(skip_locked=True)
        with self._database.write() as connection:
            picked = connection.execute(pick).scalar_one_or_none()
            if picked is None:
                return None
            connection.execute(
                migrations.update()
                .where(migrations.c.collection_id == picked)
                .values(owner=owner, lease_until=now + LEASE, updated_at=now)
            )
            return self._read(connection, picked)

    def release(self, migration: Migration) -> None:
        """Let somebody else go on with it. Nothing happens when that is so already."""
        with self._database.write() as connection:
            query = migrations.update().where(migrations.c.owner == migration.owner)
            connection.execute(query.values(owner=None, lease_until=None, paused_until=None))

    def recover(self) -> None:
        """Free every migration, where no other process can be working."""
        with self._database.write() as connection:
            connection.execute(
                migrations.update().values(owner=None, lease_until=None, paused_until=None)
            )

    def progress(
        self, migration: Migration, *, done: int, total: int, rate: float, doing: str
    ) -> None:
        """How far it is; renews the lease, and a pause. Raises LeaseLost."""
        going_on = sa.case((migrations.c.paused_until.is_(None), None), else_=_now() + PAUSE)
        with self._database.write() as connection:
            self._hold(connection, migration)
            self._set(
                connection, migration, done=done, total=total, rate=rate, doing=doing,
                lease_until=_now() + LEASE, paused_until=going_on,
            )  # fmt: skip

    def pause(self, migration: Migration) -> None:
        """From now on no document of the collection is begun, while its worker tells its progress.

        Raises LeaseLost.
        """
        with self._database.write() as connection:
            self._hold(connection, migration)
            self._set(connection, migration, paused_until=_now() + PAUSE)

    def settle(
        self, migration: Migration, state: State, *, report: Mapping[str, Any] | None = None
    ) -> None:
        """All is built, and compared. Raises LeaseLost."""
        with self._database.write() as connection:
            self._hold(connection, migration)
            self._set(
                connection, migration, state=state, report=report, error=None, doing="",
                owner=None, lease_until=None,
            )  # fmt: skip

    def fail(self, migration: Migration, error: RagError) -> None:
        """It cannot go on: it waits, where it was before, for somebody to ask again."""
        with self._database.write() as connection:
            self._hold(connection, migration)
            self._set(
                connection, migration, state=AFTER_FAILING[migration.state], owner=None,
                lease_until=None, paused_until=None, doing="",
                error=asdict(Failure.of(error)),
            )  # fmt: skip

    def hinder(self, migration: Migration, error: RagError, again: timedelta) -> None:
        """It is tried again later, what is in the way may be over then; until then it is leased."""
        with self._database.write() as connection:
            self._hold(connection, migration)
            self._set(
                connection, migration, owner=None, lease_until=_now() + again, paused_until=None,
                error=asdict(Failure.of(error)),
            )  # fmt: skip

    # Documents of the two indexes

    def count(self, collection: Collection) -> int:
        """Live documents."""
        query = sa.select(sa.func.count()).where(documents.c.collection_id == collection.id)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def ids(self, collection: Collection) -> list[str]:
        """Of every live document, in order."""
        query = sa.select(documents.c.document_id).where(documents.c.collection_id == collection.id)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(documents.c.document_id))
            return list(rows.scalars())

    def missing(self, migration: Migration) -> int:
        """How many documents the index aside lacks, or has in another version."""
        query = sa.select(sa.func.count()).select_from(_missing(migration).subquery())
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def next_missing(self, migration: Migration, *, after: str, limit: int) -> list[str]:
        """Ids of documents that it lacks, or has in another version, behind an id."""
        query = _missing(migration, after).limit(limit)
        with self._database.read() as connection:
            return list(connection.execute(query).scalars())

    def surplus(self, migration: Migration, *, limit: int) -> list[str]:
        """Ids of documents that it has and the collection has not (any more)."""
        with self._database.read() as connection:
            return list(connection.execute(_surplus(migration).limit(limit)).scalars())

    def adopt(self, migration: Migration, revision: Revision, record: DocumentRecord) -> bool:
        """Make a copy of a document live in the index aside, with the original's times.

        False when the original was replaced or deleted since, or the copy given up. Raises
        CollectionMoved, NotFound.
        """
        build, scope = migration.build, migration.scope
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, migration.collection)
            ids = [revision.document_id]
            live = self._catalog.live_generations(scope, found, ids, within=connection)
            if live.get(revision.document_id) != record.generation:
                return False
            made = self._catalog.flip(migration.scope, build, revision, within=connection)
            if made:
                connection.execute(
                    documents.update()
                    .where(
                        documents.c.collection_id == build.id,
                        documents.c.document_id == revision.document_id,
                    )
                    .values(
                        created_at=record.created_at,
                        updated_at=record.updated_at,
                        renamed=record.renamed,
                        patches=int(record.renamed),  # its points have yet to be given the title
                    )
                )
        return made

    def abandon(self, migration: Migration) -> None:
        """Give up what an earlier attempt was writing into the index aside."""
        with self._database.write() as connection:
            connection.execute(
                generations.update()
                .where(
                    generations.c.collection_id == migration.build.id,
                    generations.c.state == "writing",
                )
                .values(state="stale")
            )

    # The exchange, and the end

    def exchange(self, migration: Migration) -> Obstacle:
        """Put the index aside in the collection's place, and that one aside: one transaction.

        "" when it is done, else what is in the way. What was accepted and is not done yet goes on
        in the new index from its beginning, with its job. Raises LeaseLost, Conflict.
        """
        with self._database.write() as connection:
            scope = migration.scope
            old = self._catalog.locked(connection, scope, migration.collection, alone=True)
            new = self._catalog.locked(connection, scope, migration.build, alone=True)
            self._hold(connection, migration)
            _check_language(old, new)
            open_here = sa.and_(
                tasks.c.collection_id == old.id, tasks.c.state.in_(("queued", "running"))
            )
            lock = sa.select(tasks.c.state, tasks.c.lease_until).where(open_here)
            waiting = connection.execute(lock.order_by(tasks.c.id).with_for_update()).all()
            if any(state == "running" and _holds(until) for state, until in waiting):
                return "documents at work"
            for differing in (_missing(migration), _surplus(migration)):
                if connection.execute(differing.limit(1)).first() is not None:
                    return "documents that changed"
            self._swap(connection, old, new)
            self._move_journal(connection, old, new, open_here)
            state: State = "ready" if migration.state == "returning" else "flipped"
            connection.execute(
                migrations.update()
                .where(migrations.c.collection_id == old.id)
                .values(
                    collection_id=new.id, build_id=old.id, state=state, owner=None,
                    lease_until=None, paused_until=None, doing="", error=None,
                    updated_at=_now(),
                )
            )  # fmt: skip
        return ""

    def forget(self, migration: Migration) -> None:
        """Forget the index aside and the migration; its vectors are to be dropped then."""
        with self._database.write() as connection:
            build = self._catalog.locked(connection, migration.scope, migration.build, alone=True)
            self._hold(connection, migration)
            self._catalog.forget(connection, build)
        self._catalog.drop_doomed()

    # Inside a transaction

    def _insert(
        self,
        connection: sa.Connection,
        found: Collection,
        pipeline: Mapping[str, Any],
        options: Options,
    ) -> None:
        now = _now()
        result = connection.execute(
            collections.insert().values(
                tenant=found.tenant,
                name=_hidden_name(),
                physical=f"{PREFIX}{uuid4().hex}",
                pipeline=dict(pipeline),
                settings=dict(found.settings),
                system_prompt=found.system_prompt,
                answer_language=found.answer_language,
                chunks=0,
                created_at=now,
                build_for=found.id,
            )
        )
        connection.execute(
            migrations.insert().values(
                collection_id=found.id,
                build_id=result.inserted_primary_key[0],  # type: ignore[index] # one row
                state="building",
                options=asdict(options),
                done=0,
                total=0,
                rate=0.0,
                doing="",
                created_at=now,
                updated_at=now,
            )
        )

    def _go_on(
        self,
        connection: sa.Connection,
        begun: Migration,
        pipeline: Mapping[str, Any],
        options: Options,
    ) -> None:
        if begun.state not in ("building", "failed") or begun.build.pipeline != pipeline:
            raise _wrong_state(begun, "start")
        changes: dict[str, Any] = {"options": asdict(options), "error": None}
        if begun.state == "failed":
            changes |= {"state": "building", "owner": None, "lease_until": None}
        self._set(connection, begun, **changes)

    def _swap(self, connection: sa.Connection, old: Collection, new: Collection) -> None:
        aside = {"name": _hidden_name(), "build_for": new.id}
        connection.execute(collections.update().where(collections.c.id == old.id).values(aside))
        public = {
            "name": old.name,
            "build_for": None,
            "settings": dict(old.settings),
            "system_prompt": old.system_prompt,
            "answer_language": old.answer_language,
            "created_at": old.created_at,
        }
        connection.execute(collections.update().where(collections.c.id == new.id).values(public))

    def _move_journal(
        self,
        connection: sa.Connection,
        old: Collection,
        new: Collection,
        open_here: sa.ColumnElement[bool],
    ) -> None:
        """Jobs belong to what users see. What is open begins anew: it is to be split and embedded
        otherwise, and what of it was written is in the index of before.
        """
        written = sa.select(tasks.c.generation).where(open_here, tasks.c.generation.is_not(None))
        connection.execute(
            generations.update()
            .where(generations.c.id.in_(written), generations.c.state == "writing")
            .values(state="stale")
        )
        connection.execute(
            tasks.update()
            .where(open_here)
            .values(
                state="queued", stage="", done=0, total=0, generation=None, owner=None,
                lease_until=None, updated_at=_now(),
            )
        )  # fmt: skip
        for table in (tasks, jobs, traces):
            mine = table.update().where(table.c.collection_id == old.id)
            connection.execute(mine.values(collection_id=new.id))

    def _of(self, connection: sa.Connection, found: Collection) -> Migration | None:
        query = sa.select(migrations.c.collection_id)
        row = connection.execute(query.where(migrations.c.collection_id == found.id)).first()
        return self._read(connection, row[0]) if row is not None else None

    def _read(self, connection: sa.Connection, collection_id: int) -> Migration:
        query = migrations.select().where(migrations.c.collection_id == collection_id)
        row = utc(connection.execute(query).mappings().one())
        public, build = (_by_id(connection, row[key]) for key in ("collection_id", "build_id"))
        return Migration(
            scope=Scope(public.tenant),
            collection=public,
            build=build,
            options=_options(row["options"]),
            error=Failure(**row["error"]) if row["error"] else None,
            **{
                name: row[name]
                for name in (
                    "state", "done", "total", "rate", "doing", "report", "owner", "created_at",
                    "updated_at",
                )
            },
        )  # fmt: skip

    def _hold(self, connection: sa.Connection, migration: Migration) -> None:
        """Raise LeaseLost unless it is still the caller's, and to be done as it was."""
        query = sa.select(migrations.c.state).where(
            migrations.c.collection_id == migration.collection.id,
            migrations.c.build_id == migration.build.id,
            migrations.c.owner == migration.owner,
            migrations.c.state == migration.state,
        )
        if connection.execute(query.with_for_update()).first() is None:
            raise LeaseLost(
                f"The migration of {migration.collection.name!r} is not this worker's any more."
            )

    def _set(self, connection: sa.Connection, migration: Migration, **values: object) -> None:
        connection.execute(
            migrations.update()
            .where(migrations.c.collection_id == migration.collection.id)
            .values(updated_at=_now(), **values)
        )


def _by_id(connection: sa.Connection, collection_id: int) -> Collection:
    query = collections.select().where(collections.c.id == collection_id)
    return Collection(**utc(connection.execute(query).mappings().one()))


def _missing(migration: Migration, after: str = "") -> sa.Select[Any]:
    """Ids of documents, behind an id, of which the index aside has not the same; in order."""
    theirs, ours = documents.alias("theirs"), documents.alias("ours")
    their_generation, our_generation = generations.alias("tg"), generations.alias("og")
    same = sa.exists().where(
        ours.c.collection_id == migration.build.id,
        ours.c.document_id == theirs.c.document_id,
        our_generation.c.id == ours.c.generation,
        our_generation.c.text_hash == their_generation.c.text_hash,
        our_generation.c.parsed_hash == their_generation.c.parsed_hash,
        _text(ours.c["metadata"]) == _text(theirs.c["metadata"]),
        *(ours.c[column] == theirs.c[column] for column in _FACE),
    )
    return (
        sa.select(theirs.c.document_id)
        .join(their_generation, their_generation.c.id == theirs.c.generation)
        .where(
            theirs.c.collection_id == migration.collection.id, theirs.c.document_id > after, ~same
        )
        .order_by(theirs.c.document_id)
    )


def _surplus(migration: Migration) -> sa.Select[Any]:
    theirs, ours = documents.alias("theirs"), documents.alias("ours")
    there = sa.exists().where(
        theirs.c.collection_id == migration.collection.id,
        theirs.c.document_id == ours.c.document_id,
    )
    return (
        sa.select(ours.c.document_id)
        .where(ours.c.collection_id == migration.build.id, ~there)
        .order_by(ours.c.document_id)
    )


def _text(column: sa.ColumnElement[Any]) -> sa.ColumnElement[str]:
    """JSON as it was written: the same values in the same order are the same text."""
    return sa.cast(column, sa.Text)


def _options(fields: Mapping[str, Any]) -> Options:
    queries = tuple(Query(one["text"], tuple(one["documents"])) for one in fields["queries"])
    return Options(fields["flip"], fields["most_loss"], queries)


def _check_language(old: Collection, new: Collection) -> None:
    language = "bm25_language"
    if old.settings.get(language, "english") != new.settings.get(language, "english"):
        raise Conflict(
            f"The BM25 language of {old.name!r} was changed since the migration began.",
            hint=f"`rag migrate {old.name} --drop`, then start it again.",
        )


def _holds(until: datetime | None) -> bool:
    return until is not None and utc({"until": until})["until"] > _now()


def _wrong_state(migration: Migration, wanted: str) -> Conflict:
    name, aside = migration.collection.name, migration.build.pipeline["embedder"]["id"]
    ways: Mapping[State, str] = {
        "building": f"is being migrated to {aside}",
        "ready": f"has an index by {aside} ready beside it",
        "flipping": f"is just being flipped to {aside}",
        "flipped": f"was migrated, and its index of before, by {aside}, is kept",
        "returning": f"is just going back to its index by {aside}",
        "failed": f"has an unfinished index by {aside} beside it",
        "dropping": f"is just dropping an index by {aside}",
    }
    hints: Mapping[State, str] = {
        "building": "--status shows how far it is, --cancel ends it",
        "ready": "--flip puts it in place, --drop deletes it",
        "flipped": "--back goes back to it, --drop deletes it",
        "failed": f"--to {aside} goes on with it, --drop deletes it",
    }
    hint = hints.get(migration.state, "--status shows when it is done")
    return Conflict(
        f"Collection {name!r} {ways[migration.state]}: there is nothing to {wanted}.",
        hint=f"`rag migrate {name} ...`: {hint}.",
    )


def _hidden_name() -> str:
    """No name that a collection may have."""
    return f"#{uuid4().hex}"


def _now() -> datetime:
    return datetime.now(UTC)
