"""`rag ingest` on a data folder of its own: the journal, and threads that work through it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import wait

from rag import collection as shelf
from rag import ingest as steps
from rag.attachments import missing
from rag.collection import source_fingerprint
from rag.jobs import Ingestor, Upload
from rag.journal import Job, Task
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import DocumentReport
from services.destination import Copy, Standing

LOOK_SECONDS = 0.25


class InProcess:
    """Into the journal of this process. Models load when there is work for them."""

    def __init__(self, rag: Orchestrator, collection: str) -> None:
        self._rag = rag
        self._journal = rag.parts.journal
        self._found = shelf.ensure(rag.parts, rag.scope, collection)
        self._ingestor = Ingestor(rag)

    def open_jobs(self) -> dict[str, list[Standing]]:
        """What an earlier process left, of any collection. Raises ModelUnavailable."""
        left = self._journal.open_jobs(self._rag.scope)
        if left:
            _ = self._rag.parts.embedder  # without it they would all wait for it
        self._ingestor.start()
        return {job.id: _standings(job) for job in left}

    def unchanged(self, source: Source, content_hash: str) -> DocumentReport | None:
        """From the catalog. None as well for a mail of which an attachment is missing."""
        parts, scope = self._rag.parts, self._rag.scope
        same = steps.unchanged(parts, scope, self._found, source, content_hash)
        return None if same and missing(parts, scope, self._found, source) else same

    def submit(self, copies: Sequence[Copy], key: str) -> str:
        """Into the journal. Raises PipelineMismatch, ModelUnavailable before anything is there."""
        self._rag.parts.embedder_for(self._found)
        uploads = [Upload(copied.source, copied.file) for copied in copies]
        return self._ingestor.submit(self._rag.scope, self._found.name, uploads, key=key).id

    def follow(self, job_id: str) -> Iterator[list[Standing]]:
        """As the journal has it, several times a second."""
        ended = self._ingestor.ended(job_id)
        while True:
            job = self._journal.job(self._rag.scope, job_id)
            yield _standings(job)
            if job.ended:
                return
            wait([ended], LOOK_SECONDS)

    def sources_below(self, prefix: str) -> list[tuple[str, str]]:
        """From the catalog."""
        catalog = self._rag.parts.catalog
        return catalog.sources_below(self._rag.scope, self._found.name, prefix)

    def delete(self, document_id: str) -> None:
        """Effective when it returns."""
        self._rag.delete(document_id, collection=self._found.name)

    def close(self) -> None:
        """Put back what is at work: the next process goes on from there."""
        self._ingestor.close()


def _standings(job: Job) -> list[Standing]:
    return [_standing(task) for task in job.tasks]


def _standing(task: Task) -> Standing:
    return Standing(
        id=task.document_id,
        source=task.source.origin,
        fingerprint=source_fingerprint(task.source, task.content_hash),
        done=task.done,
        total=task.total,
        report=_report(task),
        waits_for=task.error.message if task.error and task.state == "queued" else "",
    )


def _report(task: Task) -> DocumentReport | None:
    if task.state == "failed" and task.error is not None:
        return steps.failed(task.source, task.error.as_error())
    if task.state == "cancelled":
        return DocumentReport(task.document_id, "cancelled", task.source.origin)
    return task.report
