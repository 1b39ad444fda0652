"""The routes by which documents come in."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from rag import collection as shelf
from rag.access import ACL
from rag.errors import NotFound
from rag.jobs import Upload
from rag.journal import Job
from services import uploads
from services.schemas import CollectionName, DocumentsResponse, ReportOut
from services.service import Service, Writing

router = APIRouter()

InCollection = Annotated[CollectionName, Query(alias="collection")]
Wait = Annotated[bool, Query(description="Answer when the documents are searchable.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        description="The same key again answers with the same job and does nothing more.",
    ),
]
_ACCEPTS: dict[str, Any] = {
    "status_code": 202,
    "response_model": DocumentsResponse,
    "response_model_exclude_none": True,
    "responses": {200: {"model": DocumentsResponse, "description": "With `wait`: all were tried."}},
}


@router.post("/documents", openapi_extra={"requestBody": uploads.REQUEST_BODY}, **_ACCEPTS)
async def add_documents(
    request: Request, response: Response, service: Writing, wait: Wait = False, key: Key = None
) -> DocumentsResponse:
    """Ingest texts or URLs (JSON) or files (multipart).

    The answer comes when all is on the disk: nothing is lost from then on, whatever happens to the
    service, and GET /v1/jobs/{job_id} says how it goes on. With `wait` it comes when the documents
    are searchable. A document that fails does not stop the others; a single one that fails while
    waited for is an error. The collection `default` is made on first use.

    A document named by its URL is fetched first, and when that fails nothing of the request is
    ingested. Hosts of private networks are refused unless the settings allow them.
    """
    settings = service.parts.settings
    collection, sent = await uploads.read(request, settings)
    try:
        await service.calls.run(partial(_check_collection, service, collection))
    except BaseException:
        uploads.close(sent)
        raise
    if any(isinstance(one, uploads.Remote) for one in sent):
        found = await service.fetches.run(partial(uploads.fetched, sent, settings))
    else:
        found = [one for one in sent if isinstance(one, Upload)]
    made = await _ingest(service, response, collection, found, wait=wait, key=key)
    request.state.subject = f"collection={collection} job={made.job_id}"
    return made


@router.put(
    "/documents/{document_id:path}",
    openapi_extra={"requestBody": uploads.PUT_BODY},
    **_ACCEPTS,
)
async def put_document(
    document_id: str,
    request: Request,
    response: Response,
    service: Writing,
    collection: InCollection = "default",
    name: Annotated[
        str,
        Query(
            max_length=1000,
            description="The file's name, which tells types without a signature apart. Default:"
            " that of the Content-Disposition, else the end of the id.",
        ),
    ] = "",
    title: Annotated[str, Query(max_length=2000)] = "",
    metadata: Annotated[str, Query(description='A JSON object, such as {"year": 1811}.')] = "",
    wait: Wait = False,
    key: Key = None,
) -> DocumentsResponse:
    """Ingest one document under this id: the body is the file, or JSON with a text.

    It takes the place of the document of this id with all its metadata, and answers as POST does.
    The same again is no work. A file that is JSON itself goes as application/octet-stream with a
    name that ends in .json.
    """
    await service.calls.run(partial(_check_collection, service, collection))
    fields = uploads.fields_of({"title": title, "metadata": metadata})
    settings = service.parts.settings
    upload = await uploads.read_one(request, document_id, name, fields, settings)
    made = await _ingest(service, response, collection, [upload], wait=wait, key=key)
    request.state.subject = f"collection={collection} job={made.job_id}"
    return made


async def _ingest(
    service: Service,
    response: Response,
    collection: str,
    sent: Sequence[Upload],
    *,
    wait: bool,
    key: str | None,
) -> DocumentsResponse:
    """Accept the documents, and wait for them if that was asked for; their files are closed."""
    try:
        sent = [_owned(service, one) for one in sent]
        submit = partial(service.ingestor.submit, service.scope, collection, sent, key=key)
        job = await service.calls.run(submit)
    finally:
        uploads.close(sent)
    if wait:
        ended = await service.calls.run(partial(service.ingestor.ended, job.id))
        # Shielded: when the client goes away, the documents are ingested all the same.
        await asyncio.shield(asyncio.wrap_future(ended))
        job = await service.calls.run(partial(_job, service, job.id))
        if len(job.tasks) == 1 and (failure := job.tasks[0].error):
            raise failure.as_error()
        response.status_code = 200
    return DocumentsResponse(documents=ReportOut.of_job(job), job_id=job.id)


def _check_collection(service: Service, name: str) -> None:
    try:
        service.parts.catalog.collection(service.scope, name)  # its vectors may be out of reach now
    except NotFound:
        if name != "default":
            raise
        shelf.ensure(service.parts, service.scope, name)


def _owned(service: Service, upload: Upload) -> Upload:
    """The document as its sender's to see, see `Caller.own`. Raises Forbidden."""
    source = upload.source
    metadata = service.known.own(source.metadata)
    assumed = ACL in metadata and ACL not in source.metadata
    return replace(upload, source=replace(source, metadata=metadata, acl_assumed=assumed))


def _job(service: Service, job_id: str) -> Job:
    return service.parts.journal.job(service.scope, job_id)
