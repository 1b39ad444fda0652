"""A backup put back, into an empty place: verified whole before anything is written.

Objects first, then points, then the catalog's rows in one transaction. Until all of it has been
checked as `rag fsck` does, the data folder is marked as unfinished, and nothing else opens it.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import DataError, IntegrityError

from rag import revisions, unfinished
from rag.archive import Archive, Manifest, refused
from rag.backup import OnStep, Step, ignore, settings_of
from rag.catalog import Collection
from rag.collection import index_of
from rag.database import Database, has_rows, utc
from rag.errors import Conflict, MalformedBackup, StorageFull
from rag.fsck import examine
from rag.ledger import Ledger
from rag.objects import Objects
from rag.parts import assembled, open_objects, open_store
from rag.rows import KEPT, Row, from_json, insert, set_last_ids
from rag.settings import Settings
from rag.store import Point, VectorStore, chunk_of
from rag.tables import collections
from rag.types import Scope

UPSERT = 1000  # points


@dataclass(frozen=True, slots=True)
class Restored:
    """What was put back. `differs` names settings that were others: (then, now)."""

    manifest: Manifest
    differs: dict[str, tuple[Any, Any]]


def restore(settings: Settings, path: Path, on_step: OnStep = ignore) -> Restored:
    """Put a backup into the places that the settings name, which have to be empty.

    What an interrupted restore left there is deleted first. Raises MalformedBackup, Conflict,
    NotFound, StorageFull, StoreUnreachable; the first two before anything has been written.
    """
    unfinished.check_empty(settings.data)
    with _opened(path, on_step) as archive:
        with refused(path.name):
            found = _verified(archive, on_step)
        _check_room(settings, archive)
        _check_database(settings)
        _check_bucket(settings)
        _check_store(settings, found)
        with unfinished.marked(settings.data, [one.physical for one in found]) as left:
            store = open_store(settings)
            try:
                for physical in set(left) & set(store.physical_names()):
                    store.drop_physical(physical)
                _fill(settings, archive, found, store, on_step)
            finally:
                store.close()
    return Restored(archive.manifest, _differences(archive.manifest, settings))


def _opened(path: Path, on_step: OnStep) -> Archive:
    read, size = 0, path.stat().st_size if path.exists() else 0

    def count(piece: int) -> None:
        nonlocal read
        read += piece
        on_step(Step("checksum", read, size))

    return Archive.open(path, count)


# Verifying


def _verified(archive: Archive, on_step: OnStep) -> list[Collection]:
    """The backup's collections, once everything in it fits together. Raises MalformedBackup."""
    manifest = archive.manifest
    if manifest.revision not in revisions.known():
        raise MalformedBackup(
            f"The backup was made by Ragstone {manifest.made_by.get('ragstone')}, which is newer"
            " than this.",
            hint="Upgrade Ragstone: pip install --upgrade ragstone.",
        )
    with Ledger() as ledger:
        found = _check_rows(archive, ledger)
        _check_objects(archive, ledger, on_step)
        done, (_, total) = 0, ledger.totals()
        for collection in found:
            for points in _points(archive, collection):
                done += len(points)
                on_step(Step("verify points", done, total))
                if len(ledger.saw_points(collection.id, points)) != len(points):
                    raise MalformedBackup("The backup holds points of unknown documents.")
        if faults := ledger.faults():
            raise MalformedBackup(f"The backup is not whole: {'; '.join(faults)}.")
    return found


def _check_rows(archive: Archive, ledger: Ledger) -> list[Collection]:
    found = []
    for table in _tables(archive):
        rows = archive.lines(f"catalog/{table.name}.jsonl")
        while batch := list(islice(rows, UPSERT)):
            ledger.expect(table.name, batch)
            if table is collections:
                found += [_collection(row) for row in batch]
    return found


def _tables(archive: Archive) -> list[sa.Table]:
    """Those that there were when the backup was written."""
    return [table for table in KEPT if table.name in archive.manifest.counts]


def _check_objects(archive: Archive, ledger: Ledger, on_step: OnStep) -> None:
    total, _ = ledger.totals()
    for done, (name, pieces) in enumerate(archive.objects(), start=1):
        for _ in pieces:
            pass
        if not ledger.saw_object(name):
            raise MalformedBackup(f"Nothing in the backup refers to its object {name}.")
        on_step(Step("verify objects", done, total))


def _collection(row: Row) -> Collection:
    """Of a row of any version: what later ones added is of no concern here."""
    fields = Collection.__dataclass_fields__
    kinds = {column.name: column.type for column in collections.columns}
    given = {name: from_json(kinds[name], row.get(name)) for name in fields}
    return Collection(**utc(given))


def _points(archive: Archive, collection: Collection) -> Iterator[list[Point]]:
    """A collection's points, block by block. Raises MalformedBackup."""
    dim = index_of(collection).dim
    for lines, vectors in archive.points(collection.id):
        if vectors.shape[1] != dim or not np.isfinite(vectors).all():
            raise MalformedBackup(f"A vector of collection {collection.name!r} is none.")
        pairs = zip(lines, vectors, strict=True)
        yield [_point(collection, line, vector) for line, vector in pairs]


