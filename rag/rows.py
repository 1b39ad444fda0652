"""The catalog's rows as a backup keeps them: in JSON, so that every database takes them back."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from rag.tables import (
    api_keys,
    audit,
    collections,
    documents,
    enclosed,
    feedback,
    generations,
    jobs,
    tasks,
    token_chunks,
    trace_documents,
    traces,
)

# In the order in which they refer to each other.
KEPT = (
    collections,
    generations,
    enclosed,
    documents,
    token_chunks,
    jobs,
    tasks,
    traces,
    trace_documents,
    feedback,
    api_keys,
    audit,
)
# What is to be deleted, what is built aside, and who writes a backup, is nothing that a restored
# catalog has to know.
LEFT_OUT = ("doomed", "doomed_vectors", "backups", "migrations")
NUMBERED = ("collections", "generations", "tasks", "audit")  # their ids are given by the database

Row = dict[str, Any]


def rows_of(connection: sa.Connection, table: sa.Table) -> Iterator[Row]:
    """What of a table a backup keeps.

    Live generations of what is served only: what is built aside can be built again. Nothing of
    what is being received: it was never promised. What was promised and is not done is queued
    again, from its beginning: what was written of it stays here.
    """
    for row in connection.execute(_kept(table)).mappings():
        found = {str(key): value for key, value in row.items()}
        if table is tasks:
            found |= _anew(found)
        if table is documents:
            found["painted"] = found["patches"]  # the points are kept as the row has them
        yield {name: _plain(value) for name, value in found.items()}


def insert(connection: sa.Connection, table: str, rows: Iterable[Row]) -> None:
    """Write rows into a table as it is now, whatever version of Ragstone made it."""
    target = sa.Table(table, sa.MetaData(), autoload_with=connection, resolve_fks=False)
    for column in target.columns:
        if isinstance(column.type, sa.JSON) and column.nullable:
            column.type = sa.JSON(none_as_null=True)
    columns = {column.name: column.type for column in target.columns}
    batch: list[Row] = []
    for row in rows:
        batch.append({name: from_json(columns[name], value) for name, value in row.items()})
        if len(batch) == 1000:
            connection.execute(target.insert(), batch)
            batch = []
    if batch:
        connection.execute(target.insert(), batch)


def last_ids(connection: sa.Connection) -> dict[str, int]:
    """The highest id that a table has ever given, by table."""
    return {name: _last_id(connection, name) for name in NUMBERED}


def set_last_ids(connection: sa.Connection, ids: Mapping[str, int]) -> None:
    """Go on behind these: an id that was given once is never given again."""
    for name, last in ids.items():
        if name not in NUMBERED or not last:
            continue
        if connection.engine.name == "postgresql":
            sequence = sa.func.pg_get_serial_sequence(name, "id")
            connection.execute(sa.select(sa.func.setval(sequence, last)))
        elif _counts(connection, name):
            given = {"name": name, "seq": last}
            connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), given)
            insertion = "INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)"
            connection.execute(sa.text(insertion), given)


def _kept(table: sa.Table) -> sa.Select[Any]:
    served = sa.select(collections.c.id).where(collections.c.build_for.is_(None))
    live = sa.and_(generations.c.state == "live", generations.c.collection_id.in_(served))
    if table is collections:
        return table.select().where(collections.c.build_for.is_(None))
    if table is generations:
        return table.select().where(live)
    if table is enclosed:
        theirs = sa.select(generations.c.id).where(live)
        return table.select().where(enclosed.c.generation.in_(theirs))
    if table in (documents, token_chunks, traces):
        return table.select().where(table.c.collection_id.in_(served))
    if table is tasks:
        return table.select().where(tasks.c.state != "receiving")
    if table is jobs:
        mine = sa.and_(tasks.c.job_id == jobs.c.id, tasks.c.state != "receiving")
        return table.select().where(sa.exists().where(mine))
    return table.select()


def _anew(task: Row) -> Row:
    """The task as nobody has begun with it, if it is not done."""
    nobody = {"owner": None, "lease_until": None}
    if task["state"] not in ("queued", "running"):
        return nobody if task["state"] == "done" else {**nobody, "generation": None}
    return {
        **nobody,
        "state": "queued",
        "stage": "",
        "done": 0,
        "total": 0,
        "generation": None,
        "starts": 0,
        "not_before": None,
    }


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return b64encode(value).decode() if isinstance(value, bytes) else value


def from_json(kind: sa.types.TypeEngine[Any], value: object) -> object:
    """A value of a row as a column of this type takes it."""
    if isinstance(value, str) and isinstance(kind, sa.DateTime):
        return datetime.fromisoformat(value)
    if isinstance(value, str) and isinstance(kind, sa.LargeBinary):
        return b64decode(value, validate=True)
    return value


def _last_id(connection: sa.Connection, name: str) -> int:
    if connection.engine.name == "postgresql":
        sequence = connection.execute(sa.select(sa.func.pg_get_serial_sequence(name, "id")))
        query = f"SELECT last_value FROM {sequence.scalar_one()}"
    elif _counts(connection, name):
        query = f"SELECT seq FROM sqlite_sequence WHERE name = '{name}'"
    else:
        query = f"SELECT max(id) FROM {name}"
    return connection.execute(sa.text(query)).scalar() or 0


def _counts(connection: sa.Connection, name: str) -> bool:
    """Whether SQLite keeps a table's last id (AUTOINCREMENT): without, the highest one counts."""
    query = sa.text("SELECT sql FROM sqlite_master WHERE name = :name")
    return "AUTOINCREMENT" in str(connection.execute(query, {"name": name}).scalar_one()).upper()
