"""What has to reach the disk before anything may rest on it."""

import errno
import fcntl
import os
from collections.abc import Iterator
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
