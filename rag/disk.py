"""What has to reach the disk before anything may rest on it."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rag.errors import Conflict, InvalidInput, StorageFull

UNFINISHED = ".part"


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when the block has ended well and all is on the disk.

    Until then it is called `<path>.part`: what an interrupted process leaves has that name; what
    an error ends is deleted. Raises Conflict when there is such a file already or somebody else
    writes it, InvalidInput where none can be written, StorageFull.
    """
    part = path.with_name(path.name + UNFINISHED)
    with _opened(path, part) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            finish(part, path)
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFull(
                f"{path.name} does not fit into {path.parent.resolve()}: the disk is full.",
                hint="Free some space, or write it to another disk.",
            ) from error
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def finish(part: Path, path: Path) -> None:
    """Give a file that is on the disk its name, for good."""
    part.rename(path)
    sync(path.parent)


def _opened(path: Path, part: Path) -> BinaryIO:
    if path.exists():
        raise Conflict(
            f"There is a file {path} already.", hint="Give another name, or move it away."
        )
    try:
        file = part.open("ab")
    except OSError as error:
        raise InvalidInput(f"{part} cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Conflict(
            f"Another process is writing {part}.", hint="Wait for it, or give another name."
        ) from None
    file.truncate(0)  # what an interrupted process left
    return file


def make_folder(path: Path) -> None:
    """Make a folder, with those above it, that would survive a power cut.

    One that is there already may have been made a moment ago by somebody who has not come to that.
    """
    if not path.parent.is_dir():
        make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


class SharedSync:
    """Brings one thing to the disk for many threads. Thread-safe.

    One sync runs at a time. It is also for those who asked before it began; who asks while it runs
    may have written what it does not see, and waits for the next, with all who asked meanwhile.
    """

    def __init__(self, bring_to_disk: Callable[[], object]) -> None:
        self._bring_to_disk = bring_to_disk
        self._changed = threading.Condition()
        self._running = False
        self._begun = 0
        self._done = 0  # the last one that succeeded

    def __call__(self) -> None:
        """Return when what was written before this call is on the disk, else raise why not."""
        with self._changed:
            wanted = self._begun + 1
            while self._running and self._done < wanted:
                self._changed.wait()
            if self._done >= wanted:
                return
            self._running = True
            self._begun += 1
            number = self._begun
        succeeded = False
        try:
            self._bring_to_disk()
            succeeded = True
        finally:  # after a failure the next of those who wait tries, and finds out for itself
            with self._changed:
                self._running = False
                if succeeded:
                    self._done = number
                self._changed.notify_all()
