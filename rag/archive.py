"""The file that a backup is: a zip that can be told from half of one, and from an altered one.

    catalog/<table>.jsonl             rows, in the order in which they refer to each other
    objects/<n>                       a line of JSON (sha256, bytes) before the bytes of each object
    points/<collection id>/<n>.jsonl  a line for each point: its id, its payload
    points/<collection id>/<n>.npy    their vectors, float32
    manifest.json                     what the file is, and the SHA-256 of every member

The zip's comment, the file's last 64 bytes, is the SHA-256 of everything before it in hexadecimal
(`head -c -64 FILE | sha256sum`). It comes last and nothing is gone back to, so the file can be
streamed. Nothing here depends on which database and which vector store the data came from.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from rag.errors import MalformedBackup, NotFound

FORMAT = 1
PRODUCT = "ragstone backup"
MANIFEST = "manifest.json"
SEAL_BYTES = 64
READ_BYTES = 2**20
LINE_BYTES = 64 * 2**20  # no line of ours is longer
FLUSH_BYTES = 2**20  # pieces of the file are about so large
_END = b"PK\x05\x06"
_END_BYTES = 22


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup is.

    `made_by` names the versions that the data came from, `revision` that of the catalog's tables,
    `last_ids` the highest id that each table has given. `settings` holds no secret.
    """

    id: str
    created_at: str
    made_by: Mapping[str, Any]
    revision: str
    settings: Mapping[str, Any]
    last_ids: Mapping[str, int]
    counts: Mapping[str, int]
    members: Mapping[str, Mapping[str, Any]]
    product: str = PRODUCT
    format: int = FORMAT


class Writer:
    """Takes members one after the other; `take` gives the bytes of the file that are ready."""

    def __init__(self) -> None:
        self._out = _Outbox()
        written_to: Any = self._out  # a zip that is written needs no more of a file than this
        self._zip = zipfile.ZipFile(written_to, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
        self.members: dict[str, Mapping[str, Any]] = {}

    @contextmanager
    def member(self, name: str, *, compressed: bool = True) -> Iterator["Member"]:
        """A member to write into until the block ends."""
        info = name if compressed else zipfile.ZipInfo(name)  # a ZipInfo is stored as it is
        with self._zip.open(info, "w", force_zip64=True) as file:
            member = Member(file)
            yield member
        self.members[name] = {"bytes": member.bytes, "sha256": member.sha256.hexdigest()}

    def take(self, least: int = FLUSH_BYTES) -> bytes:
        """What is ready since the last time; nothing when it is less than `least` bytes."""
        return self._out.take(least)

    def finish(self, manifest: Manifest) -> bytes:
        """The file's last bytes."""
        with self._zip.open(MANIFEST, "w", force_zip64=True) as file:
            file.write(json.dumps(asdict(manifest), indent=1).encode())
        self._zip.comment = b"0" * SEAL_BYTES
        self._zip.close()
        return self._out.seal()


class Member:
    """A member that is being written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Append."""
        self.sha256.update(data)
        self.bytes += len(data)
        self._file.write(data)

    def write_line(self, value: object) -> None:
        """Append a line of JSON."""
        self.write(json.dumps(value).encode() + b"\n")


class _Outbox:
    """The file that the zip is written to; it cannot seek, as a socket cannot."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._sha256 = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        self._bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing to do."""

    def take(self, least: int) -> bytes:
        if self._bytes < least:
            return b""
        data = b"".join(self._pieces)
        self._pieces, self._bytes = [], 0
        self._sha256.update(data)
        return data

    def seal(self) -> bytes:
        """Everything that is left, with the digest of the whole file at its end."""
        data = b"".join(self._pieces)[:-SEAL_BYTES]
        self._sha256.update(data)
        return data + self._sha256.hexdigest().encode()


class Archive:
    """A backup that is whole, open for reading."""

    def __init__(self, file: BinaryIO, manifest: Manifest, members: zipfile.ZipFile) -> None:
        self._file = file
        self._zip = members
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path, on_read: Callable[[int], None] = lambda _: None) -> Self:
        """Raises MalformedBackup unless every byte is as it was written, NotFound without a file.

        The file is read from end to end; `on_read` is told of the bytes.
        """
        try:
            file = path.open("rb")
        except OSError as error:
            raise NotFound(f"{path} cannot be read: {error.strerror}.") from None
        try:
            check_seal(file, path.name, on_read)
            with refused(path.name):
                members = zipfile.ZipFile(file)
                manifest = _manifest(members, path.name)
        except BaseException:
            file.close()
            raise
        return cls(file, manifest, members)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The lines of a member. Raises MalformedBackup, at its end for a wrong digest."""
        with self._member(name) as member:
            while line := member.line():
                yield line

    def objects(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """(digest, pieces) of every object; the pieces are to be taken before the next object.

        Raises MalformedBackup, at the end of an object or member for a wrong digest.
        """
        for name in self._names("objects/"):
            with self._member(name) as member:
                while head := member.line():
                    yield str(head["sha256"]), member.pieces(int(head["bytes"]), head["sha256"])

    def points(self, collection: int) -> Iterator[tuple[list[dict[str, Any]], NDArray[np.float32]]]:
        """(lines, vectors) of a collection's points, block by block. Raises MalformedBackup."""
        for name in self._names(f"points/{collection}/", ".jsonl"):
            lines = list(self.lines(name))
            with self._member(name.removesuffix(".jsonl") + ".npy") as member:
                packed = BytesIO(member.rest())
                vectors = np.load(packed, allow_pickle=False)
            if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(lines):
                raise MalformedBackup(f"{name} and its vectors do not fit.")
            yield lines, vectors

    def _names(self, prefix: str, suffix: str = "") -> list[str]:
        members = self.manifest.members
        return sorted(n for n in members if n.startswith(prefix) and n.endswith(suffix))

    @contextmanager
    def _member(self, name: str) -> Iterator["_Reading"]:
        with refused(name):
            expected = self.manifest.members[name]
            with self._zip.open(name) as file:
                reading = _Reading(name, file)
                yield reading
                reading.end(expected["sha256"])


