"""Which type a file is: content first, then name, then declared type, then its words."""

import json
import re
from dataclasses import dataclass
from pathlib import PureWindowsPath

from rag.errors import EncryptedDocument, MalformedDocument, UnsupportedType
from rag.parse.archive import open_archive, read_member
from rag.parse.decode import decode, is_binary
from rag.parse.locked import OLE2, is_locked_office, needs_password

_OOXML = "application/vnd.openxmlformats-officedocument"
_ODF = "application/vnd.oasis.opendocument"
PDF = "application/pdf"
DOCX = f"{_OOXML}.wordprocessingml.document"
PPTX = f"{_OOXML}.presentationml.presentation"
XLSX = f"{_OOXML}.spreadsheetml.sheet"
ODT = f"{_ODF}.text"
ODS = f"{_ODF}.spreadsheet"
ODP = f"{_ODF}.presentation"
EPUB = "application/epub+zip"
PLAIN = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
XML = "application/xml"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSONL = "application/x-ndjson"
NOTEBOOK = "application/x-ipynb+json"
EMAIL = "message/rfc822"
PNG = "image/png"
JPEG = "image/jpeg"
TIFF = "image/tiff"
IMAGES = frozenset({PNG, JPEG, TIFF})  # read by OCR

_BINARY_EXTENSIONS = {
    "pdf": PDF,
    "docx": DOCX,
    "docm": DOCX,
    "dotx": DOCX,
    "pptx": PPTX,
    "pptm": PPTX,
    "ppsx": PPTX,
    "xlsx": XLSX,
    "xlsm": XLSX,
    "odt": ODT,
    "ods": ODS,
    "odp": ODP,
    "epub": EPUB,
    "png": PNG,
    "jpg": JPEG,
    "jpeg": JPEG,
    "tif": TIFF,
    "tiff": TIFF,
}
_TEXT_EXTENSIONS = {
    "txt": PLAIN,
    "text": PLAIN,
    "log": PLAIN,
    "rst": PLAIN,
    "md": MARKDOWN,
    "markdown": MARKDOWN,
    "html": HTML,
    "htm": HTML,
    "xhtml": HTML,
    "xml": XML,
    "csv": CSV,
    "tsv": TSV,
    "tab": TSV,
    "json": JSON,
    "jsonl": JSONL,
    "ndjson": JSONL,
    "ipynb": NOTEBOOK,
    "eml": EMAIL,
}
_DECLARED_ALIASES = {
    "text/x-markdown": MARKDOWN,
    "application/xhtml+xml": HTML,
    "text/xml": XML,
    "application/csv": CSV,
    "text/x-csv": CSV,
    "text/json": JSON,
    "application/jsonl": JSONL,
    "application/x-jsonlines": JSONL,
    "application/jsonlines": JSONL,
}
_TEXT_TYPES = frozenset(_TEXT_EXTENSIONS.values())
# fmt: off
SUPPORTED = ", ".join([
    "pdf", "docx", "pptx", "xlsx", "odt", "ods", "odp", "epub", "html", "md", "txt", "rst",
    "log", "csv", "tsv", "json", "jsonl", "ipynb", "xml", "eml",
])
# fmt: on

