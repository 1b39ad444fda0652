"""Ingestion as the services run it: through the journal, from files, into an index on the disk."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from eval.stages import Stages
from rag import collection as shelf
from rag import parsed
from rag.jobs import Ingestor, Upload
from rag.models.batching import BatchStats
from rag.models.encoders import LocalEncoder
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.split import split_document
from rag.work import Priority, Work, working

FILES_OF_A_JOB = 50


class Ingest:
    """`Ingestor.submit`, until everything is searchable."""

    def load(self, model: str, folder: str, chunk_tokens: int, overlap: int) -> dict[str, Any]:
        self.rag = Orchestrator.open(folder)
        settings = self.rag.parts.settings
        cut = (settings.models.embedder, settings.chunk_tokens, settings.chunk_overlap)
        if cut != (model, chunk_tokens, overlap):
            raise ValueError(f"the settings say {cut}")
        encoder = self.rag.parts.embedder.encoder
        if not isinstance(encoder, LocalEncoder):
            raise ValueError("the embedder is on another server")
        self.batcher = encoder.batcher
        self.ingestor = Ingestor(self.rag)
        self.ingestor.start()
        return {"precision": f"{type(encoder.engine).__name__} {encoder.engine.precision}"}

    def ingest(self, files: list[str], into: str) -> dict[str, Any]:
        """Seconds and chunks; the share of the time that the embedder computed, and of the speed
        that it has when it does nothing but embed the same chunks.
        """
        shelf.ensure(self.rag.parts, self.rag.scope, into)
        with Stages() as stages:
            before, cpu, start = self.batcher.stats, _cpu_seconds(), time.perf_counter()
            self._ingest(files, into)
            seconds = time.perf_counter() - start
            after, cpu = self.batcher.stats, _cpu_seconds() - cpu
        chunks = self.rag.parts.catalog.collection(self.rag.scope, into).chunks
        return {
            "seconds": seconds,
            "chunks": chunks,
            "busy": after.busy_since(before, seconds),
            "alone": chunks / seconds / self._alone(into),
            "notes": [
                f"{1000 * cpu / chunks:.1f} ms of CPU a chunk with the parsers,"
                f" {cpu / seconds:.2f} cores; {_batches(before, after)}",
                f"ms a document, waited (CPU): {stages.told(len(files))}",
            ],
        }

    def close(self) -> None:
        self.ingestor.close()
        self.rag.parts.close()

    def _ingest(self, files: Sequence[str], into: str) -> None:
        jobs = []
        for at in range(0, len(files), FILES_OF_A_JOB):
            uploads = [_upload(Path(path)) for path in files[at : at + FILES_OF_A_JOB]]
            jobs.append(self.ingestor.submit(self.rag.scope, into, uploads))
            for upload in uploads:
                upload.close()
        for job in jobs:
            self.ingestor.ended(job.id).result()
            ended = self.rag.parts.journal.job(self.rag.scope, job.id)
            if failed := [task.error for task in ended.tasks if task.error]:
                raise ValueError(f"{len(failed)} documents failed, such as {failed[0].message}")

    def _alone(self, collection: str) -> float:
        """Chunks a second when the same ones are embedded in one call and nothing else is done."""
        texts = list(self._texts(collection))
        start = time.perf_counter()
        with working(Work(Priority.BULK)):
            self.rag.parts.embedder.embed_passages(texts)
        return len(texts) / (time.perf_counter() - start)

    def _texts(self, collection: str) -> Iterator[str]:
        parts, scope = self.rag.parts, self.rag.scope
        found = parts.catalog.collection(scope, collection)
        for record in parts.catalog.documents(scope, collection, limit=100_000):
            text, structure = (parts.objects.get(h) for h in (record.text_hash, record.parsed_hash))
            source = Source(record.title, record.source, id=record.id)
            options = shelf.split_options(parts, found, source, record.generation)
            split = split_document(parsed.unpack(text, structure), **options)
            yield from (chunk.embedded_text for chunk in split.chunks)


def _upload(path: Path) -> Upload:
    return Upload(Source(name=path.name, origin=str(path)), path.open("rb"))


def _cpu_seconds() -> float:
    """Of this process and of the parsers that it has."""
    this = psutil.Process()
    used = [one.cpu_times() for one in (this, *this.children(recursive=True))]
    return sum(times.user + times.system for times in used)


def _batches(before: BatchStats, after: BatchStats) -> str:
    batches, rows = after.batches - before.batches, after.rows - before.rows
    tokens, padded = after.tokens - before.tokens, after.padded_tokens - before.padded_tokens
    return (
        f"{rows / batches:.1f} chunks and {tokens / batches:.0f} tokens a batch,"
        f" {1 - tokens / padded:.0%} of it padding"
    )
