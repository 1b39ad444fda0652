"""An ingest job as server-sent events."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pydantic import Field

from rag.journal import OPEN, Job
from services.events import KEEP_ALIVE, KEEP_ALIVE_SECONDS, event
from services.schemas import JobResponse

LOOK_SECONDS = 0.25


class JobEvent(JobResponse):
    """How far a job is."""

    done: int = Field(description="Documents that are done with.")
    total: int
    stage: str | None = Field(None, description="Of the document at work.")
    chunks_per_second: float | None = Field(None, description="Since the stream began.")
    seconds_left: float | None = Field(None, description="For the chunks that are known of.")


async def job_events(begun: Job, look: Callable[[], Awaitable[Job]]) -> AsyncIterator[bytes]:
    """`job` at every change, `end` when nothing will change any more.

    Looks into the journal again and again: another process may be the one that works on the job.
    """
    started, stored_then = time.monotonic(), _stored(begun)
    job, sent, said = begun, "", started
    while True:
        now = time.monotonic()
        data = _event(job, _stored(job) - stored_then, now - started)
        shown = data.model_dump_json(exclude={"seconds_left", "chunks_per_second"})
        if job.ended:
            yield event("end", data.model_dump_json(exclude_none=True))
            return
        if shown != sent:
            yield event("job", data.model_dump_json(exclude_none=True))
            sent, said = shown, now
        elif now - said >= KEEP_ALIVE_SECONDS:
            yield KEEP_ALIVE
            said = now
        await asyncio.sleep(LOOK_SECONDS)
        job = await look()


def _stored(job: Job) -> int:
    """Chunks of the job that are in the store."""
    return sum(task.report.chunks if task.report else task.done for task in job.tasks)


def _event(job: Job, stored: int, seconds: float) -> JobEvent:
    rate = stored / seconds if stored > 0 and seconds > 0 else None
    open_tasks = [task for task in job.tasks if task.state in OPEN]
    left = sum(task.total - task.done for task in open_tasks)
    stages = [task.stage for task in open_tasks if task.state == "running" and task.stage]
    return JobEvent(
        **JobResponse.of(job).model_dump(),
        done=len(job.tasks) - len(open_tasks),
        total=len(job.tasks),
        stage=stages[0] if stages else None,
        chunks_per_second=rate,
        seconds_left=left / rate if rate and left else None,
    )
