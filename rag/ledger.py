"""What a backup has to hold, and what of it has been seen: on the disk, for it may be millions."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from rag.store import Point

_OBJECTS = {
    "generations": ("content_hash", "text_hash", "parsed_hash"),
    "tasks": ("content_hash",),
}
_TABLES = """
CREATE TABLE generations (
    id INTEGER PRIMARY KEY, collection INTEGER, document TEXT, chunks INTEGER,
    points INTEGER DEFAULT 0, face INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE objects (name TEXT PRIMARY KEY, seen INTEGER DEFAULT 0) WITHOUT ROWID;
"""


class Ledger:
    """Used by one thread at a time; gone when closed."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory(prefix="ragstone-", ignore_cleanup_errors=True)
        path = Path(self._folder.name) / "ledger.sqlite"
        # A backup that is streamed takes each step in whichever thread is free.
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=OFF", "synchronous=OFF"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()
        self._folder.cleanup()

    def expect(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Take down what rows of the catalog refer to."""
        names = {row[field] for row in rows for field in _OBJECTS.get(table, ())} - {""}
        insert = "INSERT OR IGNORE INTO objects (name) VALUES (?)"
        self._database.executemany(insert, [(name,) for name in sorted(names)])
        if table == "generations":
            fields = ("id", "collection_id", "document_id", "chunks")
            self._database.executemany(
                "INSERT INTO generations (id, collection, document, chunks) VALUES (?, ?, ?, ?)",
                [tuple(row[field] for field in fields) for row in rows],
            )
        if table == "documents":
            self._database.executemany(
                "UPDATE generations SET face = face + 1"
                " WHERE id = ? AND collection = ? AND document = ?",
                [(row["generation"], row["collection_id"], row["document_id"]) for row in rows],
            )

    def objects(self) -> Iterator[str]:
        """The digest of every object that is referred to."""
        for (name,) in self._database.execute("SELECT name FROM objects ORDER BY name"):
            yield name

    def saw_object(self, name: str) -> bool:
        """False when nothing refers to it."""
        query = "UPDATE objects SET seen = seen + 1 WHERE name = ?"
        return bool(self._database.execute(query, (name,)).rowcount)

    def saw_points(self, collection: int, points: Sequence[Point]) -> list[Point]:
        """Those of the points that belong to a generation of the collection."""
        known = self._documents({point.chunk.generation for point in points}, collection)
        mine = [p for p in points if known.get(p.chunk.generation) == p.chunk.document_id]
        self._database.executemany(
            "UPDATE generations SET points = points + ? WHERE id = ?",
            [(n, id) for id, n in Counter(point.chunk.generation for point in mine).items()],
        )
        return mine

    def totals(self) -> tuple[int, int]:
        """(objects, points) that are expected."""
        (objects,) = self._database.execute("SELECT count(*) FROM objects").fetchone()
        (points,) = self._database.execute("SELECT sum(chunks) FROM generations").fetchone()
        return objects, points or 0

    def points_of(self, collection: int) -> int:
        """How many points of a collection are expected."""
        query = "SELECT sum(chunks) FROM generations WHERE collection = ?"
        (points,) = self._database.execute(query, (collection,)).fetchone()
        return points or 0

    def faults(self) -> list[str]:
        """What does not fit, the first few of each kind."""
        points = "SELECT document, points, chunks FROM generations WHERE points != chunks LIMIT 3"
        faces = "SELECT document, face FROM generations WHERE face != 1 LIMIT 3"
        objects = "SELECT name, seen FROM objects WHERE seen != 1 LIMIT 3"
        run = self._database.execute
        return [
            *(f"{d!r} has {seen} of {chunks} points" for d, seen, chunks in run(points)),
            *(f"{d!r} has {count} entries for one generation" for d, count in run(faces)),
            *(f"object {name} is there {count} times" for name, count in run(objects)),
        ]

    def _documents(self, generations: Iterable[int], collection: int) -> dict[int, str]:
        ids = sorted(generations)
        marks = ", ".join("?" * len(ids))
        query = f"SELECT id, document FROM generations WHERE collection = ? AND id IN ({marks})"
        return dict(self._database.execute(query, (collection, *ids)))