# Names of streams in an OLE2 container, with what to save the file as.
_OLE2_KINDS = (
    ("WordDocument", "a Word 97-2003 document (.doc)", "DOCX"),
    ("Workbook", "an Excel 97-2003 workbook (.xls)", "XLSX"),
    ("Book", "an Excel 5 workbook (.xls)", "XLSX"),
    ("PowerPoint Document", "a PowerPoint 97-2003 presentation (.ppt)", "PPTX"),
    ("__substg1.0_", "an Outlook message (.msg)", "EML"),
)
_UNREADABLE = (
    (b"{\\rtf", "Rich Text Format", "DOCX"),
    (b"GIF8", "a GIF image", ""),
    (b"RIFF", "a WebP image, sound or film", ""),
    (b"\x1f\x8b", "a gzip archive", ""),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive", ""),
    (b"Rar!", "a RAR archive", ""),
    (b"%!PS", "PostScript", "PDF"),
    (b"SQLite format 3", "an SQLite database", ""),
    (b"\x7fELF", "a program", ""),
    (b"PAR1", "a Parquet file", "CSV"),
)
_IMAGE_MAGIC = (
    (b"\x89PNG\r\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
)
# Folders of the main part, fixed by custom of every program that writes these files.
_OPEN_XML_FOLDERS = (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX))
_MAIL_HEAD = re.compile(
    r"(?:[A-Za-z][\w-]*:[^\n]*\n(?:[ \t]+[^\n]*\n)*)*?"
    r"(?:received|mime-version|message-id|return-path|delivered-to):",
    re.IGNORECASE,
)
_HTML_HEAD = re.compile(r"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)
_XML_HEAD = re.compile(r"\s*<\?xml\s")
_JSON_HEAD = re.compile(r"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\d\]-])")


@dataclass(frozen=True, slots=True)
class Detected:
    """The media type to parse as; `warning` says when name or declaration claim another."""

    media_type: str
    warning: str = ""


def detect(data: bytes, *, name: str, media_type: str | None = None) -> Detected:
    """Find the type by content, then name, then declaration, then the words of the text.

    Raises UnsupportedType for what no parser reads, EncryptedDocument for a locked Office file,
    MalformedDocument for bytes that cannot be what their name says.
    """
    extension = PureWindowsPath(name).suffix.lower().removeprefix(".")
    found = _by_magic(data, extension)
    if found:
        return Detected(found, _contradiction(found, extension))
    _refuse_binary(data, name, extension)
    return Detected(_text_type(data, extension, media_type))


def is_known(name: str) -> bool:
    """Whether a name promises a type that some parser reads."""
    extension = PureWindowsPath(name).suffix.lower().removeprefix(".")
    return extension in _BINARY_EXTENSIONS or extension in _TEXT_EXTENSIONS


def is_foreign(head: bytes) -> bool:
    """Whether the first bytes of a file, whose name is not known, show that no parser reads it.

    Parses nothing: where only parsing would tell, it is False.
    """
    if not head.strip() or head.startswith((b"PK\x03\x04", b"PK\x05\x06", OLE2)):
        return False
    if _is_pdf(head, "") or head.startswith(tuple(magic for magic, _ in _IMAGE_MAGIC)):
        return False
    return head.startswith(tuple(magic for magic, *_ in _UNREADABLE)) or is_binary(head)


def _by_magic(data: bytes, extension: str) -> str:
    """The type that the first bytes prove, "" when they prove none."""
    if _is_pdf(data, extension):
        return PDF
    if data.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_type(data, extension)
    if data.startswith(OLE2):
        raise _ole2_error(data)
    for magic, image in _IMAGE_MAGIC:
        if data.startswith(magic):
            return image
    for magic, words, better in _UNREADABLE:
        if data.startswith(magic):
            raise _unsupported(words, better)
    return ""


def _is_pdf(data: bytes, extension: str) -> bool:
    """Readers accept junk before the header; a text that merely quotes it is no PDF."""
    position = data[:1024].find(b"%PDF-")
    if position < 0:
        return False
    return not data[:position].strip() or extension == "pdf" or is_binary(data)


def _zip_type(data: bytes, extension: str) -> str:
    with open_archive(data) as archive:
        mimetype = (read_member(archive, "mimetype") or b"").strip().decode("ascii", "replace")
        if mimetype in (EPUB, ODT, ODS, ODP):
            return mimetype
        members = archive.namelist()
        if "[Content_Types].xml" in members:
            return _open_xml_type(members)
        if "META-INF/container.xml" in members:
            return EPUB
    if extension in _BINARY_EXTENSIONS and extension != "pdf":
        raise MalformedDocument(f"A zip archive that holds no {extension} document.")
    raise _unsupported("a zip archive", "", hint="Unpack it and send the files in it.")


def _open_xml_type(members: list[str]) -> str:
    if "xl/workbook.bin" in members:
        raise _unsupported("a binary Excel workbook (.xlsb)", "XLSX")
    for folder, found in _OPEN_XML_FOLDERS:
        if any(member.startswith(folder) for member in members):
            return found
    raise _unsupported("an Office Open XML file of another kind", "")


def _ole2_error(data: bytes) -> EncryptedDocument | UnsupportedType:
    if is_locked_office(data):
        return needs_password("The Office document")
    for stream, words, better in _OLE2_KINDS:
        if stream.encode("utf-16-le") in data:
            return _unsupported(words, better)
    return _unsupported("an OLE2 container of another kind", "")


def _unsupported(words: str, better: str, *, hint: str = "") -> UnsupportedType:
    advice = hint or (f"Save it as {better}." if better else "")
    return UnsupportedType(f"This is {words}.", hint=f"{advice} Supported: {SUPPORTED}.".strip())


def _contradiction(found: str, extension: str) -> str:
    claimed = _BINARY_EXTENSIONS.get(extension) or _TEXT_EXTENSIONS.get(extension)
    legacy = extension in ("doc", "ppt", "xls")
    if (claimed is None or claimed == found) and not legacy:
        return ""
    kind = next(key for key, value in _BINARY_EXTENSIONS.items() if value == found)
    return f"Named .{extension} but is a {kind.upper()} file: read as {kind.upper()}."


def _refuse_binary(data: bytes, name: str, extension: str) -> None:
    """Only text may pass, and only under a name that does not promise another format."""
    if not data.strip():
        return
    if extension in _BINARY_EXTENSIONS:
        raise MalformedDocument(
            f"{name} does not hold what its extension .{extension} says.",
            hint="Was it downloaded completely? If it is text, name it .txt or .html.",
        )
    if not is_binary(data):
        return
    if extension in _TEXT_EXTENSIONS:
        raise MalformedDocument(f"{name} is named .{extension} but holds binary data, not text.")
    raise UnsupportedType(
        f"{name or 'The file'} holds binary data of an unknown type.",
        hint=f"Supported: {SUPPORTED}.",
    )


def _text_type(data: bytes, extension: str, media_type: str | None) -> str:
    declared = (media_type or "").partition(";")[0].strip().lower()
    declared = _DECLARED_ALIASES.get(declared, declared)
    by_name = _TEXT_EXTENSIONS.get(extension)
    if by_name == XML:
        return _by_words(data, default=XML)
    if by_name and by_name != PLAIN:
        return by_name
    # text/plain is what clients declare when they do not know.
    if declared in _TEXT_TYPES and declared != PLAIN:
        return declared
    if by_name:
        return by_name
    return _by_words(data, default=PLAIN)


def _by_words(data: bytes, *, default: str) -> str:
    head = decode(data[:4096]).text.removeprefix("\ufeff")
    if _HTML_HEAD.match(head):
        return HTML
    if _XML_HEAD.match(head):
        return HTML if re.search(r"<html\b", head, re.IGNORECASE) else XML
    if default == XML:
        return XML
    if _JSON_HEAD.match(head) and _is_json(data):
        return JSON
    if _MAIL_HEAD.match(head):
        return EMAIL
    return default


def _is_json(data: bytes) -> bool:
    try:
        json.loads(decode(data).text)
    except (ValueError, RecursionError):
        return False
    return True