def _point(collection: Collection, line: dict[str, Any], vector: NDArray[np.float32]) -> Point:
    try:
        name, tenant = str(line.pop("id")), line["tenant"]
        chunk = chunk_of(line)
    except (KeyError, TypeError) as error:
        raise MalformedBackup(f"A point of {collection.name!r} is none: {error}.") from None
    if tenant != collection.tenant:
        raise MalformedBackup(f"A point of {collection.name!r} belongs to another tenant.")
    return Point(name, chunk, vector)


# The place


def _check_room(settings: Settings, archive: Archive) -> None:
    """Raise StorageFull where the backup would not fit; of vectors on a server nobody knows."""
    data = settings.data.absolute()
    there = next(path for path in (data, *data.parents) if path.exists())
    members = archive.manifest.members.items()
    needed = sum(of["bytes"] for name, of in members if not name.startswith("points/"))
    if settings.qdrant_url is None:
        needed += 2 * sum(of["bytes"] for name, of in members if name.startswith("points/"))
        needed += settings.min_free_bytes
    if (free := shutil.disk_usage(there).free) < needed:
        raise StorageFull(
            f"The backup takes about {needed / 2**20:.0f} MB below {settings.data}, and"
            f" {free / 2**20:.0f} MB are free.",
            hint="Free some space, or name a folder on another disk with --data.",
        )


def _check_database(settings: Settings) -> None:
    if (settings.data / unfinished.MARK).exists() and settings.database_url is None:
        return  # it is in the folder, and goes with what was left there
    if has_rows(settings.catalog_url):
        raise Conflict(
            "The catalog's database is not empty.",
            hint="A restore needs one without rows: set RAG_DATABASE_URL to a new database.",
        )


def _check_bucket(settings: Settings) -> None:
    """Raise Conflict for a bucket that holds more than what an interrupted restore left."""
    if not settings.objects_url or (settings.data / unfinished.MARK).exists():
        return
    if any(open_objects(settings).names()):
        raise Conflict(
            f"{settings.objects_url} is not empty.",
            hint="Set RAG_OBJECTS_URL to another folder in the bucket.",
        )


def _check_store(settings: Settings, found: list[Collection]) -> None:
    """Raise Conflict for collections that are there and not left by an interrupted restore."""
    if settings.qdrant_url is None:
        return  # they are in the data folder
    store = open_store(settings)
    try:
        there = set(store.physical_names()) - set(unfinished.left(settings.data))
    finally:
        store.close()
    if strange := {one.physical for one in found} & there:
        raise Conflict(
            f"Qdrant holds {len(strange)} of the backup's collections already:"
            f" {', '.join(sorted(strange))}.",
            hint="Restore into another Qdrant, or delete them there.",
        )


# Writing


def _fill(
    settings: Settings,
    archive: Archive,
    found: list[Collection],
    store: VectorStore,
    on_step: OnStep,
) -> None:
    counts = archive.manifest.counts
    _fill_objects(open_objects(settings), archive, counts, on_step)
    done = 0
    for collection in found:
        index = index_of(collection)
        store.create(index)
        for points in _points(archive, collection):
            for at in range(0, len(points), UPSERT):
                store.upsert(Scope(collection.tenant), index, points[at : at + UPSERT])
            store.flush(index)
            done += len(points)
            on_step(Step("points", done, counts["points"]))
    database = _fill_catalog(settings, archive, on_step)
    try:
        _check(settings, database, store)
    finally:
        database.close()


def _fill_objects(
    objects: Objects, archive: Archive, counts: Mapping[str, int], on_step: OnStep
) -> None:
    for name in list(objects.names()):  # an interrupted restore left it in a bucket
        objects.delete(name)
    for done, (name, pieces) in enumerate(archive.objects(), start=1):
        objects.fill(name, pieces)
        on_step(Step("objects", done, counts["objects"]))
    objects.sync()


def _fill_catalog(settings: Settings, archive: Archive, on_step: OnStep) -> Database:
    """The catalog with all rows: they are there when its one transaction has ended."""
    manifest = archive.manifest

    def fill(connection: sa.Connection) -> None:
        for table in _tables(archive):
            insert(connection, table.name, archive.lines(f"catalog/{table.name}.jsonl"))
            on_step(Step(table.name, manifest.counts[table.name], manifest.counts[table.name]))
        set_last_ids(connection, manifest.last_ids)

    try:
        return Database.filled(settings.catalog_url, manifest.revision, fill)
    except (DataError, IntegrityError) as error:
        raise Conflict(
            f"The database does not take the backup's rows: {error.orig}.",
            hint="Postgres takes less than SQLite: no NUL in texts, no names beyond their length.",
        ) from error


def _check(settings: Settings, database: Database, store: VectorStore) -> None:
    """Raise Conflict unless everything fits, as `rag fsck` sees it."""
    parts = assembled(settings, database, store)
    # What others keep in the same Qdrant is none of ours.
    found = [one for one in examine(parts) if one.kind != "orphan vectors"]
    if found:
        said = "; ".join(f"{one.kind}: {one.what}" for one in found[:3])
        raise Conflict(f"What was restored does not fit: {said}.", hint="Please report this.")


def _differences(manifest: Manifest, settings: Settings) -> dict[str, tuple[Any, Any]]:
    now = settings_of(settings)
    then = manifest.settings
    return {
        name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]
    }
