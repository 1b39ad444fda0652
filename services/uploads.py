"""The bodies of POST /v1/documents and PUT /v1/documents/{id} -> what is to be ingested."""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rag.errors import InvalidInput, RagError, TooLarge
from rag.fetch import FetchLimits, check_url, disposition_name, fetch, named, url_name
from rag.jobs import Upload
from rag.settings import Settings
from rag.sources import Source, check_id, check_metadata, derived_id
from services.kinds import MalformedBody
from services.limits import FORM_BYTES
from services.problems import is_json
from services.schemas import DocumentIn, DocumentsRequest, DocumentText, UploadFields

FILE_FIELDS = ("files", "file")
SPOOL_BYTES = 2**20  # of a body that stay in memory; beyond that it is a file
_UNSAID = "application/x-www-form-urlencoded"  # curl's for any body: it says nothing
UNKNOWN_TYPE = "application/octet-stream"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Remote:
    """A document whose bytes are yet to be fetched."""

    source: Source
    url: str

    def close(self) -> None:
        """It holds nothing."""


Sent = Upload | Remote


async def read(request: Request, settings: Settings) -> tuple[str, list[Sent]]:
    """(collection, documents), everything about them checked that needs no parsing or fetching.

    The files of the uploads are open and the caller's to close. Raises InvalidInput, TooLarge.
    """
    content_type = request.headers.get("content-type", "")
    if is_json(content_type):
        body = await request.body()
        # Megabytes of JSON would keep the event loop busy.
        return await asyncio.to_thread(_read_json, body, settings)
    if content_type.casefold().startswith("multipart/form-data"):
        form = await _form(request, settings)
        try:
            return _read_form(form, settings)
        except BaseException:
            await form.close()
            raise
    raise HTTPException(415, "This route reads application/json and multipart/form-data.")


