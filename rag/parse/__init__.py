"""Bytes -> Document. Parsers load on first use: importing this package is cheap."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

from rag.errors import EmptyDocument, MalformedDocument, RagError
from rag.parse import detect
from rag.parse.clean import replace_unstorable
from rag.parse.draft import Draft
from rag.parse.locked import is_locked_office, unlock_office
from rag.parse.options import Options
from rag.types import Document

# Part of the pipeline fingerprint: raise it when the same bytes would become another text.
PARSER = 2

Reader = Callable[[bytes, Draft], None]

_READERS = {
    detect.PDF: "pdf.parse_pdf",
    detect.DOCX: "word.parse_word",
    detect.PPTX: "slides.parse_slides",
    detect.XLSX: "sheet.parse_sheet",
    detect.ODT: "opendocument.parse_opendocument",
    detect.ODS: "opendocument.parse_opendocument",
    detect.ODP: "opendocument.parse_opendocument",
    detect.EPUB: "epub.parse_epub",
    detect.PLAIN: "text.parse_text",
    detect.MARKDOWN: "markdown.parse_markdown",
    detect.HTML: "html.parse_html",
    detect.XML: "xml.parse_xml",
    detect.CSV: "delimited.parse_csv",
    detect.TSV: "delimited.parse_csv",
    detect.JSON: "records.parse_json",
    detect.JSONL: "records.parse_jsonl",
    detect.NOTEBOOK: "records.parse_notebook",
    detect.EMAIL: "mail.parse_mail",
    detect.PNG: "image.parse_image",
    detect.JPEG: "image.parse_image",
    detect.TIFF: "image.parse_image",
}


def parse_document(
    data: bytes,
    *,
    name: str,
    media_type: str | None = None,
    title: str | None = None,
    max_chars: int = 10_000_000,
    options: Options = Options(),  # noqa: B008 - frozen
) -> Document:
    """Turn a file into text with page and heading offsets, and the files that it encloses.

    The content decides what it is, then the name, then `media_type` as declared by the sender.
    Raises a ParseError that says why a file cannot be read, TooLarge above `max_chars` characters
    or for a container that unpacks to too much.
    """
    if not data.strip():
        raise EmptyDocument(f"{name or 'The file'} is empty.")
    if is_locked_office(data):
        with _blamed_on(name):
            data = unlock_office(data, options.password)
    detected = detect.detect(data, name=name, media_type=media_type)
    draft = Draft(max_chars=max_chars, options=options)
    if detected.warning:
        draft.warn(detected.warning)
    _read(detected.media_type, data, draft, name)
    return draft.document(title=title, name=name, media_type=detected.media_type)


def text_document(text: str, *, title: str = "", media_type: str = "text/plain") -> Document:
    """A document of text that the caller already has; offsets count the caller's characters.

    Nothing is moved or normalised. NULs and lone surrogates, which nothing can store, become
    U+FFFD one for one, with a warning. Raises EmptyDocument for blank text.
    """
    if not text.strip():
        raise EmptyDocument("The text is blank.")
    storable, replaced = replace_unstorable(text)
    warnings = (f"{replaced} characters that cannot be stored were replaced.",) if replaced else ()
    return Document(text=storable, title=title, media_type=media_type, warnings=warnings)


def _read(media_type: str, data: bytes, draft: Draft, name: str) -> None:
    module, _, function = _READERS[media_type].partition(".")
    read: Reader = getattr(import_module(f"rag.parse.{module}"), function)
    with _blamed_on(name):
        read(data, draft)


@contextmanager
def _blamed_on(name: str) -> Iterator[None]:
    """Whatever a format library raises on hostile bytes is the document's fault."""
    try:
        yield
    except (RagError, MemoryError, NameError, ImportError):
        raise  # never the document's fault
    except Exception as error:
        raise MalformedDocument(
            f"{name or 'The file'} cannot be read: {type(error).__name__}: {error}",
            hint="Open it in the program that made it and save it again.",
        ) from error
