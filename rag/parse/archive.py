"""Zip containers (Office, OpenDocument, EPUB): opening them without falling for a bomb."""

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from rag.errors import EncryptedDocument, MalformedDocument, TooLarge

MAX_UNPACKED_BYTES = 500_000_000
# Repetitive sheets reach 100 to 1; a bomb has thousands. Small members may be as repetitive as
# they like.
_MAX_RATIO = 1_000
_RATIO_MATTERS_FROM = 20_000_000
_ENCRYPTED_FLAG = 0x1
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/(\w+)")

_WORD = b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
_SLIDES = b"application/vnd.openxmlformats-officedocument.presentationml.presentation.main+xml"
_CONTENT_TYPES = {
    b"application/vnd.ms-word.document.macroEnabled.main+xml": _WORD,
    b"application/vnd.ms-word.template.macroEnabledTemplate.main+xml": _WORD,
    _WORD.replace(b"document.main", b"template.main"): _WORD,
    b"application/vnd.ms-powerpoint.slideshow.macroEnabled.main+xml": _SLIDES,
    _SLIDES.replace(b"presentation.main", b"slideshow.main"): _SLIDES,
    _SLIDES.replace(b"presentation.main", b"template.main"): _SLIDES,
}


@contextmanager
def open_archive(data: bytes) -> Iterator[zipfile.ZipFile]:
    """The opened container.

    Raises MalformedDocument for a damaged one, here or while members are read, TooLarge when it
    unpacks to more than `MAX_UNPACKED_BYTES`, EncryptedDocument when members need a password.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_bombs(archive, len(data))
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise MalformedDocument(
            f"The container is damaged: {str(error).rstrip('.')}.",
            hint="Was the file uploaded completely?",
        ) from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    """A member's bytes, None when there is no such member."""
    try:
        return archive.read(name)
    except KeyError:
        return None


def checked_office_file(data: bytes) -> io.BytesIO:
    """An Office file that is safe to unpack and that the Office libraries accept.

    They know only the Transitional namespaces, and refuse templates, slide shows and documents
    with macros for their content type alone: both are rewritten.
    """
    with open_archive(data) as archive:
        relations = read_member(archive, "_rels/.rels") or b""
        types = read_member(archive, "[Content_Types].xml") or b""
        if _STRICT.search(relations) or any(kind in types for kind in _CONTENT_TYPES):
            return _rewritten(archive)
    return io.BytesIO(data)


def _refuse_bombs(archive: zipfile.ZipFile, packed: int) -> None:
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES:
        raise TooLarge(f"The file unpacks to {unpacked:,} bytes, over {MAX_UNPACKED_BYTES:,}.")
    if unpacked > max(_RATIO_MATTERS_FROM, packed * _MAX_RATIO):
        raise TooLarge(f"The file unpacks to {unpacked // max(1, packed)} times its size.")
    if any(member.flag_bits & _ENCRYPTED_FLAG for member in members):
        raise EncryptedDocument(
            "The container is encrypted, and passwords of such files cannot be used.",
            hint="Save it without one.",
        )


def _rewritten(archive: zipfile.ZipFile) -> io.BytesIO:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as copy:
        for member in archive.infolist():
            content = archive.read(member)
            if member.filename.endswith((".xml", ".rels")):
                content = _STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/\2", content)
            if member.filename == "[Content_Types].xml":
                for special, plain in _CONTENT_TYPES.items():
                    content = content.replace(special, plain)
            copy.writestr(member.filename, content)
    target.seek(0)
    return target