async def read_one(
    request: Request, document_id: str, name: str, fields: Mapping[str, Any], settings: Settings
) -> Upload:
    """The document that a body is, streamed into a file; `fields` are those of `UploadFields`.

    The file is the caller's to close. Raises InvalidInput, TooLarge.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.casefold().startswith("multipart/"):
        raise HTTPException(
            415, "This route reads the document itself; POST /v1/documents reads forms."
        )
    if is_json(content_type):
        body = await request.body()
        upload = await asyncio.to_thread(_read_text, body, document_id, name, fields)
        _check([upload], settings)
        return upload
    given = _validated(UploadFields, fields)
    name = name or disposition_name(request.headers.get("content-disposition", ""))
    origin = _checked_name(name or document_id.rstrip("/").rpartition("/")[2] or document_id)
    source = Source(
        name=_file_name(origin),
        origin=origin,
        id=document_id,
        title=given.title,
        media_type=_media_type(content_type),
        metadata=given.metadata,
    )
    _check([Upload(source)], settings)
    spooled = SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 - whoever gets it closes it
    file = UploadFile(cast(BinaryIO, spooled))
    try:
        async for piece in request.stream():
            await file.write(piece)
    except ClientDisconnect:
        await file.close()
        raise MalformedBody("The body ended early.") from None
    except BaseException:
        await file.close()
        raise
    return Upload(source, file.file)


def close(sent: Sequence[Sent]) -> None:
    """Let the files of uploads go that will not be ingested."""
    for one in sent:
        one.close()


def fetched(sent: Sequence[Sent], settings: Settings) -> list[Upload]:
    """The documents with the bytes of those that are named by URLs; blocks until they are there.

    Raises FetchFailed, InvalidInput and TooLarge, saying which document is meant; then all are
    closed.
    """
    uploads: list[Upload] = []
    left, until = settings.max_file_bytes, time.monotonic() + settings.fetch_seconds
    try:
        for position, one in enumerate(sent):
            if isinstance(one, Upload):
                uploads.append(one)
                continue
            limits = FetchLimits(
                max_bytes=left,
                seconds=max(0.0, until - time.monotonic()),
                redirects=settings.fetch_redirects,
                private=settings.fetch_private,
            )
            try:
                found = fetch(one.url, limits)
            except RagError as error:
                raise named(error, f"documents.{position}") from error
            source = replace(one.source, name=found.name, media_type=found.media_type)
            uploads.append(Upload(source, found.file))
            left -= found.size
    except BaseException:
        close(uploads)
        raise
    return uploads


def _read_json(body: bytes, settings: Settings) -> tuple[str, list[Sent]]:
    given = _validated(DocumentsRequest, _parsed(body))
    sent = [_sent(document) for document in given.documents]
    _check(sent, settings)
    return given.collection, sent


def _read_text(body: bytes, document_id: str, name: str, fields: Mapping[str, Any]) -> Upload:
    """The text of a JSON body; its title and metadata win over those of the address."""
    sent = _parsed(body)
    around = {key: value for key, value in fields.items() if key in ("title", "metadata")}
    given = _validated(DocumentText, {**around, **sent} if isinstance(sent, dict) else sent)
    source = Source(
        name=name or given.title or "text",
        origin=_checked_name(name) if name else "",
        id=document_id,
        title=given.title,
        metadata=given.metadata,
        text=given.text,
    )
    return Upload(source)


def _parsed(body: bytes) -> Any:  # noqa: ANN401 - any JSON
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None


def _sent(given: DocumentIn) -> Sent:
    if given.url is not None:
        return _remote(given, given.url)
    assert given.text is not None  # the schema sees to it
    name = given.source or given.title or "text"
    identity = given.id
    if identity is None and given.source is None:
        # Nothing names it: the same text again is the same document.
        digest = hashlib.sha256(given.text.encode("utf8", "surrogatepass")).hexdigest()
        identity = derived_id(given.title or "text", digest)
    source = Source(
        name=name,
        origin=given.source or "",
        id=identity or "",
        title=given.title,
        metadata=given.metadata,
        text=given.text,
    )
    return Upload(source)


def _remote(given: DocumentIn, url: str) -> Remote:
    check_url(url)
    name = url_name(url)
    source = Source(
        name=name,
        origin=url,
        # Not by the name that the answer gives: the same URL again is the same document.
        id=given.id or derived_id(name, url),
        title=given.title,
        metadata=given.metadata,
    )
    return Remote(source, url)


async def _form(request: Request, settings: Settings) -> FormData:
    try:
        return await request.form(
            max_files=settings.max_documents, max_fields=16, max_part_size=FORM_BYTES
        )
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise _too_many(settings) from None
        raise


def _read_form(form: FormData, settings: Settings) -> tuple[str, list[Sent]]:
    files = _files(form)
    given = _validated(UploadFields, _fields(form))
    if given.id and len(files) > 1:
        raise InvalidInput("An id names one document, and several files were sent.")
    origins = given.sources or [file.filename or "" for file in files]
    if len(origins) != len(files):
        raise InvalidInput(f"There are {len(files)} files and {len(origins)} sources.")
    pairs = zip(files, origins, strict=True)
    uploads: list[Sent] = [_upload(file, origin, given, settings) for file, origin in pairs]
    _check(uploads, settings)
    return given.collection, uploads


def _files(form: FormData) -> list[UploadFile]:
    found = [value for name in FILE_FIELDS for value in form.getlist(name)]
    files = [value for value in found if isinstance(value, UploadFile)]
    if not files or len(files) < len(found):
        raise InvalidInput(
            "The form needs its documents as files in the field 'files'.",
            hint="With curl: -F files=@handbook.pdf",
        )
    return files


def _fields(form: FormData) -> dict[str, Any]:
    """The fields beside the files, those in JSON parsed; an empty one counts as not sent."""
    return fields_of({k: v for k, v in form.items() if k not in FILE_FIELDS})


def fields_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a form or an address, those in JSON parsed; an empty one counts as not sent."""
    fields = {k: v for k, v in given.items() if v not in ("", None)}
    for name, example in (("metadata", '{"author": "..."}'), ("sources", '["shelf/a.md"]')):
        if isinstance(fields.get(name), str):
            try:
                fields[name] = json.loads(fields[name])
            except (ValueError, RecursionError) as error:
                raise InvalidInput(
                    f"The field {name!r} is not JSON: {error}.", hint=f"Write it as {example}."
                ) from None
    return fields


