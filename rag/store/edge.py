"""Qdrant Edge: the engine in this process, one shard per collection below the data folder."""

import errno
import fcntl
import json
import os
import shutil
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import qdrant_edge as qe
from numpy.typing import NDArray

from rag import access
from rag.disk import SharedSync, sync
from rag.errors import DataFolderBusy, NotFound, StorageFull
from rag.store import (
    BM25,
    DENSE,
    FACE,
    GROUPS,
    INTEGERS,
    KEYWORDS,
    PREFIX,
    SCROLL,
    SCROLL_WHOLE,
    Face,
    Found,
    Index,
    Point,
    chunk_of,
    face_of,
    face_payload,
    of_chunks,
    of_generation,
    payload,
    ranked,
    sparse_document,
    sparse_query,
    stored_point,
)
from rag.store.filters import AnyOf, Condition, Not, Range
from rag.types import Chunk, Metadata, Scope

DELETE_BYTES = 16 * 2**20
# Of a shard's log, beyond which a flush writes the segments out: what a start after a crash has to
# read again, at 0.6 s for 29,000 points. Such a flush stops the whole process for some 0.2 s.
LOG_BYTES = 256 * 2**20


@dataclass
class _Open:
    """A shard that is open, and how many are just using it."""

    shard: qe.EdgeShard
    users: int = 0


