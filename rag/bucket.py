"""Originals and parsed texts in a bucket: S3 and what speaks its protocol, or another object store
that fsspec knows.

An object store makes an object visible whole or not at all, and answers when it is durable, so the
promises of `rag/objects.py` need no more than to take back what an error interrupts.
"""

import errno
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, BinaryIO

import fsspec

from rag.errors import InvalidInput, MissingExtra, NotFound, RagError, StorageFull, StoreUnreachable
from rag.objects import COPY_BYTES, digest

_EXTRAS = {"s3": ("s3fs", "s3")}  # protocol -> its package, our extra that installs it
_LOCAL = ("file", "local")


class Bucket:
    """`<root>/<first two digits>/<digest>`. Thread-safe."""

    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self._root = root.rstrip("/")

    def put(self, data: bytes) -> str:
        """Keep `data` and return its digest."""
        name = digest(data)
        self.put_file(BytesIO(data), name)
        return name

    def put_file(self, file: BinaryIO, name: str) -> None:
        """Keep what is in a file from its beginning on; `name` is its `digest_of`."""
        path = self._path(name)
        with self._translated():
            if self._files.exists(path):
                return
            file.seek(0)
            # Not `with`: that would finish the object with what came before an error.
            made = self._files.open(path, "wb", autocommit=False)
            try:
                shutil.copyfileobj(file, made, COPY_BYTES)
                made.close()
                made.commit()
            except BaseException:
                made.discard()
                raise

    def get(self, name: str) -> bytes:
        """The bytes of a digest. Raises NotFound."""
        try:
            with self._translated():
                return bytes(self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            raise self._missing(name) from None

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The bytes of a digest as a file, fetched for the length of the block. Raises NotFound."""
        with TemporaryDirectory(prefix="ragstone-") as folder:
            path = Path(folder) / name
            try:
                with self._translated():
                    self._files.get_file(self._path(name), str(path))
            except FileNotFoundError:
                raise self._missing(name) from None
            yield path

    def has(self, name: str) -> bool:
        """Whether the bytes of a digest are kept."""
        with self._translated():
            return bool(self._files.exists(self._path(name)))

    def names(self) -> Iterator[str]:
        """The digest of everything that is kept."""
        with self._translated():
            found = self._files.find(self._root)
        for path in found:
            yield PurePosixPath(path).name

    def unfinished(self) -> Iterator[Path]:
        """None that can be seen: a bucket's own rule lets go of uploads that were not finished."""
        return iter(())

    def delete(self, name: str) -> None:
        """Forget an object; nothing happens when there is none."""
        try:
            with self._translated():
                self._files.rm_file(self._path(name))
        except FileNotFoundError:
            pass

    def delete_unfinished(self) -> None:
        """Nothing; see `unfinished`."""

    def fill(self, name: str, pieces: Iterable[bytes]) -> None:
        """Keep pieces under their digest."""
        with TemporaryFile() as file:
            file.writelines(pieces)
            self.put_file(file, name)

    def sync(self) -> None:
        """Nothing: what is there is there for good."""

    def _missing(self, name: str) -> NotFound:
        return NotFound(
            f"The object {name} is missing from {self._root}.",
            hint="Restore it from a backup, or ingest the document again.",
        )

    def _path(self, name: str) -> str:
        return f"{self._root}/{name[:2]}/{name}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (RagError, FileNotFoundError):
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"{self._root} has no room left.") from error
            raise self._unreachable(error) from error
        except Exception as error:
            # botocore's errors, aiohttp's and their like share no class that could be named here.
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> StoreUnreachable:
        what = str(error) or type(error).__name__
        return StoreUnreachable(
            "The object store does not answer.",
            hint="Check RAG_OBJECTS_URL, RAG_OBJECTS_OPTIONS and the credentials.",
            inside=f"{self._root}: {what}",
        )


def open_bucket(url: str, options: Mapping[str, Any]) -> Bucket:
    """The bucket of a URL such as s3://bucket/folder; `options` go to fsspec's file system.

    Raises InvalidInput for a protocol that it does not know, MissingExtra.
    """
    protocol = url.partition("://")[0]
    if protocol in _LOCAL:
        raise InvalidInput(
            f"RAG_OBJECTS_URL={url} is a folder.",
            hint="Leave it out: folders are kept below RAG_DATA, where they are synced.",
        )
    package, extra = _EXTRAS.get(protocol, ("", ""))
    if package and find_spec(package) is None:
        raise MissingExtra(
            f"{url} needs {package}.", hint=f'Install it: pip install "ragstone[{extra}]".'
        )
    # A listing that another process has changed since would be believed.
    given = {"use_listings_cache": False, **options}
    try:
        files, root = fsspec.url_to_fs(url, **given)
    except (ImportError, ValueError) as error:
        raise InvalidInput(
            f"RAG_OBJECTS_URL={url} cannot be used: {error}.", hint="For S3: s3://bucket/folder."
        ) from None
    return Bucket(files, root)
