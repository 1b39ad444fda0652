"""Originals and parsed texts, kept by the SHA-256 of their bytes in a folder.

Writing is durable and atomic: a reader finds a whole object or none, also after a power cut.
"""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from rag.disk import sync
from rag.errors import NotFound, StorageFull

COPY_BYTES = 2**20
_UNFINISHED = ".new-"


def digest(data: bytes) -> str:
    """The name under which `data` is kept: 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(file: BinaryIO) -> str:
    """The digest of an open file from its beginning; it is at its beginning again afterwards."""
    file.seek(0)
    found = hashlib.sha256()
    while piece := file.read(COPY_BYTES):
        found.update(piece)
    file.seek(0)
    return found.hexdigest()


class ObjectStore:
    """`<folder>/<first two digits>/<digest>`. Safe for several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest. Raises StorageFull; then nothing was written."""
        name = digest(data)
        self.put_file(BytesIO(data), name)
        return name

    def put_file(self, file: BinaryIO, name: str) -> None:
        """Keep what is in a file from its beginning on; `name` is its `digest_of`.

        Never whole in memory. Raises StorageFull; then nothing was written.
        """
        path = self._path(name)
        if path.exists():
            return
        file.seek(0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_durably(path, file)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageFull(
                f"A document does not fit below {self._folder}: the disk is full.",
                hint="Free some space and try again; nothing was stored.",
            ) from error

    def get(self, name: str) -> bytes:
        """The bytes of a digest. Raises NotFound."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"The object {name} is missing from {self._folder}.",
                hint="Restore the data folder from a backup, or ingest the document again.",
            ) from None

    def has(self, name: str) -> bool:
        """Whether the bytes of a digest are kept."""
        return self._path(name).exists()

    def names(self) -> Iterator[str]:
        """The digest of everything that is kept."""
        for path in self._folder.glob("*/*"):
            if not path.name.startswith(_UNFINISHED):
                yield path.name

    def unfinished(self) -> Iterator[Path]:
        """What interrupted writes left behind, and what is just being written."""
        yield from self._folder.glob(f"*/{_UNFINISHED}*")

    def delete(self, name: str) -> None:
        """Forget an object; nothing happens when there is none."""
        self._path(name).unlink(missing_ok=True)

    def delete_unfinished(self) -> None:
        """Forget what interrupted writes left behind, where nobody writes."""
        for path in self.unfinished():
            path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name


def _write_durably(path: Path, data: BinaryIO) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=_UNFINISHED)
    try:
        with os.fdopen(descriptor, "wb") as file:
            shutil.copyfileobj(data, file, COPY_BYTES)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).rename(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    # The folder's entry has to reach the disk as well, or the rename is lost with the power.
    sync(path.parent)
