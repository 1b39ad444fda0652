"""The routes of ingest jobs: how they are going, and what may be asked of them."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from rag.journal import Job
from services.events import EVENTS_CONTENT
from services.job_events import JobStream, job_events
from services.schemas import CollectionName, JobList, JobResponse
from services.service import Running, Service, Writing

router = APIRouter()

_EVENTS = {
    "description": "`job` at every change, `end` with the last state.",
    "content": EVENTS_CONTENT,
}


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
    return JobStream(job_events(begun, look), service.followers.place(service.known.name))


@router.post("/jobs/{job_id}/retry", status_code=202, response_model_exclude_none=True)
async def retry_job(job_id: str, service: Writing) -> JobResponse:
    """Try a job's failed and cancelled documents again."""
    retry = partial(service.parts.journal.retry, service.scope, job_id)
    found = await service.calls.run(retry)
    service.ingestor.wake()
    return JobResponse.of(found)


@router.post("/jobs/{job_id}/cancel", response_model_exclude_none=True)
async def cancel_job(job_id: str, service: Writing) -> JobResponse:
    """Cancel the documents of a job that are not done, the one at work included."""
    cancel = partial(service.parts.journal.cancel, service.scope, job_id)
    return JobResponse.of(await service.calls.run(cancel))


def _job(service: Service, job_id: str) -> Job:
    return service.parts.journal.job(service.scope, job_id)
