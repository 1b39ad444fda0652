"""Where `rag ingest` puts documents, and what it learns of them there.

There are two places: the journal of its own process, and the server that has the data folder open.
In either a document that was submitted is on the disk, and is ingested whatever dies.
"""

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Protocol

from rag.errors import StorageFull
from rag.objects import COPY_BYTES, digest_of
from rag.sources import Source, file_size, too_large, unreadable
from rag.types import DocumentReport

MEMORY_BYTES = 2**20  # a larger file is copied to the disk, not into memory


@dataclass(frozen=True, slots=True)
class Copy:
    """A document's bytes as they were at one time: the file itself may change at any."""

    source: Source
    file: BinaryIO
    size: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a document is: `done` of `total` chunks are stored. `report` is there at its end.

    `fingerprint` is that of what it is made from, where that is known before the end.
    """

    id: str
    source: str
    fingerprint: str = ""
    done: int = 0
    total: int = 0
    report: DocumentReport | None = None
    waits_for: str = ""  # why it has to be tried again


class Destination(Protocol):
    """Takes documents in, for one collection."""

    def open_jobs(self) -> dict[str, list[Standing]]:
        """What an earlier process accepted and did not finish, by job; it goes on from now on."""

    def unchanged(self, source: Source, content_hash: str) -> DocumentReport | None:
        """The report of the document that was made from exactly the same, if it is there."""

    def submit(self, copies: Sequence[Copy], key: str) -> str:
        """Keep documents; the id of the job that ingests them. The same `key` again is that job.

        Raises Overloaded where there is no room now, InvalidInput for what is refused.
        """

    def follow(self, job_id: str) -> Iterator[list[Standing]]:
        """A job's documents, again and again until all have ended."""

    def sources_below(self, prefix: str) -> list[tuple[str, str]]:
        """(id, source) of the documents whose source begins with `prefix`."""

    def delete(self, document_id: str) -> None:
        """Delete a document. Raises NotFound."""


def content_hash(source: Source, limit: int) -> str:
    """The digest of a source's file. Raises TooLarge above `limit`, NotFound."""
    path = source.path or Path(source.origin)
    file_size(path, limit)
    try:
        with path.open("rb") as file:
            return digest_of(file)
    except OSError as error:
        raise unreadable(path, error) from error


def copy(source: Source, limit: int) -> Copy:
    """A copy of a source's file, the caller's to close. Raises TooLarge, NotFound, StorageFull."""
    path = source.path or Path(source.origin)
    large = file_size(path, limit) > MEMORY_BYTES
    file: BinaryIO = TemporaryFile() if large else BytesIO()  # noqa: SIM115 - the caller closes it
    try:
        with path.open("rb") as original:
            # No further than the limit: it may grow while it is read.
            while file.tell() <= limit and (piece := original.read(COPY_BYTES)):
                file.write(piece)
        if (size := file.tell()) > limit:
            raise too_large(source.name, size, limit)
    except OSError as error:
        file.close()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(
                f"There is no room for a copy of {path}: the disk is full.",
                hint="Free some space, or set TMPDIR to a folder on another disk.",
            ) from error
        raise unreadable(path, error) from error
    except BaseException:
        file.close()
        raise
    return Copy(source, file, size)
