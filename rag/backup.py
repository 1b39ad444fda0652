"""A backup: all that one transaction of the catalog refers to, in one file, while all goes on.

First the catalog is held, so that nothing vanishes that was live at that time; then its rows are
read in one snapshot, then the objects and points that those rows refer to. What is ingested or
deleted meanwhile is none of it. `rag/archive.py` describes the file, `rag/restore.py` reads it.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar
from uuid import uuid4

import numpy as np
from pydantic import SecretStr

from rag import revisions
from rag.archive import READ_BYTES, Manifest, Member, Writer
from rag.catalog import Catalog, Collection
from rag.collection import index_of
from rag.database import utc
from rag.disk import written_whole
from rag.errors import Conflict, NotFound, RagError
from rag.ledger import Ledger
from rag.parse import PARSER
from rag.parts import Parts
from rag.rows import KEPT, Row, last_ids, rows_of
from rag.settings import Settings
from rag.split import SPLITTER
from rag.store import Point, payload
from rag.tables import collections
from rag.types import Scope

log = logging.getLogger(__name__)

T = TypeVar("T")
Pieces = Generator[bytes, None, T]

ROWS_AT_ONCE = 1000
OBJECTS_IN_MEMBER = 1000
POINTS_IN_MEMBER = 4096  # 6 MB of vectors of 384 numbers: what is held in memory


@dataclass(frozen=True, slots=True)
class Step:
    """How far a backup or a restore is. `total` is 0 where nobody knows it yet."""

    stage: str
    done: int
    total: int = 0


OnStep = Callable[[Step], None]


def ignore(_: Step) -> None:
    """The step that nobody watches."""


def write(parts: Parts, path: Path, on_step: OnStep = ignore) -> Manifest:
    """Write a backup into a new file, which has its name only when it is whole, and on the disk.

    Raises StorageFull, StoreUnreachable, and Conflict: the file is there already, or something that
    belongs into it is missing.
    """
    with written_whole(path) as file, closing(pieces(parts, on_step)) as made:
        return _written(made, file)


def pieces(parts: Parts, on_step: OnStep = ignore) -> Pieces[Manifest]:
    """A backup of all tenants piece by piece, as it can be sent; its manifest at the end.

    Closed early it lets go of what it held. Each piece has to be taken within the lease of the
    settings after the one before, else Conflict is raised: what had been deleted since may be gone.
    """
    lease = timedelta(seconds=parts.settings.backup_lease_seconds)
    with (
        _Hold(parts.catalog, lease) as hold,
        Ledger() as ledger,
        closing(_content(parts, ledger, on_step)) as made,
    ):
        while True:
            try:
                piece = next(made)
            except StopIteration as end:
                writer, manifest = _ended(end)
                break
            hold.renew()
            if piece:
                yield piece
        hold.renew(now=True)  # all that was read was there
        yield writer.finish(manifest)
    return manifest


def _ended(end: StopIteration) -> tuple[Writer, Manifest]:
    writer, manifest = end.value
    return writer, manifest


class _Hold:
    """Keeps what a snapshot refers to, for the length of a block."""

    def __init__(self, catalog: Catalog, lease: timedelta) -> None:
        self._catalog = catalog
        self._lease = lease

    def __enter__(self) -> Self:
        self._name = self._catalog.hold(self._lease)
        self._renewed = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._catalog.release_hold(self._name)
        except RagError as error:
            log.warning("what was deleted during the backup stays for %s: %s", self._lease, error)

    def renew(self, *, now: bool = False) -> None:
        """Say that the backup goes on. Raises Conflict when that comes too late."""
        if not now and time.monotonic() - self._renewed < self._lease.total_seconds() / 4:
            return
        if not self._catalog.renew_hold(self._name, self._lease):
            raise Conflict(
                f"The backup stood still for more than {self._lease.total_seconds():.0f} s, and"
                " what it would need may have been deleted since.",
                hint="Write it to something faster, or raise RAG_BACKUP_LEASE_SECONDS.",
            )
        self._renewed = time.monotonic()


def _content(parts: Parts, ledger: Ledger, on_step: OnStep) -> Pieces[tuple[Writer, Manifest]]:
    """Everything but the end of the file. Pieces may be empty: then only time has passed."""
    writer = Writer()
    begun = datetime.now(UTC)
    kept, counts, ids = yield from _rows(parts, writer, ledger, on_step)
    with _all_there():
        yield from _objects(parts, writer, ledger, on_step)
        yield from _points(parts, kept, writer, ledger, on_step)
    if faults := ledger.faults():
        raise _not_whole("; ".join(faults))
    objects, points = ledger.totals()
    manifest = Manifest(
        id=uuid4().hex,
        created_at=begun.isoformat(),
        made_by=_versions(),
        revision=revisions.newest(),
        settings=settings_of(parts.settings),
        last_ids=ids,
        counts={**counts, "objects": objects, "points": points},
        members=writer.members,
    )
    return writer, manifest


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise _not_whole(error.message.rstrip(".")) from error


def _not_whole(why: str) -> Conflict:
    return Conflict(
        f"A backup would not be whole: {why}.", hint="`rag fsck --repair` mends what can be mended."
    )


def _rows(
    parts: Parts, writer: Writer, ledger: Ledger, on_step: OnStep
) -> Pieces[tuple[list[Collection], dict[str, int], dict[str, int]]]:
    """The catalog's rows; (collections, how many rows of each table, last ids) of the snapshot."""
    counts = {}
    with parts.database.snapshot() as connection:
        # The first statement: what the snapshot is of.
        served = collections.select().where(collections.c.build_for.is_(None))
        found = connection.execute(served).mappings().all()
        ids = last_ids(connection)
        for table in KEPT:
            count = 0
            with writer.member(f"catalog/{table.name}.jsonl") as member:
                for batch in _batches(rows_of(connection, table), ROWS_AT_ONCE):
                    _write_rows(member, batch)
                    ledger.expect(table.name, batch)
                    count += len(batch)
                    on_step(Step(table.name, count))
                    yield writer.take()
            counts[table.name] = count
    return [Collection(**utc(row)) for row in found], counts, ids


