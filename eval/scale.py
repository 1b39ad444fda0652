"""What a large collection costs: python -m eval.scale --chunks 200000

Builds a data folder through the journal with random vectors (what the model would make of the texts
does not matter here; store, catalog, journal, splitter and BM25 are the real ones), looks at speed,
memory and searches on the way, kills the process at the end, and starts again: once after the kill,
once after a clean end. Prints a table of the way, one of the starts, and what each step took.
"""

import argparse
import hashlib
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from eval.perf.places import RETRIEVAL_SETS
from eval.perf.texts import SETS
from eval.stages import Stages
from rag import collection as shelf
from rag.demo import documents as demo_documents
from rag.embed import Embedder
from rag.errors import RagError
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.models.load import resolve
from rag.models.presets import embedder_preset
from rag.models.tokens import TokenVectors, load_tokenizer
from rag.orchestrator import Orchestrator
from rag.parse import parse_document
from rag.sources import Source

MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # whose tokenizer cuts; its vectors are 384 wide
DIM = 384
COLLECTION = "large"
PARAGRAPHS = 40  # of a document: about 20 chunks
DOCUMENTS_OF_A_JOB = 100
MARKS = (2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 150_000)
SEARCHES = 100


class RandomVectors:
    """Stands for an embedding model: the same text has the same vector, of unit length."""

    dim = DIM

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float32]:  # noqa: ARG002
        return np.stack([_vector(text) for text in texts])

    def token_vectors(self, texts: Sequence[str], *, max_tokens: int) -> list[TokenVectors]:
        raise NotImplementedError("random vectors rerank nothing")

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Mark:
    """How things stood when so many chunks were there. Sizes are MiB, searches milliseconds."""

    chunks: int
    documents: int
    per_second: float  # chunks, since the mark before
    anonymous: float  # memory of the process
    mapped: float  # of its files, which the system takes away when it needs the room
    searches: tuple[float, ...]
    searches_beside: tuple[float, ...]  # while documents were ingested
    disk: dict[str, float]
    steps: str


@dataclass(frozen=True, slots=True)
class Start:
    """A start, in seconds, and what it found."""

    after: str
    opened: float
    taken_up: float
    first_search: float
    searches: tuple[float, ...]
    anonymous: float
    fsck: float
    findings: list[str]


def main() -> None:
    options = _options()
    console = Console(width=None if options.folder else 150)
    marks = [mark for mark in MARKS if mark < options.chunks] + [options.chunks]
    with tempfile.TemporaryDirectory(prefix="scale-", dir=options.folder) as folder:
        found = []
        for mark in _killed_at_the_end(Path(folder), options.texts, marks):
            found.append(mark)
            console.print(f"{mark.chunks} chunks: {mark.per_second:.0f} chunks/s", highlight=False)
        starts = [_in_a_process(Path(folder), options.texts, how) for how in ("a kill", "an end")]
    console.print(_way(found), _starts(starts))
    for mark in found:
        console.print(f"{mark.chunks} chunks, ms a document, waited (CPU): {mark.steps}")
    if options.json:
        written = {"way": [asdict(m) for m in found], "starts": [asdict(s) for s in starts]}
        options.json.write_text(json.dumps(written, indent=2) + "\n", "utf8")


