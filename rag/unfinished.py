"""A data folder into which a backup is being restored: until that is done it is nobody else's."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rag.disk import sync
from rag.errors import Conflict, DataFolderBusy

MARK = "unfinished-restore.jsonl"


def check(folder: Path) -> None:
    """Raise Conflict for a data folder that holds a part of a backup only."""
    if (folder / MARK).exists():
        raise Conflict(
            f"The data folder {folder} is not whole: a backup is being restored into it, or that"
            " was interrupted.",
            hint="Run `rag restore FILE` again with the same settings: it begins anew.",
        )


def check_empty(folder: Path) -> None:
    """Raise Conflict unless a folder is empty, or holds only what an interrupted restore left."""
    if folder.exists() and not folder.is_dir():
        raise Conflict(f"{folder} is no folder.", hint="Name another one with --data.")
    if folder.exists() and not (folder / MARK).exists() and any(folder.iterdir()):
        raise _not_empty(folder)


@contextmanager
def marked(folder: Path, physical: list[str]) -> Iterator[list[str]]:
    """Mark a folder as unfinished until the block has ended well.

    `physical` names the collections that will be written; yields those that interrupted restores
    may have left in a store elsewhere, with the folder emptied of what they left in it. The mark
    stays when the block raises. Raises DataFolderBusy, and Conflict for a folder that is not empty.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MARK
    with path.open("a+", encoding="utf8") as mark:
        _lock(mark, path)
        before = _noted(mark)
        others = [other for other in folder.iterdir() if other.name != MARK]
        if others and not before:  # no restore has begun here before
            path.unlink()
            raise _not_empty(folder)
        noted = json.dumps({"pid": os.getpid(), "physical": physical})
        mark.write(f"\n{noted}\n")  # on a line of its own, also behind a torn one
        mark.flush()
        os.fsync(mark.fileno())
        sync(folder)
        for other in others:
            _remove(other)
        yield sorted({name for names in before for name in names})
        sync(folder)
        finish(path)


def left(folder: Path) -> list[str]:
    """The collections that interrupted restores may have left in a store elsewhere."""
    try:
        with (folder / MARK).open(encoding="utf8") as mark:
            return sorted({name for names in _noted(mark) for name in names})
    except FileNotFoundError:
        return []


def finish(mark: Path) -> None:
    """The data folder is whole: it may be used."""
    mark.unlink()
    sync(mark.parent)


def _lock(mark: IO[str], path: Path) -> None:
    try:
        fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = path.exists() and path.stat().st_ino == os.fstat(mark.fileno()).st_ino
    except BlockingIOError:
        held = False
    if not held:  # somebody else has it, or has finished just now
        raise DataFolderBusy(
            f"Another process restores a backup into {path.parent}.", hint="Wait for it."
        )


def _noted(mark: IO[str]) -> list[list[str]]:
    """What restores have noted before they wrote anything else; the last line may be torn."""
    mark.seek(0)
    found = []
    for line in mark:
        try:
            found.append([str(name) for name in json.loads(line)["physical"]])
        except ValueError:
            continue
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _not_empty(folder: Path) -> Conflict:
    return Conflict(
        f"The data folder {folder} is not empty.",
        hint="A restore needs an empty one: name it with --data, or move the old one away.",
    )
