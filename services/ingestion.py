"""The ingestion service: documents, jobs, collections. `python -m services.ingestion` runs it."""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, FastAPI, Header, Query, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from rag import collection as shelf
from rag.errors import NotFound
from rag.journal import Job
from rag.orchestrator import Orchestrator
from rag.settings import Settings
from rag.sources import check_id
from services import backup, uploads
from services.job_events import job_events
from services.schemas import (
    CollectionChanges,
    CollectionList,
    CollectionName,
    CollectionOut,
    CollectionRequest,
    DocumentList,
    DocumentOut,
    DocumentsResponse,
    JobList,
    JobResponse,
    ReportOut,
)
from services.service import Running, Service, build, run

router = APIRouter(prefix="/v1", tags=["ingestion"])

InCollection = Annotated[CollectionName, Query(alias="collection")]

_COLLECTIONS: dict[str, Any] = {
    "plain": {"summary": "A collection", "value": {"name": "manuals"}},
    "german": {
        "summary": "German documents, German answers",
        "value": {
            "name": "handbuecher",
            "settings": {"bm25_language": "german", "fusion": "rrf"},
            "answer_language": "German",
        },
    },
}
_CHANGES: dict[str, Any] = {
    "fusion": {"summary": "Fuse another way", "value": {"settings": {"fusion": "rrf"}}},
    "language": {"summary": "Answer in English", "value": {"answer_language": "English"}},
}

_EVENTS = {
    "description": "`job` at every change, `end` with the last state.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


def create_app(
    settings: Settings | None = None, *, orchestrator: Orchestrator | None = None
) -> FastAPI:
    """The ingestion service alone."""
    routers = [router, backup.router]
    return build("Ragstone ingestion", routers, settings, orchestrator, models=["embedder"])


# Documents


@router.post(
    "/documents",
    status_code=202,
    response_model=DocumentsResponse,
    response_model_exclude_none=True,
    responses={200: {"model": DocumentsResponse, "description": "With `wait`: all were tried."}},
    openapi_extra={"requestBody": uploads.REQUEST_BODY},
)
async def add_documents(
    request: Request,
    response: Response,
    service: Running,
    wait: Annotated[bool, Query(description="Answer when the documents are searchable.")] = False,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            max_length=255,
            description="The same key again answers with the same job and does nothing more.",
        ),
    ] = None,
) -> DocumentsResponse:
    """Ingest texts (JSON) or files (multipart).

    The answer comes when all is on the disk: nothing is lost from then on, whatever happens to the
    service, and GET /v1/jobs/{job_id} says how it goes on. With `wait` it comes when the documents
    are searchable. A document that fails does not stop the others; a single one that fails while
    waited for is an error. The collection `default` is made on first use.
    """
    collection, sent = await uploads.read(request, service.parts.settings)
    try:
        await service.calls.run(partial(_check_collection, service, collection))
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


# Jobs