class EdgeStore:
    """Holds the folder's lock while open: a shard can be open in one process only.

    At most `most_open` shards are, unless more are in use at once: each maps dozens of files, of
    which the system allows a process some ten thousand. The one not used longest is closed first.
    """

    def __init__(
        self, folder: Path, *, min_free_bytes: int = 0, most_open: int = sys.maxsize
    ) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._most_open = most_open
        self._shards: OrderedDict[str, _Open] = OrderedDict()
        self._syncs: dict[str, SharedSync] = {}
        self._guard = threading.RLock()
        # Edge holds the interpreter's lock while it searches, so two searches at once gain nothing;
        # but where sixteen compete for it, an event loop gets its turn after all of them.
        self._searching = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / "in-use-by.json")

    def create(self, index: Index) -> None:
        """Make room for a collection; nothing happens when it is there."""
        with self._guard:
            if index.physical in self._shards or self._path(index).exists():
                return
            self._check_space()
            # Built aside and renamed: a crash half-way leaves no folder that looks like a shard.
            aside = self._folder / f"{index.physical}.new"
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            shard = qe.EdgeShard.create(str(aside), _config(index.dim))
            for field in KEYWORDS:
                schema = qe.PayloadSchemaType.Keyword
                shard.update(qe.UpdateOperation.create_field_index(field, schema))
            for field in INTEGERS:
                schema = qe.PayloadSchemaType.Integer
                shard.update(qe.UpdateOperation.create_field_index(field, schema))
            shard.flush()
            shard.close()
            for path in (*aside.rglob("*"), aside):
                sync(path)
            aside.rename(self._path(index))
            sync(self._folder)

    def drop(self, index: Index) -> None:
        """Remove a collection with all its points."""
        # A search that runs ends first; one that waits for its turn finds the collection gone.
        with self._guard, self._searching:
            opened = self._shards.pop(index.physical, None)
            self._syncs.pop(index.physical, None)
            if opened is not None:
                opened.shard.close()
            shutil.rmtree(self._path(index), ignore_errors=True)

    def upsert(self, scope: Scope, index: Index, points: Sequence[Point]) -> None:
        """Write points; the same id again replaces. Raises StorageFull before the disk is."""
        if not points:
            return
        self._check_space()
        batch = [
            qe.Point(
                point.id,
                {DENSE: point.vector.tolist(), BM25: sparse_document(index, point.chunk)},
                payload(scope, point.chunk),
            )
            for point in points
        ]
        with self._using(index) as shard, self._has_room():
            shard.update(qe.UpdateOperation.upsert_points(batch))

    def flush(self, index: Index) -> None:
        """Return when what was written would survive a power cut.

        Every write is in the shard's log before it is in a segment, and loading a shard reads the
        log again, so it is the log that has to reach the disk. Edge's own flush writes the segments
        as well, and holds the interpreter's lock over all of it: 80 ms instead of 5, in which
        nothing else in the process moves.
        """
        with self._guard:
            bring = self._syncs.setdefault(index.physical, SharedSync(lambda: self._flush(index)))
        bring()

    def _flush(self, index: Index) -> None:
        with self._using(index) as shard:
            if _sync_log(self._path(index) / "wal") > LOG_BYTES:
                self._check_space(DELETE_BYTES)
                with self._has_room():
                    shard.flush()

    def search(
        self,
        scope: Scope,
        index: Index,
        *,
        vector: NDArray[np.float32] | None,
        text: str | None,
        conditions: Sequence[Condition],
        limit: int,
    ) -> tuple[list[Found], list[Found]]:
        """(dense, BM25) rankings in one batch; None for `vector` or `text` leaves one empty."""
        queries: dict[str, qe.Query] = {}
        if vector is not None:
            queries[DENSE] = qe.Query.Nearest(vector.tolist(), using=DENSE)
        sparse = sparse_query(index, text) if text is not None else None
        if sparse is not None and sparse.indices:
            queries[BM25] = qe.Query.Nearest(sparse, using=BM25)
        where = _filter(scope, conditions)
        batch = [
            qe.QueryRequest(limit, query=query, filter=where, with_payload=True)
            for query in queries.values()
        ]
        if not batch:
            return [], []
        with self._reading(index) as shard:
            results = shard.query_batch(qe.QueryBatchRequest(batch))
            found = {name: _found(points) for name, points in zip(queries, results, strict=True)}
        return found.get(DENSE, []), found.get(BM25, [])

    def delete(
        self, scope: Scope, index: Index, document_id: str, generations: Sequence[int]
    ) -> None:
        """Delete the points of these generations of a document."""
        where = _filter(
            scope,
            [AnyOf("document_id", (document_id,)), AnyOf("generation", tuple(generations))],
        )
        self._check_space(DELETE_BYTES)  # less than for writing: deleting is what frees space
        with self._using(index) as shard, self._has_room():
            shard.update(qe.UpdateOperation.delete_points_by_filter(where))

    def count(self, scope: Scope, index: Index, document_id: str | None = None) -> int:
        """How many points there are, of all generations."""
        only = [AnyOf("document_id", (document_id,))] if document_id is not None else []
        request = qe.CountRequest(exact=True, filter=_filter(scope, only))
        with self._reading(index) as shard:
            return shard.count(request)

    def inventory(
        self, scope: Scope, index: Index, document_id: str | None = None
    ) -> Counter[tuple[str, int]]:
        """How many points there are of each (document, generation), or of one document's.

        Reads all of them.
        """
        only = [AnyOf("document_id", (document_id,))] if document_id is not None else []
        payloads = self._scroll(scope, index, only, ["document_id", "generation"])
        return Counter((one["document_id"], one["generation"]) for one in payloads)

    def paint(
        self,
        scope: Scope,
        index: Index,
        document_id: str,
        generation: int,
        *,
        metadata: Metadata,
        title: str | None = None,
    ) -> None:
        """Give all points of a document's generation other metadata, and a title unless None."""
        where = _filter(scope, of_generation(document_id, generation))
        self._check_space()
        changed = face_payload(metadata, title)
        with self._using(index) as shard, self._has_room():
            shard.update(qe.UpdateOperation.set_payload_by_filter(where, changed))

    def chunks(
        self, scope: Scope, index: Index, document_id: str, generation: int, first: int, limit: int
    ) -> list[Chunk]:
        """Those chunks of a generation that are there, by index, from `first` on up to `limit`."""
        where = of_chunks(document_id, generation, first, limit)
        found = map(chunk_of, self._scroll(scope, index, where, True))
        return sorted(found, key=lambda chunk: chunk.index)

    def faces(self, scope: Scope, index: Index) -> Iterator[Face]:
        """What every point says of its document."""
        return map(face_of, self._scroll(scope, index, [], list(FACE)))

    def points(self, scope: Scope, index: Index) -> Iterator[list[Point]]:
        """Every point that is there when the reading comes to it, in batches, by id."""
        where, offset = _filter(scope, []), None
        while True:
            request = qe.ScrollRequest(
                offset=offset,
                limit=SCROLL_WHOLE,
                filter=where,
                with_payload=True,
                with_vector=[DENSE],
            )
            with self._reading(index) as shard:
                records, offset = shard.scroll(request)
            yield [stored_point(str(r.id), r.payload, r.vector) for r in records]
            if offset is None:
                return

    def physical_names(self) -> list[str]:
        """The collections that are there, by their physical names."""
        return [path.name for path in self._folder.glob(f"{PREFIX}*") if path.suffix != ".new"]

    def drop_physical(self, physical: str) -> None:
        """Remove a collection that nothing else is known of."""
        self.drop(Index(physical, dim=0))

    def ping(self) -> None:
        """Raise StorageFull when there is no room to write."""
        self._check_space()

    def close(self) -> None:
        """Flush and close every shard, then let the folder go."""
        with self._guard:
            for opened in self._shards.values():
                self._close(opened.shard)
            self._shards.clear()
            self._lock.close()

    def _scroll(
        self,
        scope: Scope,
        index: Index,
        conditions: Sequence[Condition],
        fields: list[str] | bool,
    ) -> Iterator[dict[str, Any]]:
        """The payloads of all points for which the conditions hold, or these fields of them."""
        where = _filter(scope, conditions)
        wanted = fields if isinstance(fields, bool) else qe.PayloadSelector.Include(fields)
        offset: Any = None
        while True:
            request = qe.ScrollRequest(
                offset=offset, limit=SCROLL, filter=where, with_payload=wanted
            )
            with self._reading(index) as shard:
                records, offset = shard.scroll(request)
            yield from (record.payload or {} for record in records)
            if offset is None:
                return

    @contextmanager
    def _reading(self, index: Index) -> Iterator[qe.EdgeShard]:
        """The shard, which nobody drops for the length of the block. Raises NotFound."""
        with self._using(index) as shard, self._searching:
            opened = self._shards.get(index.physical)
            if opened is None or opened.shard is not shard:
                raise NotFound(f"The vectors in {self._path(index)} were just deleted.")
            yield shard

    def _path(self, index: Index) -> Path:
        return self._folder / index.physical

    @contextmanager
    def _using(self, index: Index) -> Iterator[qe.EdgeShard]:
        """The shard, which is not closed for want of room for others meanwhile. Raises NotFound."""
        with self._guard:
            opened = self._opened(index)
            opened.users += 1
            self._shards.move_to_end(index.physical)
            self._close_some()
        try:
            yield opened.shard
        finally:
            with self._guard:
                opened.users -= 1

    def _close_some(self) -> None:
        idle = [name for name, opened in self._shards.items() if not opened.users]
        for name in idle[: max(0, len(self._shards) - self._most_open)]:
            self._close(self._shards.pop(name).shard)

    def _close(self, shard: qe.EdgeShard) -> None:
        with suppress(StorageFull):  # what was not written is read from the log
            self._check_space(DELETE_BYTES)
            with self._has_room():
                shard.flush()
        shard.close()

    def _opened(self, index: Index) -> _Open:
        with self._guard:
            if index.physical not in self._shards:
                path = self._path(index)
                if not path.exists():
                    raise NotFound(
                        f"The vectors of this collection are missing from {path}.",
                        hint="Restore the data folder from a backup, or delete the collection.",
                    )
                self._check_space()  # opening a shard writes: its log, its segments
                self._shards[index.physical] = _Open(qe.EdgeShard.load(str(path)))
            return self._shards[index.physical]

    @contextmanager
    def _has_room(self) -> Iterator[None]:
        """The engine's error for a disk that filled up since it was looked at, in our words."""
        try:
            yield
        except Exception as error:
            if "No space left" not in str(error):
                raise
            raise StorageFull(
                f"The disk below {self._folder} is full.", hint="Free some space."
            ) from error

    def _check_space(self, most: int = sys.maxsize) -> None:
        # The engine maps its files: a write beyond the end of the disk would kill the process
        # with SIGBUS, so there has to be room before it starts.
        least = min(self._min_free_bytes, most)
        free = shutil.disk_usage(self._folder).free
        if free < least:
            raise StorageFull(
                f"Only {free / 2**20:.0f} MB are free below {self._folder},"
                f" {least / 2**20:.0f} MB must stay free.",
                hint="Free some space, or lower RAG_MIN_FREE_BYTES.",
            )


