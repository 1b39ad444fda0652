"""A server under load: python -m eval.load [--url http://127.0.0.1:8000]

Asks a running `rag serve` one question at a time and 16 at a time, each without and with documents
being ingested in bulk, and finally sends a burst of questions at one time. No question comes twice,
and the collection holds more than a server remembers. Prints how long questions, /healthz and a
server beside it that does nothing took, and how many requests were answered, refused or lost. Works
in a collection of its own.
"""

import argparse
import asyncio
import re
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, islice
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from rag.demo import documents
from rag.parse import parse_document

WATCH_SECONDS = 0.02  # between two looks at a server
DOCUMENTS = 8  # in one bulk upload
BULK_BEFORE = 3  # bulk uploads before anything is measured: about 600 chunks
CHARACTERS = 20_000  # of one of its documents


@dataclass(slots=True)
class Seen:
    """What one kind of request met: seconds of those that were answered, and every outcome."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def note(self, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1
        if outcome == "200":
            self.seconds.append(seconds)


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked of which collection."""

    collection: str
    askers: int
    asked: int
    new_tokens: int
    questions: Iterator[str]


def main() -> None:
    options = _options()
    load = Load(
        f"load-{uuid4().hex[:8]}",
        options.askers,
        options.questions,
        options.new_tokens,
        distinct_questions(),
    )
    rows, chunks, seconds = asyncio.run(measure(options.url, load, options.burst))
    table = Table("", "p50 ms", "p95 ms", "max ms", "outcomes")
    for name, seen in rows.items():
        figures = [f"{1000 * value:.0f}" for value in percentiles(seen.seconds)]
        outcomes = ", ".join(f"{n} x {status}" for status, n in sorted(seen.outcomes.items()))
        table.add_row(name, *figures, outcomes)
    console = Console()
    console.print(table)
    console.print(f"{chunks} chunks ingested meanwhile, {chunks / seconds:.1f} a second")


