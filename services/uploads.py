"""The body of POST /v1/documents -> what is to be ingested."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from rag.errors import InvalidInput, TooLarge
from rag.jobs import Upload
from rag.settings import Settings
from rag.sources import Source, check_id, check_metadata, derived_id
from services.limits import FORM_BYTES
from services.problems import MalformedBody, is_json
from services.schemas import DocumentIn, DocumentsRequest, UploadFields

FILE_FIELDS = ("files", "file")

M = TypeVar("M", bound=BaseModel)


async def read(request: Request, settings: Settings) -> tuple[str, list[Upload]]:
    """(collection, uploads), everything about them checked that needs no parsing.

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


def close(uploads: Sequence[Upload]) -> None:
    """Let the files of uploads go that will not be ingested."""
    for upload in uploads:
        upload.close()


def _read_json(body: bytes, settings: Settings) -> tuple[str, list[Upload]]:
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MalformedBody(f"The body is not JSON: {error}.") from None
    given = _validated(DocumentsRequest, sent)
    uploads = [Upload(_source(document)) for document in given.documents]
    _check(uploads, settings)
    return given.collection, uploads


def _source(given: DocumentIn) -> Source:
    name = given.source or given.title or "text"
    identity = given.id
    if identity is None and given.source is None:
        # Nothing names it: the same text again is the same document.
        digest = hashlib.sha256(given.text.encode("utf8", "surrogatepass")).hexdigest()
        identity = derived_id(given.title or "text", digest)
    return Source(
        name=name,
        origin=given.source or "",
        id=identity or "",
        title=given.title,
        metadata=given.metadata,
        text=given.text,
    )


async def _form(request: Request, settings: Settings) -> FormData:
    try:
        return await request.form(
            max_files=settings.max_documents, max_fields=16, max_part_size=FORM_BYTES
        )
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise _too_many(settings) from None
        raise


def _read_form(form: FormData, settings: Settings) -> tuple[str, list[Upload]]:
    files = _files(form)
    given = _validated(UploadFields, _fields(form))
    if given.id and len(files) > 1:
        raise InvalidInput("An id names one document, and several files were sent.")
    uploads = [_upload(file, given, settings) for file in files]
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
    """The fields beside the files, `metadata` parsed; an empty one counts as not sent."""
    fields: dict[str, Any] = {k: v for k, v in form.items() if k not in FILE_FIELDS and v != ""}
    if isinstance(fields.get("metadata"), str):
        try:
            fields["metadata"] = json.loads(fields["metadata"])
        except (ValueError, RecursionError) as error:
            raise InvalidInput(
                f"The field 'metadata' is not JSON: {error}.",
                hint='Write it as {"author": "..."}.',
            ) from None
    return fields


def _upload(file: UploadFile, given: UploadFields, settings: Settings) -> Upload:
    origin = file.filename or ""
    if not origin.isprintable() or not origin.strip():
        raise InvalidInput(f"A file needs a printable name, not {origin!r:.80}.")
    if (file.size or 0) > settings.max_file_bytes:
        raise TooLarge(
            f"{origin} has {file.size} bytes, the limit is {settings.max_file_bytes}.",
            hint="Split it, or raise RAG_MAX_FILE_BYTES.",
        )
    source = Source(
        name=PurePosixPath(origin.replace("\\", "/")).name or origin,
        origin=origin,
        id=given.id or "",
        title=given.title,
        media_type=file.content_type,
        metadata=given.metadata,
        password=given.password,
    )
    return Upload(source, file.file)


def _check(uploads: Sequence[Upload], settings: Settings) -> None:
    if len(uploads) > settings.max_documents:
        raise _too_many(settings)
    for upload in uploads:
        check_id(upload.source.document_id)
        check_metadata(upload.source.metadata, settings.max_metadata_bytes)


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
                },
            }
        },
    },
}
