"""Ingestion in the background: threads that work through the journal.

What is submitted is kept before anything is promised, and from then on nothing loses it: a process
that dies leaves a task that the next one takes up where it was.
"""

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from typing import BinaryIO

from rag.attachments import missing
from rag.catalog import Revision
from rag.collection import drop_vectors, index_of
from rag.errors import (
    Cancelled,
    ModelUnavailable,
    Overloaded,
    RagError,
    StorageFull,
    StoreUnreachable,
)
from rag.ingest import purge, report_of, unchanged
from rag.journal import Arrival, Job, LeaseLost, Task
from rag.objects import digest_of
from rag.orchestrator import Orchestrator
from rag.parts import Parts
from rag.patch import paint_all, show
from rag.room import Room
from rag.sources import Source
from rag.types import Document, DocumentReport, Scope
from rag.work import Priority, Work, working

log = logging.getLogger(__name__)

# What may be over when it is tried again: the document is not at fault.
HEALS = (StoreUnreachable, StorageFull, Overloaded, ModelUnavailable)
TICK_SECONDS = 1.0
RENEW_SECONDS = 5.0
SWEEP_SECONDS = 60.0
QUIET_SECONDS = 2.0  # without a question, then all threads work again
MOST_STARTS = 5  # a task during which the process died so often, at the same place, is given up


@dataclass(frozen=True, slots=True)
class Upload:
    """A document to ingest, its bytes in `file` unless the source has them."""

    source: Source
    file: BinaryIO | None = None

    def opened(self, limit: int) -> BinaryIO:
        """The bytes. Raises TooLarge for a text above `limit`."""
        return self.file if self.file is not None else BytesIO(self.source.read(limit))

    def close(self) -> None:
        """Let the file go."""
        if self.file is not None:
            self.file.close()