async def measure(url: str, load: Load, burst: int) -> tuple[dict[str, Seen], int, float]:
    """(what each kind of request met, chunks ingested under load, seconds of load)."""
    rows: dict[str, Seen] = defaultdict(Seen)
    limits = httpx.Limits(max_connections=None)
    chunks, seconds = 0, 0.0
    async with (
        httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client,
        collection(client, load.collection),
    ):
        for askers, asked in ((1, load.asked // 4), (load.askers, load.asked)):
            with watching(url, rows, f"{askers} asking"):
                await asking(client, load, askers, asked, rows[f"{askers} asking"])
            before, start = await chunks_of(client, load.collection), time.perf_counter()
            name = f"{askers} asking, ingesting"
            with watching(url, rows, name):
                async with ingesting(client, load.collection):
                    await asking(client, load, askers, asked, rows[name])
            seconds += time.perf_counter() - start
            chunks += await chunks_of(client, load.collection) - before
        await asking(client, load, burst, burst, rows[f"{burst} questions at once"])
    return dict(rows), chunks, seconds


def distinct_questions() -> Iterator[str]:
    """Questions about the sample documents, no two alike."""
    for number in count():
        for sentence in re.split(r"(?<=[.!?])\s+", sample_text()):
            if len(words := sentence.split()) >= 8:
                yield f"What about {' '.join(words[number : number + 8])}, and why?"


def sample_text() -> str:
    """The sample documents that are plain text, one after the other."""
    return "\n\n".join(
        parse_document(s.read(10**8), name=s.name, media_type=s.media_type).text
        for s in documents()
        if s.name.endswith((".md", ".html"))
    )


@asynccontextmanager
async def collection(client: httpx.AsyncClient, name: str) -> AsyncIterator[None]:
    """The sample documents in a collection that is deleted again."""
    (await client.post("/v1/collections", json={"name": name})).raise_for_status()
    try:
        files = [("files", (s.name, s.read(10**8))) for s in documents()]
        sent = await client.post("/v1/documents?wait=true", files=files, data={"collection": name})
        sent.raise_for_status()
        for number in range(BULK_BEFORE):
            sent = await client.post("/v1/documents?wait=true", json=_bulk(name, number))
            sent.raise_for_status()
        yield
    finally:
        (await client.delete(f"/v1/collections/{name}")).raise_for_status()


async def asking(
    client: httpx.AsyncClient, load: Load, askers: int, asked: int, seen: Seen
) -> None:
    """Ask so many questions, `askers` of them at any time; every other answer is streamed."""
    waiting = iter(enumerate(islice(load.questions, asked)))

    async def ask() -> None:
        for number, question in waiting:
            body = {
                "collection": load.collection,
                "question": question,
                "max_new_tokens": load.new_tokens,
                "stream": number % 2 == 1,
            }
            start = time.perf_counter()
            outcome = await outcome_of(client.post("/v1/ask", json=body))
            seen.note(outcome, time.perf_counter() - start)

    await asyncio.gather(*(ask() for _ in range(askers)))


async def outcome_of(request: Coroutine[Any, Any, httpx.Response]) -> str:
    """The status, "broken" for a stream that ended in an error, or the error of the transport."""
    try:
        response = await request
    except httpx.HTTPError as error:
        return type(error).__name__
    if response.status_code == 429 and "retry-after" not in response.headers:
        return "429 without Retry-After"
    return "broken" if "event: error" in response.text else str(response.status_code)


@asynccontextmanager
async def ingesting(client: httpx.AsyncClient, name: str) -> AsyncIterator[None]:
    """Documents are ingested without end for the length of the block."""
    task = asyncio.create_task(_ingest(client, name))
    try:
        yield
    finally:
        task.cancel()


async def _ingest(client: httpx.AsyncClient, name: str) -> None:
    for number in count(BULK_BEFORE):
        while (
            response := await client.post("/v1/documents", json=_bulk(name, number))
        ).status_code == 429:
            await asyncio.sleep(float(response.headers["retry-after"]))
        response.raise_for_status()


def _bulk(name: str, number: int) -> dict[str, Any]:
    """A bulk upload of which no two are alike."""
    text = sample_text()[:CHARACTERS]
    documents = [
        {"id": f"bulk-{number}-{n}", "text": text.replace("\n\n", f"\n\nCopy {number}, {n}: ")}
        for n in range(DOCUMENTS)
    ]
    return {"collection": name, "documents": documents}


async def chunks_of(client: httpx.AsyncClient, name: str) -> int:
    """Chunks of a collection."""
    return int((await client.get(f"/v1/collections/{name}")).json()["chunks"])


@contextmanager
def watching(url: str, rows: dict[str, Seen], load: str) -> Iterator[None]:
    """Look at /healthz, and at a server that does nothing, for the length of the block.

    The second says what any process on this machine waits for its turn meanwhile. Both are watched
    from processes of their own: in this one they would wait for the askers.
    """
    with _process(_do_nothing) as idle, ExitStack() as watchers:
        watched = {"/healthz": f"{url}/healthz", "a server that does nothing": idle.recv()}
        links = {
            f"{name}, {load}": watchers.enter_context(_process(_watch, at))
            for name, at in watched.items()
        }
        yield
        for row, link in links.items():
            link.send("enough")
            for outcome, seconds in link.recv():
                rows[row].note(outcome, seconds)


@contextmanager
def _process(target: Callable[..., None], *args: str) -> Iterator[Connection]:
    """The line to a process that is stopped at the end of the block."""
    ours, theirs = Pipe()
    process = Process(target=target, args=(*args, theirs))
    process.start()
    try:
        yield ours
    finally:
        process.terminate()
        process.join()


def _watch(url: str, line: Connection) -> None:
    """Look at a URL until something comes down the line, then send what was seen."""
    seen = []
    with httpx.Client(timeout=60, trust_env=False) as client:
        while not line.poll(WATCH_SECONDS):
            start = time.perf_counter()
            status = client.get(url).status_code
            seen.append((str(status), time.perf_counter() - start))
    line.send(seen)


def _do_nothing(line: Connection) -> None:
    """A server that answers everything with nothing. Sends where it listens."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the client has seen enough
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        line.send(f"http://{host}:{port}/")
        await server.serve_forever()

    asyncio.run(serve())


def percentiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """p50, p95 and the longest; NaN where there is nothing."""
    if not seconds:
        return (float("nan"),) * 3
    p50, p95, longest = np.percentile(seconds, [50, 95, 100])
    return float(p50), float(p95), float(longest)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--askers", type=int, default=16)
    parser.add_argument("--questions", type=int, default=160, help="asked under load")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--burst", type=int, default=200, help="questions at one time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
