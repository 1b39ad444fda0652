"""The catalog: what exists. Qdrant holds candidates, these tables say which of them are real.

A document has generations. Ingesting opens generation N (state `writing`), writes its points, then
`flip` makes it the live one in one transaction; generation ids are never reused, so a point that a
crash left behind can never come alive again. Deleting is one transaction too. `purged` forgets the
stale generations once their points are gone.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError

from rag.errors import Conflict, InvalidInput, NotFound, StorageFull, StoreUnreachable
from rag.types import Metadata, Scope

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
MIGRATION_LOCK = 0x7261675F  # one number that every Ragstone process asks Postgres to lock
CONNECTIONS = 32  # kept open to SQLite

schema = sa.MetaData()
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Time = sa.DateTime(timezone=True)

collections = sa.Table(
    "collections",
    schema,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("tenant", sa.String(200), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("physical", sa.String(200), nullable=False, unique=True),
    sa.Column("pipeline", sa.JSON, nullable=False),
    sa.Column("settings", sa.JSON, nullable=False),
    sa.Column("system_prompt", sa.Text, nullable=False),
    sa.Column("answer_language", sa.String(50), nullable=False),
    sa.Column("chunks", sa.BigInteger, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.UniqueConstraint("tenant", "name", name="collections_tenant_name"),
)
generations = sa.Table(
    "generations",
    schema,
    sa.Column("id", _Id, primary_key=True, autoincrement=True),
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), nullable=False),
    sa.Column("document_id", sa.String(512), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # writing, live, stale
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("text_hash", sa.String(64), nullable=False),
    sa.Column("chunks", sa.Integer, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
    sa.Column("pages", sa.Integer, nullable=False),
    sa.Column("characters", sa.BigInteger, nullable=False),
    sa.Column("warnings", sa.JSON, nullable=False),
    sa.Column("token_chunks", sa.LargeBinary, nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Index("generations_document", "collection_id", "document_id"),
    sqlite_autoincrement=True,
)
documents = sa.Table(
    "documents",
    schema,
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), primary_key=True),
    sa.Column("document_id", sa.String(512), primary_key=True),
    sa.Column("generation", _Id, sa.ForeignKey("generations.id"), nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("media_type", sa.String(200), nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("created_at", _Time, nullable=False),
    sa.Column("updated_at", _Time, nullable=False),
)
token_chunks = sa.Table(
    "token_chunks",
    schema,
    sa.Column("collection_id", _Id, sa.ForeignKey("collections.id"), primary_key=True),
    sa.Column("token", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("chunks", sa.BigInteger, nullable=False),
)


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


class Catalog:
    """Thread-safe; one per process and database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._insert = postgresql.insert if engine.name == "postgresql" else sqlite.insert

    @classmethod
    def open(cls, url: str) -> Self:
        """Connect and bring the schema up to date. Raises StoreUnreachable."""
        engine = _engine(url)
        catalog = cls(engine)
        with catalog._write() as connection:
            _migrate(connection)
        return catalog

    def close(self) -> None:
        """Give the connections back; the catalog is not usable afterwards."""
        self._engine.dispose()

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
            "physical": f"ragstone_{uuid4().hex}",
            "pipeline": dict(pipeline),
            "settings": dict(settings or {}),
            "system_prompt": system_prompt,
            "answer_language": answer_language,
            "chunks": 0,
            "created_at": datetime.now(UTC),
        }
        try:
            with self._write() as connection:
                connection.execute(collections.insert().values(row))
        except IntegrityError:
            raise Conflict(
                f"There is a collection {name!r} already.",
                hint="Pick another name, or delete that one first.",
            ) from None
        return self.collection(scope, name)

    def collection(self, scope: Scope, name: str) -> Collection:
        """The collection of that name. Raises NotFound, also for one outside the scope."""
        with self._read() as connection:
            return _collection(connection, scope, name)

    def collections(self, scope: Scope) -> list[Collection]:
        """Every collection within the scope, by name."""
        query = collections.select().where(collections.c.tenant == scope.tenant)
        with self._read() as connection:
            rows = connection.execute(query.order_by(collections.c.name)).mappings().all()
        return [Collection(**_utc(row)) for row in rows if scope.allows(row["name"])]

    def update_collection(self, scope: Scope, name: str, **changes: object) -> Collection:
        """Change `settings`, `system_prompt` or `answer_language`; None leaves one as it is."""
        given = {key: value for key, value in changes.items() if value is not None}
        with self._write() as connection:
            found = _collection(connection, scope, name)
            if given:
                connection.execute(
                    collections.update().where(collections.c.id == found.id).values(given)
                )
            return _collection(connection, scope, name)

    def delete_collection(self, scope: Scope, name: str) -> tuple[Collection, list[str]]:
        """Forget a collection with all its documents; the caller drops its vectors.

        Returns it, and the content and text hashes that nothing refers to any more.
        """
        with self._write() as connection:
            found = _collection(connection, scope, name)
            mine = generations.c.collection_id == found.id
            hashes = _hashes(connection, mine)
            for table in (token_chunks, documents, generations):
                connection.execute(table.delete().where(table.c.collection_id == found.id))
            connection.execute(collections.delete().where(collections.c.id == found.id))
            return found, _unused(connection, hashes)

    # Documents

    def documents(
        self, scope: Scope, name: str, *, after: str = "", limit: int = 100
    ) -> list[DocumentRecord]:
        """Live documents by id, from the first id behind `after` on."""
        with self._read() as connection:
            found = _collection(connection, scope, name)
            query = _live(found).where(documents.c.document_id > after)
            query = query.order_by(documents.c.document_id).limit(limit)
            return [_document(row) for row in connection.execute(query).mappings()]

    def document(self, scope: Scope, name: str, document_id: str) -> DocumentRecord:
        """One live document. Raises NotFound."""
        with self._read() as connection:
            found = _collection(connection, scope, name)
            query = _live(found).where(documents.c.document_id == document_id)
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise _no_document(document_id, name)
        return _document(row)

    def live_generations(
        self, scope: Scope, name: str, document_ids: Sequence[str]
    ) -> dict[str, int]:
        """Document id -> its live generation, for those of `document_ids` that are live."""
        with self._read() as connection:
            found = _collection(connection, scope, name)
            query = sa.select(documents.c.document_id, documents.c.generation).where(
                documents.c.collection_id == found.id, documents.c.document_id.in_(document_ids)
            )
            return {row.document_id: row.generation for row in connection.execute(query)}

    def begin_generation(
        self, scope: Scope, name: str, document_id: str, *, content_hash: str, text_hash: str
    ) -> int:
        """Open a generation to write points into; invisible until `flip`.

        The hashes are recorded from the start, so that no purge takes their objects away.
        """
        row = {
            "document_id": document_id,
            "state": "writing",
            "content_hash": content_hash,
            "text_hash": text_hash,
            "chunks": 0,
            "tokens": 0,
            "pages": 0,
            "characters": 0,
            "warnings": [],
            "token_chunks": b"",
            "created_at": datetime.now(UTC),
        }
        with self._write() as connection:
            found = _collection(connection, scope, name)
            result = connection.execute(generations.insert().values(collection_id=found.id, **row))
        return int(result.inserted_primary_key[0])  # type: ignore[index] # one row was inserted

    def flip(self, scope: Scope, name: str, revision: Revision) -> bool:
        """Make the revision's generation the live one, in one transaction.

        False when a newer generation is live already: then this one is stale and only its points
        have to go.
        """
        with self._write() as connection:
            found = _collection(connection, scope, name)
            live = self._lock_document(connection, found, revision.document_id)
            if live is not None and live.generation == revision.generation:
                return True  # a repeated step must neither count twice nor mark the live one stale
            if live is not None and live.generation > revision.generation:
                _mark_stale(connection, [revision.generation])
                return False
            self._make_live(connection, found, revision, replace=live is not None)
            if live is not None:
                self._count(connection, found, live.generation, -1)
                _mark_stale(connection, [live.generation])
        return True

    def delete_document(self, scope: Scope, name: str, document_id: str) -> None:
        """Effective at commit; the points of its generations are purged behind it.

        Raises NotFound.
        """
        with self._write() as connection:
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
        with self._write() as connection:
            found = _collection(connection, scope, name)
            query = generations.update().where(
                generations.c.collection_id == found.id,
                generations.c.id == generation,
                generations.c.state == "writing",
            )
            connection.execute(query.values(state="stale"))

    def stale_generations(self, scope: Scope, name: str, document_id: str) -> list[int]:
        """Generations of a document whose points are to be deleted."""
        with self._read() as connection:
            found = _collection(connection, scope, name)
            query = sa.select(generations.c.id).where(
                generations.c.collection_id == found.id,
                generations.c.document_id == document_id,
                generations.c.state == "stale",
            )
            return list(connection.execute(query).scalars())

    def purged(self, scope: Scope, name: str, stale: Sequence[int]) -> list[str]:
        """Forget stale generations whose points are gone.

        Returns the content and text hashes that no generation refers to any more.
        """
        with self._write() as connection:
            found = _collection(connection, scope, name)
            mine = sa.and_(
                generations.c.collection_id == found.id,
                generations.c.id.in_(stale),
                generations.c.state == "stale",
            )
            hashes = _hashes(connection, mine)
            connection.execute(generations.delete().where(mine))
            return _unused(connection, hashes)

    def token_document_frequencies(
        self, scope: Scope, name: str, tokens: Sequence[int]
    ) -> tuple[dict[int, int], int]:
        """(token id -> live chunks that hold it, number of live chunks)."""
        with self._read() as connection:
            found = _collection(connection, scope, name)
            query = sa.select(token_chunks.c.token, token_chunks.c.chunks).where(
                token_chunks.c.collection_id == found.id, token_chunks.c.token.in_(tokens)
            )
            counts = {row.token: row.chunks for row in connection.execute(query)}
        return counts, found.chunks

    # Inside a transaction

    def _lock_document(
        self, connection: sa.Connection, found: Collection, document_id: str
    ) -> sa.Row[Any] | None:
        """The live row, locked on Postgres; SQLite's write transaction is alone anyway.

        The collection's row is locked first: it orders flips of new documents, which have no row
        to lock yet, and keeps the counters exact.
        """
        lock = sa.select(collections.c.id).where(collections.c.id == found.id).with_for_update()
        connection.execute(lock)
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
        connection.execute(
            collections.update()
            .where(collections.c.id == found.id)
            .values(chunks=collections.c.chunks + sign * row.chunks)
        )
        rows = [
            {"collection_id": found.id, "token": token, "chunks": sign * count}
            for token, count in sorted(_unpack(row.token_chunks).items())
        ]
        if rows:
            insert = self._insert(token_chunks)
            added = token_chunks.c.chunks + insert.excluded.chunks
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["collection_id", "token"], set_={"chunks": added}
                ),
                rows,
            )

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _translated(), self._engine.connect() as plain:
            connection = plain.execution_options(write=True)
            with connection.begin():
                yield connection


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        raise InvalidInput(
            "RAG_DATABASE_URL is not a database URL.",
            hint="Write it as postgresql+psycopg://user:password@host/database.",
        ) from None
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed)
    try:
        return sa.create_engine(parsed, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"The database driver {error.name} is not installed.",
            hint='Run: pip install "ragstone[postgres]".',
        ) from None


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    # As many as threads of a service, so that none is opened and prepared for one question.
    engine = sa.create_engine(
        url, pool_size=CONNECTIONS, connect_args={"timeout": 30, "isolation_level": None}
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - a DBAPI connection
        # FULL: a committed flip survives a power cut, not only a killed process.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        # A writer takes its lock at once: a reader that turned writer half-way would deadlock.
        write = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _migrate(connection: sa.Connection) -> None:
    if connection.engine.name == "postgresql":
        # Two services that start together must not both create the tables.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    config = Config()
    config.set_main_option("script_location", "rag:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _translated() -> Iterator[None]:
    """Database errors that the user can do something about, in the words of `rag.errors`."""
    try:
        yield
    except OperationalError as error:
        cause = str(error.orig)
        if "disk is full" in cause or "No space left" in cause:
            raise StorageFull(
                "The catalog cannot be written: the disk is full.",
                hint="Free some space; nothing that was stored is lost.",
            ) from error
        raise StoreUnreachable(
            f"The catalog's database does not answer: {cause.strip()}.",
            hint="Check RAG_DATABASE_URL, or the permissions of the data folder.",
        ) from error


def _collection(connection: sa.Connection, scope: Scope, name: str) -> Collection:
    row = None
    if scope.allows(name):
        query = collections.select().where(
            collections.c.tenant == scope.tenant, collections.c.name == name
        )
        row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise _no_collection(name)
    return Collection(**_utc(row))


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
    counts = ("text_hash", "chunks", "tokens", "pages", "characters", "warnings")
    return (
        sa.select(documents, *(generations.c[column] for column in counts))
        .join(generations, generations.c.id == documents.c.generation)
        .where(documents.c.collection_id == found.id)
    )


def _document(row: Mapping[Any, Any]) -> DocumentRecord:
    fields = _utc(row)
    fields["id"] = fields.pop("document_id")
    fields["warnings"] = tuple(fields["warnings"])
    del fields["collection_id"]
    return DocumentRecord(**fields)


def _hashes(connection: sa.Connection, which: sa.ColumnElement[bool]) -> set[str]:
    columns = (generations.c.content_hash, generations.c.text_hash)
    rows = connection.execute(sa.select(*columns).where(which)).all()
    return {value for row in rows for value in row if value}


def _unused(connection: sa.Connection, hashes: set[str]) -> list[str]:
    """Those of the hashes that no generation refers to."""
    used: set[str] = set()
    for column in (generations.c.content_hash, generations.c.text_hash):
        # In parts, because databases bound the number of parameters.
        for at in range(0, len(hashes), 500):
            part = sorted(hashes)[at : at + 500]
            used.update(connection.execute(sa.select(column).where(column.in_(part))).scalars())
    return sorted(hashes - used)


def _mark_stale(connection: sa.Connection, ids: Sequence[int]) -> None:
    query = generations.update().where(generations.c.id.in_(ids))
    connection.execute(query.values(state="stale"))


def _utc(row: Mapping[Any, Any]) -> dict[str, Any]:
    """SQLite forgets time zones; every time in the catalog is UTC."""
    return {
        str(key): value.replace(tzinfo=UTC)
        if isinstance(value, datetime) and value.tzinfo is None
        else value
        for key, value in row.items()
    }


def _pack(counts: Mapping[int, int]) -> bytes:
    pairs = np.array(sorted(counts.items()), dtype="<i4").reshape(-1, 2)
    return zlib.compress(pairs.tobytes())


def _unpack(blob: bytes) -> dict[int, int]:
    if not blob:
        return {}
    pairs = np.frombuffer(zlib.decompress(blob), dtype="<i4").reshape(-1, 2)
    return {int(token): int(count) for token, count in pairs}
