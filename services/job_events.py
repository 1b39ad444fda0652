"""An ingest job as server-sent events."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from pydantic import Field
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rag.errors import Overloaded
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


class Followers:
    """How many jobs each caller follows. To be used from one event loop."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._following = Counter[str]()

    @contextmanager
    def place(self, caller: str) -> Iterator[None]:
        """Follow one more. Raises Overloaded: each is looked at again and again."""
        if self._following[caller] >= self._most:
            raise Overloaded(
                f"{self._most} jobs are being followed with this key already.",
                retry_after=5.0,
                hint="GET /v1/jobs/{id} says once how a job goes on.",
            )
        self._following[caller] += 1
        try:
            yield
        finally:
            self._following[caller] -= 1
            self._following += Counter()  # forgets those who follow none


class JobStream(StreamingResponse):
    """The events of a job, for as long as there is a place and a client."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], place: AbstractContextManager[None]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers)
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._place:
            await super().__call__(scope, receive, send)


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