def _killed_at_the_end(data: Path, texts: Path, marks: Sequence[int]) -> Iterator[Mark]:
    """The marks of a process that ingests, which is killed after the last."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_build, args=(data, texts, marks, theirs))
    process.start()
    theirs.close()  # so that its end is seen here
    try:
        for _ in marks:
            yield ours.recv()
    finally:
        process.kill()
        process.join()


def _in_a_process(data: Path, texts: Path, after: str) -> Start:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_start, args=(data, texts, after, theirs))
    process.start()
    theirs.close()
    try:
        found: Start = ours.recv()
    finally:
        process.join()
    return found


# In processes of their own


def _build(data: Path, texts: Path, marks: Sequence[int], line: Connection) -> None:
    rag = _open(data)
    shelf.ensure(rag.parts, rag.scope, COLLECTION)
    ingestor = Ingestor(rag)
    ingestor.start()
    paragraphs, questions = _texts(texts)
    coming = _documents(paragraphs)
    of_a_document = 20.0  # chunks, as measured so far
    documents = 0
    for mark in marks:
        with Stages() as stages:
            start, before = time.perf_counter(), _chunks(rag)
            beside: list[float] = []
            while (missing := mark - _chunks(rag)) > 0:
                count = max(1, round(missing / of_a_document))
                _ingest(rag, ingestor, islice(coming, count), questions, beside)
                documents += count
                of_a_document = _chunks(rag) / documents
            seconds = time.perf_counter() - start
        done = _chunks(rag) - before
        line.send(
            Mark(
                chunks=_chunks(rag),
                documents=documents,
                per_second=done / seconds,
                **_memory(),
                searches=tuple(_searches(rag, questions)),
                searches_beside=tuple(beside),
                disk=_disk(data),
                steps=stages.told(max(1, round(done / of_a_document))),
            )
        )
    line.recv()  # nothing comes: it is killed here


def _start(data: Path, texts: Path, after: str, line: Connection) -> None:
    _, questions = _texts(texts)
    began = time.perf_counter()
    rag = _open(data)
    opened = time.perf_counter() - began
    first = next(iter(_searches(rag, questions[:1]))) / 1000
    began = time.perf_counter()
    ingestor = Ingestor(rag)
    ingestor.start()
    taken_up = time.perf_counter() - began
    searches = tuple(_searches(rag, questions))
    memory = _memory()["anonymous"]
    ingestor.close()
    began = time.perf_counter()
    findings = [f"{finding.kind}: {finding.what}" for finding in examine(rag.parts)]
    fsck = time.perf_counter() - began
    rag.parts.close()
    line.send(Start(after, opened, taken_up, first, searches, memory, fsck, findings[:10]))


def _open(data: Path) -> Orchestrator:
    rag = Orchestrator.open(data, embedder="random", reranker="none", generator="quote")
    files = resolve(MODEL)
    preset = embedder_preset(MODEL, files.path)
    tokenizer = load_tokenizer(files.path, lower_case=preset.lower_case)
    rag.parts._loaded["embedder"] = Embedder("random", RandomVectors(), preset, tokenizer)
    return rag


def _ingest(
    rag: Orchestrator,
    ingestor: Ingestor,
    texts: Iterator[str],
    questions: Sequence[str],
    beside: list[float],
) -> None:
    """Hand all of them in, then search now and then until they are there."""
    jobs = []
    while part := list(islice(texts, DOCUMENTS_OF_A_JOB)):
        uploads = [Upload(Source("text", _name(text), id=_name(text), text=text)) for text in part]
        jobs.append(ingestor.submit(rag.scope, COLLECTION, uploads))
    for number, job in enumerate(jobs):
        ingestor.ended(job.id).result()
        beside += _searches(rag, [questions[number % len(questions)]])
        ended = rag.parts.journal.job(rag.scope, job.id)
        if failed := [task.error for task in ended.tasks if task.error]:
            raise RagError(f"{len(failed)} documents failed, such as {failed[0].message}")


def _searches(rag: Orchestrator, questions: Sequence[str]) -> Iterator[float]:
    """Milliseconds of each."""
    for question in questions:
        start = time.perf_counter()
        rag.search(question, collection=COLLECTION, rerank=False)
        yield 1000 * (time.perf_counter() - start)


def _chunks(rag: Orchestrator) -> int:
    return rag.parts.catalog.collection(rag.scope, COLLECTION).chunks


def _memory() -> dict[str, float]:
    lines = Path("/proc/self/status").read_text("utf8").splitlines()
    fields = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    kinds = {"anonymous": "RssAnon", "mapped": "RssFile"}
    return {kind: int(fields[name].split()[0]) / 1024 for kind, name in kinds.items()}


def _disk(data: Path) -> dict[str, float]:
    """MiB that are really taken: files of the store have holes."""
    return {
        path.name: sum(
            512 * file.stat().st_blocks for file in (path, *path.rglob("*")) if file.is_file()
        )
        / 2**20
        for path in sorted(data.iterdir())
    }


# Texts


def _texts(folder: Path) -> tuple[list[str], list[str]]:
    """(paragraphs, questions) of the sets in a folder, else of the sample documents."""
    sets = [folder / name for name in SETS if (folder / name).is_dir()]
    if not sets:
        texts = [parse_document(s.read(10**8), name=s.name).text for s in demo_documents()]
        paragraphs = [part for text in texts for part in text.split("\n\n") if part.strip()]
        return paragraphs, [f"What of {' '.join(p.split()[:8])}?" for p in paragraphs[:SEARCHES]]
    paragraphs = [row["text"] for one in sets for row in _rows(one / "corpus.jsonl")]
    questions = [row["text"] for one in sets for row in _rows(one / "queries.jsonl")]
    random.Random(1).shuffle(questions)
    return [text for text in paragraphs if text.strip()], questions[:SEARCHES]


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf8") as lines:
        yield from map(json.loads, lines)


def _documents(paragraphs: Sequence[str]) -> Iterator[str]:
    """Texts of paragraphs that are drawn anew each time, without end."""
    draw = random.Random(0)
    while True:
        yield "\n\n".join(draw.choice(paragraphs) for _ in range(PARAGRAPHS))


def _name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _vector(text: str) -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
    values = np.random.default_rng(seed).standard_normal(DIM, dtype=np.float32)
    return values / np.linalg.norm(values)


# Tables


def _way(marks: Sequence[Mark]) -> Table:
    table = Table("chunks", "documents", "chunks/s", "memory MiB", "and mapped",
                  "search p50, p95 ms", "while ingesting", "disk MiB")  # fmt: skip
    for mark in marks:
        table.add_row(
            str(mark.chunks), str(mark.documents), f"{mark.per_second:.0f}",
            f"{mark.anonymous:.0f}", f"{mark.mapped:.0f}", _percentiles(mark.searches),
            _percentiles(mark.searches_beside),
            ", ".join(f"{name} {size:.0f}" for name, size in mark.disk.items()),
        )  # fmt: skip
    return table


def _starts(starts: Sequence[Start]) -> Table:
    table = Table("start after", "open s", "first search s", "take up s", "search p50, p95 ms",
                  "memory MiB", "fsck s", "fsck says")  # fmt: skip
    for one in starts:
        table.add_row(
            one.after, f"{one.opened:.2f}", f"{one.first_search:.2f}", f"{one.taken_up:.2f}",
            _percentiles(one.searches), f"{one.anonymous:.0f}", f"{one.fsck:.1f}",
            "; ".join(one.findings) or "everything fits",
        )  # fmt: skip
    return table


def _percentiles(milliseconds: Sequence[float]) -> str:
    if not milliseconds:
        return ""
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return f"{p50:.1f}, {p95:.1f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=200_000)
    parser.add_argument("--texts", type=Path, default=RETRIEVAL_SETS, help="folder of BEIR sets")
    parser.add_argument("--folder", type=Path, help="where the data folder is made; deleted again")
    parser.add_argument("--json", type=Path, help="write all of it here as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
