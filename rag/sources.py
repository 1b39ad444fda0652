"""Where documents come from: files and folders, uploads, texts."""

import hashlib
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag.access import ACL, check_acl
from rag.errors import InvalidInput, NotFound, TooLarge
from rag.folder import LeftOut, Selection, walk
from rag.types import Metadata

MAX_ID_CHARS = 512
LEAST_INT, MOST_INT = -(2**63), 2**63 - 1  # that a filter can ask for


@dataclass(frozen=True, slots=True)
class Source:
    """A document to be: bytes from `content` or `path`, or a `text` taken as it is.

    `name` is a file name, `origin` where it came from (path, URL): what the document is known by.
    `id` empty means one made from the origin, so that the same origin again replaces. `parent` is
    the id of the document that it is attached to, `depth` how many there are above it. `password`
    opens it, or what is attached to it; it is kept only until the document is made. Nobody chose
    an `acl` that is `acl_assumed`: it counts for a new document alone.
    """

    name: str
    origin: str
    id: str = ""
    title: str | None = None
    media_type: str | None = None
    metadata: Metadata = field(default_factory=dict)
    path: Path | None = None
    content: bytes | None = None
    text: str | None = None
    is_text: bool = False  # the bytes are a `text`
    parent: str = ""
    depth: int = 0
    password: str | None = field(default=None, repr=False)
    acl_assumed: bool = False

    def __post_init__(self) -> None:
        if self.text is not None:
            object.__setattr__(self, "is_text", True)

    @property
    def document_id(self) -> str:
        """The given id, or a readable one made from the origin."""
        return self.id or derived_id(self.name, self.origin)

    @property
    def says_acl(self) -> bool:
        """Whether whoever sent it chose who may see it."""
        return ACL in self.metadata and not self.acl_assumed

    def read(self, limit: int) -> bytes:
        """The bytes. Raises TooLarge above `limit`, NotFound for a file that is gone."""
        if self.text is not None:
            data = self.text.encode("utf8", "surrogatepass")
        elif self.content is not None:
            data = self.content
        else:
            data = _read(self.path or Path(self.origin), limit)
        if len(data) > limit:
            raise too_large(self.name, len(data), limit)
        return data


def derived_id(name: str, origin: str) -> str:
    """`handbook-pdf-1f8b2c4d5e6f`: the name for people, a hash of the origin against clashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.casefold()).strip("-")[:60]
    return f"{slug or 'document'}-{hashlib.sha256(origin.encode()).hexdigest()[:12]}"


def find(
    paths: Iterable[str | Path],
    *,
    metadata: Metadata | None = None,
    password: str | None = None,
    selection: Selection = Selection(),  # noqa: B008 - frozen
    left_out: LeftOut | None = None,
) -> Iterator[Source]:
    """Files as they are, folders with everything below them, in order of their paths.

    Hidden and ignored files of folders are left out, see `rag.folder`; a file that is reached twice
    is given once. Raises NotFound.
    """
    given: set[str] = set()
    for path in map(Path, paths):
        if not _exists(path):
            raise NotFound(f"There is no file or folder {str(path)!r}.", hint="Check the path.")
        files = walk(path, selection, left_out) if path.is_dir() else _named(path, selection)
        for file in files:
            source = of_file(file, metadata or {}, password)
            if source.origin not in given:
                given.add(source.origin)
                yield source


def of_file(path: Path, metadata: Metadata, password: str | None = None) -> Source:
    """The source of a file: known by its full path, whatever linked folders lead to it."""
    return Source(
        name=as_text(path.name),
        origin=as_text(str(path.parent.resolve() / path.name)),
        metadata=metadata,
        path=path,
        password=password,
    )


def check_metadata(metadata: Mapping[str, Any], limit: int) -> None:
    """Raise InvalidInput unless it is flat: texts, numbers, booleans, or lists of texts.

    `acl` names the groups that may see the document, see `rag.access`.
    """
    check_acl(metadata)
    for key, value in metadata.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidInput(f"Metadata {key!r} is a number that JSON cannot hold.")
        if isinstance(value, int) and not LEAST_INT <= value <= MOST_INT:
            raise InvalidInput(
                f"Metadata {key!r} is an integer of more than 64 bits.",
                hint="Send it as a text: it could not be found by its value.",
            )
        plain = isinstance(value, str | int | float | bool) or value is None
        if not plain and not (
            isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        ):
            raise InvalidInput(
                f"Metadata {key!r} must be a text, a number, a boolean or a list of texts."
            )
    if len(json.dumps(dict(metadata))) > limit:
        raise TooLarge(
            f"The metadata take more than {limit} bytes.", hint="Raise RAG_MAX_METADATA_BYTES."
        )


def check_id(document_id: str) -> None:
    """Raise InvalidInput for an id that could not be kept or addressed."""
    if len(document_id) > MAX_ID_CHARS or not document_id.isprintable() or not document_id.strip():
        raise InvalidInput(
            f"A document id has 1 to {MAX_ID_CHARS} printable characters, not {document_id!r:.80}."
        )


def file_size(path: Path, limit: int) -> int:
    """Bytes of a file. Raises TooLarge above `limit`, NotFound for what is no readable file."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):  # a device or a pipe might never end
        raise NotFound(f"{path} cannot be read: it is not a file.")
    if found.st_size > limit:
        raise too_large(path.name, found.st_size, limit)
    return found.st_size


def as_text(name: str) -> str:
    """A file name whose bytes are no UTF-8, as on old disks, in a form that a database takes."""
    return name.encode("utf8", "surrogateescape").decode("utf8", "backslashreplace")


def _named(path: Path, selection: Selection) -> Iterator[Path]:
    if selection.takes_name(path.name):
        yield path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, a folder that may not be searched
        return False


def _read(path: Path, limit: int) -> bytes:
    file_size(path, limit)
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError | ValueError) -> NotFound:
    """The error for a file that the system does not let us read."""
    return NotFound(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.")


def too_large(name: str, size: int, limit: int) -> TooLarge:
    """The error for a file above the limit; both are bytes."""
    return TooLarge(
        f"{name} has {size / 2**20:.1f} MB, the limit is {limit / 2**20:.1f} MB.",
        hint="Split it, or raise RAG_MAX_FILE_BYTES.",
    )