def _upload(file: UploadFile, origin: str, given: UploadFields, settings: Settings) -> Upload:
    # A name that comes with the file may be written to deceive; a source is only kept.
    if not given.sources:
        _checked_name(origin)
    elif not origin.strip():
        raise InvalidInput("A source needs a name.")
    if (file.size or 0) > settings.max_file_bytes:
        raise TooLarge(
            f"{origin} has {file.size} bytes, the limit is {settings.max_file_bytes}.",
            hint="Split it, or raise RAG_MAX_FILE_BYTES.",
        )
    source = Source(
        # A path is one as it is; Windows browsers send theirs with backslashes.
        name=PurePosixPath(origin).name or origin if given.sources else _file_name(origin),
        origin=origin,
        id=given.id or "",
        title=given.title,
        # This type says as much as none.
        media_type=None if file.content_type == UNKNOWN_TYPE else file.content_type,
        metadata=given.metadata,
        password=given.password,
    )
    return Upload(source, file.file)


def _media_type(content_type: str) -> str | None:
    return None if content_type.casefold().startswith(_UNSAID) else content_type or None


def _checked_name(name: str) -> str:
    if not name.isprintable() or not name.strip():
        raise InvalidInput(f"A file needs a printable name, not {name!r:.80}.")
    return name


def _file_name(origin: str) -> str:
    return PurePosixPath(origin.replace("\\", "/")).name or origin


def _check(sent: Sequence[Sent], settings: Settings) -> None:
    if len(sent) > settings.max_documents:
        raise _too_many(settings)
    remote = sum(isinstance(one, Remote) for one in sent)
    if remote > settings.fetch_documents:
        raise TooLarge(
            f"One request takes at most {settings.fetch_documents} documents by URL.",
            hint="Send them in several, or raise RAG_FETCH_DOCUMENTS.",
        )
    for one in sent:
        check_id(one.source.document_id)
        check_metadata(one.source.metadata, settings.max_metadata_bytes)


def _too_many(settings: Settings) -> TooLarge:
    return TooLarge(
        f"One request takes at most {settings.max_documents} documents.",
        hint="Send them in several, or raise RAG_MAX_DOCUMENTS.",
    )


def _validated(model: type[M], sent: object) -> M:
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found, body=sent) from None


def _json_schema() -> dict[str, Any]:
    """The schema of the JSON body in one piece, as a hand-written request body needs it."""
    schema = DocumentsRequest.model_json_schema()
    schema["properties"]["documents"]["items"] = schema.pop("$defs")["DocumentIn"]
    return schema


REQUEST_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": _json_schema(),
            "examples": {
                "text": {
                    "summary": "A text",
                    "value": {
                        "collection": "default",
                        "documents": [
                            {
                                "id": "bell-rock",
                                "title": "Bell Rock",
                                "text": "Robert Stevenson built the Bell Rock lighthouse between"
                                " 1807 and 1811. It stands 35 metres high off the coast of"
                                " Angus and was lit for the first time in February 1811.",
                                "source": "https://example.org/bell-rock",
                                "metadata": {"author": "Ragstone", "year": 2024},
                            }
                        ],
                    },
                }
            },
        },
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["files"],
                "properties": {
                    "files": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "A file of the same name again replaces the one before.",
                    },
                    "collection": {"type": "string", "default": "default"},
                    "metadata": {
                        "type": "string",
                        "description": "A JSON object, for all files.",
                        "examples": ['{"author": "Stevenson"}'],
                    },
                    "id": {"type": "string", "description": "For a single file."},
                    "title": {"type": "string", "description": "For a single file."},
                    "password": {
                        "type": "string",
                        "format": "password",
                        "description": "Opens files that have one (PDF, DOCX, XLSX, PPTX), also"
                        " those attached to a mail. Kept only until the document is made.",
                    },
                    "sources": {
                        "type": "string",
                        "description": "A JSON list: where each file came from, in their order. It"
                        " is what a document is known by; left out, it is the file's name.",
                        "examples": ['["/srv/handbook/crane.pdf"]'],
                    },
                },
            }
        },
    },
}

PUT_BODY: dict[str, Any] = {
    "required": True,
    "description": "The document itself, its media type as Content-Type; or a text as JSON.",
    "content": {
        "*/*": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {
            "schema": DocumentText.model_json_schema(),
            "examples": {
                "text": {
                    "summary": "A text",
                    "value": {
                        "text": "The Fastnet lighthouse was finished in 1904.",
                        "title": "Fastnet",
                        "metadata": {"sea": "celtic"},
                    },
                }
            },
        },
    },
}