class _Reading:
    """A member that is being read."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._file = file
        self._sha256 = hashlib.sha256()

    def line(self) -> dict[str, Any] | None:
        """The next line; None at the end."""
        line = self._file.readline(LINE_BYTES)
        self._sha256.update(line)
        if not line:
            return None
        found = json.loads(line)
        if not isinstance(found, dict):
            raise MalformedBackup(f"{self._name} has a line that is no object.")
        return found

    def pieces(self, count: int, sha256: str) -> Iterator[bytes]:
        """The next bytes, which have this digest."""
        found = hashlib.sha256()
        while count:
            with refused(self._name):
                piece = self._file.read(min(count, READ_BYTES))
            if not piece:
                raise MalformedBackup(f"{self._name} ends within an object.")
            for digest in (found, self._sha256):
                digest.update(piece)
            count -= len(piece)
            yield piece
        if found.hexdigest() != sha256:
            raise MalformedBackup(f"An object in {self._name} is not the one it is called.")

    def rest(self) -> bytes:
        """All that follows."""
        data = self._file.read()
        self._sha256.update(data)
        return data

    def end(self, sha256: str) -> None:
        """Nothing may follow, and everything has to have been as it was written."""
        if self.rest() or self._sha256.hexdigest() != sha256:
            raise MalformedBackup(f"{self._name} has changed since the backup was made.")


def check_seal(file: BinaryIO, name: str, on_read: Callable[[int], None] = lambda _: None) -> None:
    """Raise MalformedBackup unless a file is a whole backup, every byte as it was written.

    Whoever wants to fool this can: it is against accidents.
    """
    file.seek(0)
    if file.read(4) != b"PK\x03\x04":
        raise MalformedBackup(f"{name} is no backup of Ragstone.", hint="`rag backup` makes one.")
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_BYTES - SEAL_BYTES))
    end = file.read()
    if not end.startswith(_END):
        raise MalformedBackup(
            f"{name} is not whole: it has no end. The backup was interrupted, or the copy was.",
            hint="Copy it again, or take another backup.",
        )
    if _digest(file, size - SEAL_BYTES, on_read) != end[-SEAL_BYTES:]:
        raise MalformedBackup(
            f"{name} has changed since it was made: its checksum is another one.",
            hint="Copy it again, or take another backup.",
        )


def _digest(file: BinaryIO, count: int, on_read: Callable[[int], None]) -> bytes:
    file.seek(0)
    found = hashlib.sha256()
    while count and (piece := file.read(min(count, READ_BYTES))):
        found.update(piece)
        count -= len(piece)
        on_read(len(piece))
    return found.hexdigest().encode()


def _manifest(members: zipfile.ZipFile, name: str) -> Manifest:
    names = members.namelist()
    if not names or names[-1] != MANIFEST:
        raise MalformedBackup(f"{name} is no backup of Ragstone.", hint="`rag backup` makes one.")
    found = json.loads(members.read(MANIFEST))
    if found.get("product") != PRODUCT:
        raise MalformedBackup(f"{name} is no backup of Ragstone.", hint="`rag backup` makes one.")
    if found.get("format") != FORMAT:
        raise MalformedBackup(
            f"{name} has format {found.get('format')}, this version reads {FORMAT}.",
            hint="Restore it with the version of Ragstone that made it, or a newer one.",
        )
    manifest = Manifest(**found)
    if sorted(names[:-1]) != sorted(manifest.members):
        raise MalformedBackup(f"{name} does not hold what its manifest says.")
    return manifest


@contextmanager
def refused(name: str) -> Iterator[None]:
    """What a file can do to those who read it, in the words of `rag.errors`."""
    try:
        yield
    except (
        zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, TypeError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise MalformedBackup(f"{name} cannot be read: {error}.") from error