class Ingestor:
    """Takes documents in and works on those that the journal holds. Thread-safe."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        self._orchestrator = orchestrator
        self._parts = orchestrator.parts
        self._journal = orchestrator.parts.journal
        self._changed = threading.Condition()
        self._closing = self._closed = False
        self._receiving: set[str] = set()  # jobs whose bytes are being kept
        self._to_sweep = threading.Event()
        self._looked = float("-inf")
        self._work: dict[str, Work] = {}  # by claim
        self._awaited: dict[str, list[Future[None]]] = {}
        settings = orchestrator.parts.settings
        self._room = Room(settings.ingest_text_mb * 2**20)
        self._inside: dict[str, None] = {}  # claims of those that have room, in that order
        count = settings.ingest_threads
        self._threads = [
            threading.Thread(target=self._run, name=f"ingest {number}", daemon=True)
            for number in range(count)
        ]
        for target, name in ((self._tend, "ingest leases"), (self._clean, "ingest sweep")):
            self._threads.append(threading.Thread(target=target, name=name, daemon=True))

    def start(self) -> None:
        """Take up what was left, then work until `close`."""
        try:
            self._sweep(first=True)
        except HEALS as error:  # questions are answered meanwhile
            log.warning("what was left will be taken up later: %s", error)
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        scope: Scope,
        collection: str,
        uploads: Sequence[Upload],
        *,
        key: str | None = None,
    ) -> Job:
        """Keep documents and promise to ingest them: when this returns they are on the disk.

        Raises NotFound, Conflict, Overloaded, StorageFull; then nothing is kept of them.
        """
        if self._closing:
            raise Overloaded("The service is stopping.", retry_after=5.0)
        files = [upload.opened(self._parts.settings.max_file_bytes) for upload in uploads]
        arrivals = [
            Arrival(upload.source, digest_of(file))
            for upload, file in zip(uploads, files, strict=True)
        ]
        job_id, is_new = self._journal.receive(
            scope, collection, arrivals, key=key, most_waiting=self._parts.settings.ingest_queue
        )
        if is_new:
            self._receiving.add(job_id)
            try:
                for arrival, file in zip(arrivals, files, strict=True):
                    self._parts.objects.put_file(file, arrival.content_hash)
                self._journal.accept(job_id)
            except BaseException:
                # Where that fails as well, its lease ends, and a sweep forgets it.
                with logged("an upload that was refused"):
                    self._journal.refuse(job_id, {arrival.content_hash for arrival in arrivals})
                raise
            finally:
                self._receiving.discard(job_id)
            self.wake()
        return self._journal.job(scope, job_id)

    def ended(self, job_id: str) -> Future[None]:
        """Done when nothing of the job is open any more."""
        future: Future[None] = Future()
        with self._changed:
            if self._closed:
                future.set_exception(_stopping())
                return future
            self._awaited.setdefault(job_id, []).append(future)
        self._settle(job_id)
        return future

    def wake(self) -> None:
        """There may be something to do."""
        with self._changed:
            self._changed.notify_all()

    def sweep_soon(self) -> None:
        """There is something to purge."""
        self._to_sweep.set()
        self.wake()

    def stop(self) -> None:
        """Begin nothing any more; what is at work goes on."""
        self._closing = True
        self.wake()

    def close(self) -> None:
        """Stop, and put back what is at work: it goes on from there another time."""
        self.stop()
        for work in list(self._work.values()):
            work.cancelled.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        with self._changed:
            self._closed = True
            for future in [one for some in self._awaited.values() for one in some]:
                future.set_exception(_stopping())
            self._awaited.clear()

    # Threads

    def _run(self) -> None:
        woken = True
        while not self._closing:
            task = None
            with logged("the journal"):
                if self._takes_more() and (woken or self._nobody_looked()):
                    most = self._parts.settings.ingest_per_collection
                    task = self._journal.claim(per_collection=most)
            if task is None:
                woken = self._pause()
                continue
            if not woken:
                self.wake()  # others may have come with it
            woken = True
            with logged(task.document_id):
                self._attempt(task)
                self._settle(task.job_id)
            self.wake()  # one document's tasks wait for each other

    def _tend(self) -> None:
        """Renew leases, stop what was cancelled, tell who waits for what others did."""
        renewed = time.monotonic()
        while not self._closing:
            self._pause()
            with logged("the journal"):
                busy = self._work or self._receiving
                if busy and time.monotonic() - renewed >= RENEW_SECONDS:
                    renewed = time.monotonic()
                    self._renew()
                for job_id in list(self._awaited):
                    self._settle(job_id)

    def _clean(self) -> None:
        """Purge what could not be purged at once."""
        swept = time.monotonic()
        while not self._closing:
            self._pause()
            if self._to_sweep.is_set() or time.monotonic() - swept >= SWEEP_SECONDS:
                self._to_sweep.clear()
                swept = time.monotonic()
                with logged("the sweep"):
                    self._sweep()

    def _nobody_looked(self) -> bool:
        """Whether it is time to look for what was not told here: other processes accept as well."""
        now = time.monotonic()
        due = now - self._looked >= TICK_SECONDS
        if due:
            self._looked = now
        return due

    def _pause(self) -> bool:
        """Wait for a moment; whether it was cut short because there may be something to do."""
        with self._changed:
            return not self._closing and self._changed.wait(TICK_SECONDS)

    def _renew(self) -> None:
        held = dict(self._work)  # before asking: what is claimed meanwhile is not judged
        mine = self._journal.renew(held, list(self._receiving))
        for claim, work in held.items():
            if claim not in mine:
                work.cancelled.set()

    def _sweep(self, *, first: bool = False) -> None:
        parts, now = self._parts, datetime.now(UTC)
        if first and parts.alone:
            if taken_up := self._journal.recover():
                log.info("%d documents were at work when the last process ended", taken_up)
            parts.catalog.abandon_orphans(now)
            parts.objects.delete_unfinished()
        else:
            self._journal.expire()
            parts.catalog.abandon_orphans(now - timedelta(hours=parts.settings.ingest_orphan_hours))
        for scope, collection, document_id in parts.catalog.all_stale():
            if self._closing or not purge(parts, scope, collection, document_id):
                break
        paint_all(parts)
        parts.catalog.drop_doomed()
        self._journal.forget(now - timedelta(days=parts.settings.jobs_kept_days))
        settings = parts.settings
        parts.audit.forget(now - timedelta(days=settings.audit_kept_days))
        parts.traces.forget(
            now - timedelta(days=settings.traces_kept_days),
            now - timedelta(days=settings.feedback_kept_days),
        )
        drop_vectors(parts)

    # Giving way: while questions come, few documents are worked on at once

    def _takes_more(self) -> bool:
        return (
            not self._is_asked() or len(self._work) < self._parts.settings.ingest_beside_questions
        )

    def _is_asked(self) -> bool:
        return self._parts.crowd.quiet_seconds < QUIET_SECONDS

    @contextmanager
    def _place(self, claim: str, work: Work, size: int) -> Iterator[None]:
        """Room for a document of `size` bytes of text, and its turn. Raises Cancelled."""
        with self._room.take(size, work):
            self._inside[claim] = None
            try:
                self._give_way(claim, work)
                yield
            finally:
                del self._inside[claim]

    def _give_way(self, claim: str, work: Work) -> None:
        """While questions come, return at once for those that had room first only."""
        first = self._parts.settings.ingest_beside_questions
        while (
            self._is_asked()
            and claim not in list(self._inside)[:first]
            and not work.cancelled.is_set()
            and not self._closing
        ):
            self._pause()

    # One task

    def _attempt(self, task: Task) -> None:
        work, claim = Work(Priority.BULK), task.owner or ""
        keeper = self._keeper(task, work)
        self._work[claim] = work
        try:
            if self._closing:
                work.cancelled.set()
            with working(work):
                self._ingest(task, keeper)
        except LeaseLost as error:
            log.info("document %r is not ours any more: %s", task.document_id, error)
        except Cancelled:
            if self._closing:
                self._journal.put_back(task, after=timedelta(0))
            # else it was cancelled or deleted, which the journal knows
        except HEALS as error:
            self._write_down(partial(self._try_later, task, error))
        except RagError as error:
            self._write_down(partial(self._fail, task, error))
        except Exception as error:
            log.error("ingesting %r failed", task.document_id, exc_info=error)
            inside = RagError("Something went wrong inside.", hint="The log says what.")
            self._write_down(partial(self._fail, task, inside))
        finally:
            try:
                self._journal.release(task)
                self._purge(task, keeper.written())
            finally:
                del self._work[claim]

    def _keeper(self, task: Task, work: Work) -> "Journaled":
        claim = task.owner or ""
        place, give_way = partial(self._place, claim, work), partial(self._give_way, claim, work)
        return Journaled(self._parts, task, place, give_way)

    def _purge(self, task: Task, written: int | None) -> None:
        purge(self._parts, task.scope, task.collection, task.document_id, written=written)

    def _write_down(self, how_it_ended: Callable[[], None]) -> None:
        """Have the journal know how an attempt ended, once it can be written to.

        Otherwise nobody would go on before the lease has ended, and it would look as if the process
        had ended.
        """
        while True:
            try:
                how_it_ended()
                return
            except LeaseLost as error:
                log.info("%s", error)
                return
            except HEALS as error:
                if self._closing:
                    raise
                log.warning("the journal: %s", error)
                self._pause()

    def _ingest(self, task: Task, keeper: "Journaled") -> None:
        if task.starts > MOST_STARTS:
            raise RagError(
                f"The process ended {task.starts - 1} times while this document was at work.",
                hint="Look into the log for why; POST /v1/jobs/{id}/retry tries again.",
            )
        parts, scope = self._parts, task.scope
        found = parts.catalog.collection(scope, task.collection)
        if same := unchanged(parts, scope, found, task.source, task.content_hash):
            self._journal.unchanged(task, same, missing(parts, scope, found, task.source))
            parts.metrics.document(same.status)
            return
        parts.embedder_for(found)  # before anything is begun: it may not be there
        if not found.chunks:  # a crash may have come between the collection's row and its vectors
            parts.store.create(index_of(found))
        orchestrator = self._orchestrator.within(scope)
        with parts.objects.local(task.content_hash) as content:
            orchestrator.build(task.source, content, task.content_hash, found, keeper)

    def _try_later(self, task: Task, error: RagError) -> None:
        settings = self._parts.settings
        if task.retries >= settings.ingest_retries:
            self._fail(task, error)
            return
        seconds = min(settings.ingest_retry_seconds, 2.0**task.retries)
        after = timedelta(seconds=seconds * random.uniform(0.5, 1))
        self._journal.put_back(task, after=after, error=error)
        self._parts.metrics.document("retried")
        log.warning(
            "document %r will be tried again in %.0f s: %s %s",
            task.document_id, after.total_seconds(), error, getattr(error, "inside", ""),
        )  # fmt: skip

    def _fail(self, task: Task, error: RagError) -> None:
        self._journal.fail(task, error)
        self._parts.metrics.document("failed")

    def _settle(self, job_id: str) -> None:
        """Tell those who wait for a job that it has ended, if it has."""
        if job_id not in self._awaited or not self._journal.has_ended(job_id):
            return
        with self._changed:
            waiting = self._awaited.pop(job_id, [])
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _stopping() -> Overloaded:
    return Overloaded(
        "The service is stopping. The documents are accepted, and will be ingested when it runs"
        " again.",
        retry_after=5.0,
    )


@contextmanager
def logged(what: str) -> Iterator[None]:
    """A thread goes on whatever happens: the journal knows what is not done."""
    try:
        yield
    except RagError as error:
        log.warning("%s: %s", what, error)
    except Exception:
        log.exception("%s", what)


class Journaled:
    """The keeper of a task's document.

    `place` gives room for so many bytes of text and `give_way` returns when the document may go on.
    """

    def __init__(
        self,
        parts: Parts,
        task: Task,
        place: Callable[[int], AbstractContextManager[None]],
        give_way: Callable[[], None],
    ) -> None:
        self._place = place
        self._give_way = give_way
        self._parts = parts
        self._journal = parts.journal
        self._task = task

    def generation(self) -> tuple[int, str, str] | None:
        """What an earlier attempt was writing."""
        return self._journal.written(self._task)

    def opened(self, *, text_hash: str, parsed_hash: str, attached: Sequence[str]) -> int:
        """A new generation to write into."""
        self._task = self._journal.open_generation(
            self._task, text_hash=text_hash, parsed_hash=parsed_hash, attached=attached
        )
        assert self._task.generation is not None
        return self._task.generation

    def written(self) -> int | None:
        """The generation that this attempt may have written to."""
        return self._task.generation

    def stored(self) -> int:
        """How many chunks are in the store already, and on its disk."""
        return self._task.done

    def room(self, document: Document) -> AbstractContextManager[None]:
        """As much as its text takes, and a turn."""
        return self._place(sys.getsizeof(document.text))

    def progress(self, stage: str, done: int = 0, total: int = 0) -> None:
        """Write down what is done. Raises LeaseLost.

        The beginning was written with the claim, the end will be with the flip: a commit less each.
        """
        if 0 < done < total:
            self._journal.progress(self._task, stage, done, total)
            self._give_way()

    def flip(self, revision: Revision, children: Sequence[Arrival]) -> DocumentReport:
        """Make the generation live, queue its attachments and end the task, in one transaction."""
        task = self._task
        report, gone = self._journal.flip(
            task,
            revision,
            lambda replaced: report_of(revision, "replaced" if replaced else "ingested"),
            children,
        )
        for document_id in sorted(gone):
            purge(self._parts, task.scope, task.collection, document_id)
        if report.status == "replaced" and not revision.says_acl:
            show(self._parts, task.scope, task.collection, task.document_id)
        return report
