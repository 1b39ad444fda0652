"""EPUB: the chapters of a book in the order of its spine."""

import posixpath
from urllib.parse import unquote
from zipfile import ZipFile

from lxml import etree

from rag.errors import EncryptedDocument, MalformedDocument
from rag.parse.archive import open_archive, read_member
from rag.parse.decode import decode
from rag.parse.draft import Draft
from rag.parse.html import write_html
from rag.parse.xml import read_xml

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_CHAPTER_TYPES = frozenset({"application/xhtml+xml", "text/html"})
_METADATA = {"author": "creator", "created": "date", "language": "language"}


def parse_epub(data: bytes, draft: Draft) -> None:
    """Read a book. Raises EncryptedDocument when its chapters are protected."""
    with open_archive(data) as archive:
        path = _package_path(archive)
        package = read_xml(_required(archive, path))
        _read_properties(package, draft)
        chapters = _chapters(package, posixpath.dirname(path))
        _refuse_protected(archive, chapters)
        for chapter in chapters:
            content = read_member(archive, chapter)
            if content is None:
                draft.warn(f"The chapter {chapter} is missing.")
            else:
                write_html(decode(content).text, draft)


def _package_path(archive: ZipFile) -> str:
    container = read_xml(_required(archive, _CONTAINER))
    for rootfile in container.iter("{*}rootfile"):
        path = rootfile.get("full-path")
        if path:
            return str(path)
    raise MalformedDocument("The book names no package file.")


def _required(archive: ZipFile, name: str) -> bytes:
    content = read_member(archive, name)
    if content is None:
        raise MalformedDocument(f"The book lacks its file {name}.")
    return content


def _read_properties(package: etree._Element, draft: Draft) -> None:
    draft.title = _property(package, "title")
    for key, name in _METADATA.items():
        draft.metadata[key] = _property(package, name)


def _property(package: etree._Element, name: str) -> str:
    element = package.find(f".//{{http://purl.org/dc/elements/1.1/}}{name}")
    return (element.text or "").strip() if element is not None else ""


def _chapters(package: etree._Element, folder: str) -> list[str]:
    """Paths of the chapters inside the archive, in reading order."""
    paths = {
        item.get("id"): posixpath.normpath(posixpath.join(folder, unquote(item.get("href", ""))))
        for item in package.iter("{*}item")
        if item.get("media-type") in _CHAPTER_TYPES
    }
    order = (itemref.get("idref") for itemref in package.iter("{*}itemref"))
    return [paths[identifier] for identifier in order if identifier in paths]


def _refuse_protected(archive: ZipFile, chapters: list[str]) -> None:
    """Books list what is encrypted; fonts nearly always are, chapters only under protection."""
    listing = read_member(archive, _ENCRYPTION)
    if listing is None:
        return
    references = read_xml(listing).iter("{*}CipherReference")
    if {unquote(reference.get("URI", "")) for reference in references} & set(chapters):
        raise EncryptedDocument("The book is copy-protected.", hint="Only its seller can open it.")
