"""Originals and parsed texts, kept by the SHA-256 of their bytes in a folder.

Writing is durable and atomic: a reader finds a whole object or none, also after a power cut.
"""

import errno
import hashlib
import os
import tempfile
from pathlib import Path

from rag.disk import sync
from rag.errors import NotFound, StorageFull


def digest(data: bytes) -> str:
    """The name under which `data` is kept: 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class ObjectStore:
    """`<folder>/<first two digits>/<digest>`. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest. Raises StorageFull; then nothing was written."""
        name = digest(data)
        path = self._path(name)
        if path.exists():
            return name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(path, data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFull(
                f"{len(data)} bytes do not fit below {self._folder}: the disk is full.",
                hint="Free some space and try again; nothing was stored.",
            ) from error
        return name

    def get(self, name: str) -> bytes:
        """The bytes of a digest. Raises NotFound."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"The object {name} is missing from {self._folder}.",
                hint="Restore the data folder from a backup, or ingest the document again.",
            ) from None

    def delete(self, name: str) -> None:
        """Forget an object; nothing happens when there is none."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _write_durably(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    # The folder's entry has to reach the disk as well, or the rename is lost with the power.
    sync(path.parent)