@router.get("/jobs")
async def list_jobs(
    service: Running,
    collection: Annotated[CollectionName | None, Query()] = None,
    before: Annotated[str, Query(description="The `next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> JobList:
    """Ingest jobs, newest first."""
    call = partial(
        service.parts.journal.list_jobs,
        service.scope,
        collection=collection,
        before=before,
        limit=limit + 1,
    )
    found = await service.calls.run(call)
    page = [JobResponse.of(job) for job in found[:limit]]
    return JobList(jobs=page, next=page[-1].job_id if len(found) > limit else None)


@router.get("/jobs/{job_id}", response_model_exclude_none=True)
async def get_job(job_id: str, service: Running) -> JobResponse:
    """How an ingest job is going. Ended ones are kept for a week, unless the settings say else."""
    return JobResponse.of(await service.calls.run(partial(_job, service, job_id)))


@router.get("/jobs/{job_id}/events", response_class=StreamingResponse, responses={200: _EVENTS})
async def follow_job(job_id: str, service: Running) -> StreamingResponse:
    """The job as server-sent events, one at every change, until it has ended."""
    look = partial(service.calls.run, partial(_job, service, job_id))
    begun = await look()  # an unknown job is a 404 and no stream
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        job_events(begun, look), media_type="text/event-stream", headers=headers
    )


@router.post("/jobs/{job_id}/retry", status_code=202, response_model_exclude_none=True)
async def retry_job(job_id: str, service: Running) -> JobResponse:
    """Try a job's failed and cancelled documents again."""
    retry = partial(service.parts.journal.retry, service.scope, job_id)
    found = await service.calls.run(retry)
    service.ingestor.wake()
    return JobResponse.of(found)


@router.post("/jobs/{job_id}/cancel", response_model_exclude_none=True)
async def cancel_job(job_id: str, service: Running) -> JobResponse:
    """Cancel the documents of a job that are not done, the one at work included."""
    cancel = partial(service.parts.journal.cancel, service.scope, job_id)
    return JobResponse.of(await service.calls.run(cancel))


# Documents, one by one


@router.get("/documents")
async def list_documents(
    service: Running,
    collection: InCollection = "default",
    after: Annotated[str, Query(description="The `next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DocumentList:
    """Documents by id."""
    found = await service.calls.run(
        partial(
            service.parts.catalog.documents,
            service.scope,
            collection,
            after=after,
            limit=limit + 1,
        )
    )
    page = [DocumentOut.of(record) for record in found[:limit]]
    return DocumentList(documents=page, next=page[-1].id if len(found) > limit else None)


@router.get(
    "/documents/{document_id:path}/text",
    response_class=PlainTextResponse,
    response_model=None,
)
async def get_text(
    document_id: str, service: Running, collection: InCollection = "default"
) -> Response:
    """The text of a document, as its offsets count it: in characters from 0."""
    found = await service.calls.run(partial(_text, service, collection, document_id))
    if isinstance(found, str):
        return PlainTextResponse(found)
    return Response(found.model_dump_json(), media_type="application/json")


@router.get("/documents/{document_id:path}")
async def get_document(
    document_id: str, service: Running, collection: InCollection = "default"
) -> DocumentOut:
    """One document. Its id may hold slashes."""
    return await service.calls.run(partial(_document, service, collection, document_id))


@router.delete("/documents/{document_id:path}", status_code=204)
async def delete_document(
    document_id: str, service: Running, collection: InCollection = "default"
) -> None:
    """Delete a document: gone from answers when this returns."""
    check_id(document_id)
    call = partial(service.orchestrator.delete, document_id, collection=collection)
    await service.calls.run(call)


# Collections


@router.post("/collections", status_code=201)
async def create_collection(
    body: Annotated[CollectionRequest, Body(openapi_examples=_COLLECTIONS)], service: Running
) -> CollectionOut:
    """A new, empty collection."""
    made = partial(
        shelf.create,
        service.parts,
        service.scope,
        body.name,
        settings=body.settings.model_dump(exclude_none=True),
        system_prompt=body.system_prompt or "",
        answer_language=body.answer_language or "",
    )
    return CollectionOut.of(await service.calls.run(made))


@router.get("/collections")
async def list_collections(service: Running) -> CollectionList:
    """Every collection, by name."""
    found = await service.calls.run(partial(service.parts.catalog.collections, service.scope))
    return CollectionList(collections=[CollectionOut.of(one) for one in found])


@router.get("/collections/{name}")
async def get_collection(name: CollectionName, service: Running) -> CollectionOut:
    """One collection."""
    call = partial(service.parts.catalog.collection, service.scope, name)
    return CollectionOut.of(await service.calls.run(call))


@router.patch("/collections/{name}")
async def change_collection(
    name: CollectionName,
    body: Annotated[CollectionChanges, Body(openapi_examples=_CHANGES)],
    service: Running,
) -> CollectionOut:
    """Change a collection; what is left out stays, a setting that is null gets its default."""
    changed = partial(
        shelf.update,
        service.parts,
        service.scope,
        name,
        settings=body.settings.model_dump(exclude_unset=True),
        system_prompt=body.system_prompt,
        answer_language=body.answer_language,
    )
    return CollectionOut.of(await service.calls.run(changed))


@router.delete("/collections/{name}", status_code=204)
async def delete_collection(name: CollectionName, service: Running) -> None:
    """Delete a collection with everything in it."""
    await service.calls.run(partial(shelf.drop, service.parts, service.scope, name))


def _check_collection(service: Service, name: str) -> None:
    if name == "default":
        shelf.ensure(service.parts, service.scope, name)
    else:
        service.parts.catalog.collection(service.scope, name)


def _document(service: Service, collection: str, document_id: str) -> DocumentOut:
    check_id(document_id)
    return DocumentOut.of(service.parts.catalog.document(service.scope, collection, document_id))


def _text(service: Service, collection: str, document_id: str) -> str | DocumentOut:
    """The document's text, unless `/text` is the end of another document's id."""
    try:
        return _document(service, collection, f"{document_id}/text")
    except NotFound:
        pass
    record = service.parts.catalog.document(service.scope, collection, document_id)
    return service.parts.objects.get(record.text_hash).decode("utf8")


def _job(service: Service, job_id: str) -> Job:
    return service.parts.journal.job(service.scope, job_id)


if __name__ == "__main__":
    run(create_app)