def _write_rows(member: Member, rows: Iterable[Row]) -> None:
    for row in rows:
        member.write_line(row)


def _objects(parts: Parts, writer: Writer, ledger: Ledger, on_step: OnStep) -> Pieces[None]:
    done, (total, _) = 0, ledger.totals()
    for number, names in enumerate(_batches(ledger.objects(), OBJECTS_IN_MEMBER)):
        with writer.member(f"objects/{number:06}") as member:
            for name in names:
                yield from _object(parts, name, member, writer)
                ledger.saw_object(name)
                done += 1
                on_step(Step("objects", done, total))


def _object(parts: Parts, name: str, member: Member, writer: Writer) -> Pieces[None]:
    found = hashlib.sha256()
    with parts.objects.local(name) as path, path.open("rb") as file:
        member.write_line({"sha256": name, "bytes": path.stat().st_size})
        while data := file.read(READ_BYTES):
            found.update(data)
            member.write(data)
            yield writer.take()
    if found.hexdigest() != name:
        raise Conflict(
            f"The object {name} has changed on the disk.",
            hint="Ingest its document again: the disk may be failing.",
        )
    yield b""


def _points(
    parts: Parts, kept: Iterable[Collection], writer: Writer, ledger: Ledger, on_step: OnStep
) -> Pieces[None]:
    done, (_, total) = 0, ledger.totals()
    for collection in kept:
        if not ledger.points_of(collection.id):
            continue  # a crash may have come between the collection's row and its vectors
        number, block = 0, list[Point]()
        for batch in parts.store.points(Scope(collection.tenant), index_of(collection)):
            mine = ledger.saw_points(collection.id, batch)
            block += mine
            done += len(mine)
            if len(block) >= POINTS_IN_MEMBER:
                _write_block(writer, collection, number, block)
                number, block = number + 1, []
            on_step(Step("points", done, total))
            yield writer.take()
        if block:
            _write_block(writer, collection, number, block)
            yield writer.take()


def _write_block(writer: Writer, collection: Collection, number: int, block: list[Point]) -> None:
    """Points of a collection, two members: what they say, and their vectors as they are.

    BM25's terms are left out: a restore makes them from the text, as ingestion does, so that they
    are always those of the version that searches them.
    """
    name, scope = f"points/{collection.id}/{number:06}", Scope(collection.tenant)
    with writer.member(f"{name}.jsonl") as member:
        for point in block:
            member.write_line({"id": point.id, **payload(scope, point.chunk)})
    packed = BytesIO()
    np.save(packed, np.stack([point.vector for point in block]), allow_pickle=False)
    with writer.member(f"{name}.npy", compressed=False) as member:  # they do not shrink
        member.write(packed.getvalue())


def _versions() -> dict[str, Any]:
    return {
        "ragstone": version("ragstone"),
        "parser": PARSER,
        "splitter": SPLITTER,
        "qdrant-edge-py": version("qdrant-edge-py"),
    }


def settings_of(settings: Settings) -> dict[str, Any]:
    """Those that say how documents are made and searched: neither secrets nor places."""
    hidden = {"data", "cache", "host", "port", "objects_options"}
    for name in Settings.model_fields:
        if isinstance(getattr(settings, name), SecretStr) or name.endswith(
            ("_url", "_key", "_file")
        ):
            hidden.add(name)
    kept = settings.model_dump(mode="json", exclude=hidden)
    return {**kept, "models": asdict(settings.models)}


def _batches(values: Iterable[T], count: int) -> Iterator[list[T]]:
    rest = iter(values)
    while batch := list(islice(rest, count)):
        yield batch


def _written(made: Pieces[T], file: BinaryIO) -> T:
    """Write pieces as they come; what they return."""
    while True:
        try:
            piece = next(made)
        except StopIteration as end:
            result: T = end.value
            return result
        file.write(piece)