def _lock(path: Path) -> IO[str]:
    """The open lock file; closing it, or the process's end however it came, releases the lock."""
    lock = path.open("a+", encoding="utf8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read()
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise _busy(path, owner) from None
    lock.truncate(0)
    json.dump({"pid": os.getpid(), "command": " ".join(sys.argv)[:500]}, lock)
    lock.flush()
    return lock


def _sync_log(log: Path) -> int:
    """Bring a shard's log to the disk; its size in bytes. Raises NotFound for one that was dropped.

    A part that is full is renamed by whoever writes on meanwhile: then all are gone through again.
    """
    while log.exists():
        try:
            parts = list(log.iterdir())
            for path in (*parts, log):
                sync(path)
            return sum(part.stat().st_size for part in parts)
        except FileNotFoundError:
            continue
    raise NotFound(f"The collection in {log.parent} was deleted meanwhile.")


def _busy(path: Path, owner: str) -> DataFolderBusy:
    try:
        holder: dict[str, Any] = json.loads(owner)
    except ValueError:  # the other process is between locking and writing its name
        holder = {}
    return DataFolderBusy(
        f"The data folder {path.parent.parent} is in use by process"
        f" {holder.get('pid', '?')} ({holder.get('command', 'unknown command')}).",
        hint="Stop that process, talk to its API, or use another folder with --data.",
    )


def _config(dim: int) -> qe.EdgeConfig:
    return qe.EdgeConfig(
        vectors={DENSE: qe.EdgeVectorParams(dim, qe.Distance.Cosine)},
        sparse_vectors={BM25: qe.EdgeSparseVectorParams(modifier=qe.Modifier.Idf)},
    )


def _found(points: Sequence[qe.ScoredPoint]) -> list[Found]:
    return ranked([Found(str(p.id), p.score, chunk_of(p.payload or {})) for p in points])


def _filter(scope: Scope, conditions: Sequence[Condition]) -> qe.Filter:
    tenant = qe.FieldCondition("tenant", match=qe.MatchValue(scope.tenant))
    must: list[Any] = [_field(c) for c in conditions if not isinstance(c, Not)]
    must_not = [_field(c.condition) for c in conditions if isinstance(c, Not)]
    groups = access.point_groups(scope)
    if groups is not None:
        member = [qe.FieldCondition(GROUPS, match=qe.MatchAny(groups))] if groups else []
        must.append(qe.Filter(should=[qe.IsEmptyCondition(GROUPS), *member]))
    return qe.Filter(must=[tenant, *must], must_not=[*must_not])


def _field(condition: AnyOf | Range) -> qe.FieldCondition | qe.Filter:
    if isinstance(condition, Range):
        bounds = qe.RangeFloat(
            gt=condition.gt, gte=condition.gte, lt=condition.lt, lte=condition.lte
        )
        return qe.FieldCondition(condition.key, range=bounds)
    # Edge 0.9.0 takes Python's True for the integer 1; numpy's stays a boolean.
    values: list[Any] = [np.bool_(v) if isinstance(v, bool) else v for v in condition.values]
    if len(values) == 1:
        return qe.FieldCondition(condition.key, match=qe.MatchValue(values[0]))
    if isinstance(condition.values[0], bool):  # true or false: MatchAny takes no booleans
        either = [qe.FieldCondition(condition.key, match=qe.MatchValue(v)) for v in values]
        return qe.Filter(should=[*either])
    return qe.FieldCondition(condition.key, match=qe.MatchAny(values))
