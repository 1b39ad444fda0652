"""Files -> where documents go, a bounded number at a time, and what became of each.

What is there unchanged needs no job. The rest is copied, sent in batches, and followed. What was
accepted goes on even where this ends early.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from uuid import uuid4

from rag import ingest as steps
from rag.collection import source_fingerprint
from rag.errors import InvalidInput, NotFound, Overloaded, RagError, UnsupportedType
from rag.parse.detect import is_foreign, is_known
from rag.settings import Settings
from rag.sources import Source, unreadable
from rag.types import DocumentReport
from services.destination import Copy, Destination, content_hash, copy
from services.progress import Progress

BATCH_FILES = 32
BATCH_BYTES = 16 * 2**20
MOST_OPEN = 128  # files that are accepted and not done
HEAD_BYTES = 65_536  # by which a file of an unknown name is judged
LONGEST_WAIT = 30.0  # seconds, for room


@dataclass(slots=True)
class Result:
    """What became of every file. `skipped` counts those that no parser reads, by extension."""

    reports: list[DocumentReport] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    open: int = 0  # accepted, and not known to have ended


class Feed:
    """Feeds one destination. For one thread."""

    def __init__(
        self,
        destination: Destination,
        settings: Settings,
        progress: Progress,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.result = Result()
        self._destination = destination
        self._limit = settings.max_file_bytes
        self._batch_files = min(BATCH_FILES, settings.max_documents)
        self._batch_bytes = min(BATCH_BYTES, settings.max_file_bytes)
        self._progress = progress
        self._sleep = sleep
        # Jobs, the oldest first, with the places of documents in them that are not ours to report.
        self._open: deque[tuple[str, frozenset[int]]] = deque()
        self._sizes: dict[str, int] = {}  # of documents on their way, by id
        self._named: Collection[str] = ()
        self._resumed: set[tuple[str, str]] = set()  # (id, fingerprint)

    def resume(self) -> None:
        """Follow what an earlier process accepted and did not finish."""
        for job_id, standings in self._destination.open_jobs().items():
            left = [one for one in standings if one.report is None]
            ended = (n for n, one in enumerate(standings) if one.report is not None)
            self._open.append((job_id, frozenset(ended)))
            self.result.open += len(left)
            self._resumed.update((one.id, one.fingerprint) for one in left)
            self._progress.expect(len(left), 0)
        if self._open:
            self._progress.working()
            self._progress.note(f"Going on with {self.result.open} documents accepted earlier.")

    def take(self, sources: Sequence[Source], *, named: Collection[str] = ()) -> None:
        """Ingest files; returns when all have ended. Those whose origin is in `named` were asked
        for by themselves: there it is a failure when no parser reads them.
        """
        self._named = named
        sizes = [_size(source) for source in sources]
        self._sizes = {s.document_id: size for s, size in zip(sources, sizes, strict=True)}
        self._progress.expect(len(sources), sum(sizes))
        with closing(self._batches(self._changed(sources))) as batches:
            for batch in batches:
                while self._open and self.result.open + len(batch) > MOST_OPEN:
                    self._follow_oldest()
                self._send(batch)
        while self._open:
            self._follow_oldest()

    def _changed(self, sources: Iterable[Source]) -> Iterator[Source]:
        """Those for which there is something to do."""
        for source in sources:
            try:
                if source.origin not in self._named and _is_foreign(source):
                    raise UnsupportedType(f"No parser reads {source.name}.")
                digest = content_hash(source, self._limit)
                if self._is_under_way(source, digest):
                    self._progress.expect(-1, 0)  # it is counted already
                    continue
                same = self._destination.unchanged(source, digest)
            except (InvalidInput, NotFound) as error:
                self._fail(source, error)
                continue
            if same is not None:
                self._end(same)
            else:
                yield source

    def _is_under_way(self, source: Source, digest: str) -> bool:
        return (source.document_id, source_fingerprint(source, digest)) in self._resumed

    def _batches(self, sources: Iterable[Source]) -> Generator[list[Copy]]:
        """Copies of files, closed once the next batch is asked for."""
        batch: list[Copy] = []
        try:
            for source in sources:
                try:
                    copied = copy(source, self._limit)
                except (InvalidInput, NotFound) as error:
                    self._fail(source, error)
                    continue
                size = sum(one.size for one in batch)
                if batch and size + copied.size > self._batch_bytes:
                    yield batch
                    _close(batch)
                    batch = []
                batch.append(copied)
                if len(batch) == self._batch_files:
                    yield batch
                    _close(batch)
                    batch = []
            if batch:
                yield batch
        finally:
            _close(batch)

    def _send(self, batch: Sequence[Copy]) -> None:
        """Have a batch accepted; one that is refused goes in halves, until it is clear what of it
        is at fault.
        """
        key = uuid4().hex
        while True:
            try:
                job_id = self._destination.submit(batch, key)
            except Overloaded as error:
                self._wait(error)
            except InvalidInput as error:
                if len(batch) == 1:
                    self._fail(batch[0].source, error)
                    return
                half = len(batch) // 2
                self._send(batch[:half])
                self._send(batch[half:])
                return
            else:
                self._open.append((job_id, frozenset()))
                self.result.open += len(batch)
                self._progress.working()
                return

    def _wait(self, error: Overloaded) -> None:
        if self._open:
            self._follow_oldest()
            return
        seconds = min(error.retry_after, LONGEST_WAIT)
        self._progress.note(f"{error.message} Waiting {seconds:.0f} s for room.")
        self._sleep(seconds)

    def _follow_oldest(self) -> None:
        """Until all documents of the job that was accepted first have ended."""
        job_id, reported = self._open[0]
        ended = set(reported)
        told = ""
        for standings in self._destination.follow(job_id):
            for number, one in enumerate(standings):
                if one.report is not None and number not in ended:
                    ended.add(number)
                    self.result.open -= 1
                    self._end(one.report)
            self._progress.moved(standings, lambda id: self._sizes.get(id, 0))
            waits = next((one.waits_for for one in standings if one.waits_for), "")
            if waits and waits != told:
                self._progress.note(f"Has to wait: {waits}")
            told = waits
        self._open.popleft()

    def _fail(self, source: Source, error: RagError) -> None:
        self._end(steps.failed(source, error))

    def _end(self, report: DocumentReport) -> None:
        foreign = report.status == "failed" and report.kind == UnsupportedType.__name__
        if foreign and report.source not in self._named:
            self.result.skipped[PurePath(report.source).suffix.lower() or "no extension"] += 1
            report = DocumentReport(report.id, "skipped", report.source)
        else:
            self.result.reports.append(report)
        self._progress.ended(report, self._sizes.get(report.id, 0))


def _is_foreign(source: Source) -> bool:
    if is_known(source.name):
        return False
    path = source.path or Path(source.origin)
    try:
        with path.open("rb") as file:
            return is_foreign(file.read(HEAD_BYTES))
    except OSError as error:
        raise unreadable(path, error) from error


def _size(source: Source) -> int:
    try:
        return (source.path or Path(source.origin)).stat().st_size
    except OSError:  # it is gone, which is said when its turn comes
        return 0


def _close(batch: Iterable[Copy]) -> None:
    for copied in batch:
        copied.file.close()
