"""The ingest queue: uploads wait in memory for one worker thread.

Not durable yet: what waits when the process ends is lost, and its sender has to send it again. A
journal will replace this queue.
"""

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Literal
from uuid import uuid4

from rag.errors import Cancelled, NotFound, Overloaded, RagError
from rag.ingest import failed
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import DocumentReport
from rag.work import Priority, Work, working

log = logging.getLogger(__name__)

KEPT = 256  # finished jobs that can still be asked for
RETRY_SECONDS = 5.0
STOP_SECONDS = 5.0  # what the document at hand gets to end by itself when the service stops

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Upload:
    """A document to ingest; `file`, where there is one, is read when its turn comes."""

    source: Source
    file: BinaryIO | None = None

    def load(self) -> Source:
        """The source with the file's bytes."""
        return self.source if self.file is None else replace(self.source, content=self.file.read())

    def close(self) -> None:
        """Let the file go."""
        if self.file is not None:
            self.file.close()


@dataclass(slots=True)
class Job:
    """Documents sent together. `ended` is done once `state` and `reports` are final.

    `reports[i]` and `errors[i]` are about `uploads[i]`.
    """

    collection: str
    uploads: Sequence[Upload]
    id: str = field(default_factory=lambda: uuid4().hex)
    state: State = "queued"
    reports: list[DocumentReport] = field(default_factory=list)
    errors: dict[int, RagError] = field(default_factory=dict)
    ended: Future[None] = field(default_factory=Future)

    def __post_init__(self) -> None:
        self.reports = [DocumentReport(u.source.document_id, "queued") for u in self.uploads]


class IngestQueue:
    """At most `waiting` jobs wait, one is worked on. Thread-safe."""

    def __init__(self, orchestrator: Orchestrator, *, waiting: int, kept: int = KEPT) -> None:
        self._orchestrator = orchestrator
        self._waiting: queue.Queue[Job | None] = queue.Queue(waiting)
        self._kept = kept
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._guard = threading.Lock()
        self._closing = False
        self._bulk = Work(Priority.BULK)
        self._worker: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many jobs wait for their turn."""
        return self._waiting.qsize()

    def submit(self, collection: str, uploads: Sequence[Upload]) -> Job:
        """Line up documents; their files are closed by the queue from then on.

        Raises Overloaded; then the files are still the caller's.
        """
        job = Job(collection, uploads)
        with self._guard:
            if self._closing:
                raise Overloaded("The service is stopping.", retry_after=RETRY_SECONDS)
            try:
                self._waiting.put_nowait(job)
            except queue.Full:
                raise Overloaded(
                    f"{self._waiting.maxsize} uploads are waiting already.",
                    retry_after=RETRY_SECONDS,
                    hint="Send this one again later; GET /v1/jobs/{id} shows how one goes on.",
                ) from None
            self._jobs[job.id] = job
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="ingest", daemon=True)
                self._worker.start()
        return job

    def job(self, job_id: str) -> Job:
        """A job that waits, runs or ended not long ago. Raises NotFound."""
        with self._guard:
            if job_id in self._jobs:
                return self._jobs[job_id]
        raise NotFound(
            f"There is no job {job_id[:80]!r}.",
            hint=f"The last {self._kept} finished jobs are kept, until the service restarts.",
        )

    def stop(self) -> None:
        """Take no more and give up what waits, and say so; the document at hand goes on."""
        with self._guard:
            if self._closing:
                return
            self._closing = True
            while not self._waiting.empty():
                if (job := self._waiting.get_nowait()) is not None:
                    self._run(job)
            self._waiting.put_nowait(None)

    def close(self, seconds: float = STOP_SECONDS) -> None:
        """`stop`, and wait for the document at hand. After so many seconds it is cancelled."""
        self.stop()
        if self._worker is not None:
            self._worker.join(seconds)
            self._bulk.cancelled.set()
            self._worker.join()

    def _work(self) -> None:
        with working(self._bulk):
            while (job := self._waiting.get()) is not None:
                job.state = "running"
                self._run(job)
                with self._guard:
                    self._forget()

    def _run(self, job: Job) -> None:
        for at, upload in enumerate(job.uploads):
            job.reports[at] = replace(job.reports[at], status="running")
            try:
                job.reports[at] = self._ingest(job, upload)
            except RagError as error:
                job.reports[at], job.errors[at] = failed(upload.source, error), error
            except Exception as error:
                log.error("ingesting %r failed", upload.source.name, exc_info=error)
                unknown = RagError("Something went wrong inside.", hint="The log says what.")
                job.reports[at], job.errors[at] = failed(upload.source, unknown), unknown
            finally:
                upload.close()
        job.uploads = ()  # texts are large
        job.state = "failed" if len(job.errors) == len(job.reports) else "done"
        job.ended.set_result(None)

    def _ingest(self, job: Job, upload: Upload) -> DocumentReport:
        if self._closing:
            raise Overloaded("The service stopped before its turn came.", hint="Send it again.")
        try:
            return self._orchestrator.add(upload.load(), collection=job.collection)
        except Cancelled:
            stopped = "The service stopped while it was being ingested."
            raise Overloaded(stopped, hint="Send it again.") from None

    def _forget(self) -> None:
        """Drop the oldest finished jobs above the number that is kept."""
        ended = [job.id for job in self._jobs.values() if job.ended.done()]
        for job_id in ended[: max(0, len(ended) - self._kept)]:
            del self._jobs[job_id]
