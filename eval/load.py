"""A server under load: python -m eval.load [--url http://127.0.0.1:8000]

Asks a running `rag serve` alone, then with 16 askers at once while documents are ingested in bulk,
and finally sends a burst of questions at one time. Prints how long questions and /healthz took, and
how many requests were answered, refused or lost. Works in a collection of its own.
"""

import argparse
import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count, cycle, islice
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from rag.demo import documents, questions
from rag.parse import parse_document

HEALTH_SECONDS = 0.02  # between two looks at /healthz
DOCUMENTS = 8  # in one bulk upload
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


def main() -> None:
    options = _options()
    load = Load(f"load-{uuid4().hex[:8]}", options.askers, options.questions, options.new_tokens)
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
    rows = {name: Seen() for name in ("/healthz, idle", "/healthz, loaded", "one asker, idle")}
    rows[loaded := f"{load.askers} askers, ingesting"] = Seen()
    rows[at_once := f"{burst} questions at once"] = Seen()
    limits = httpx.Limits(max_connections=None)
    async with (
        httpx.AsyncClient(base_url=url, timeout=300, limits=limits, trust_env=False) as client,
        collection(client, load.collection),
    ):
        with watching_health(url, rows["/healthz, idle"]):
            await asking(client, load, 1, load.asked // 4, rows["one asker, idle"])
        before, start = await chunks_of(client, load.collection), time.perf_counter()
        with watching_health(url, rows["/healthz, loaded"]):
            async with ingesting(client, load.collection):
                await asking(client, load, load.askers, load.asked, rows[loaded])
        seconds = time.perf_counter() - start
        chunks = await chunks_of(client, load.collection) - before
        await asking(client, load, burst, burst, rows[at_once])
    return rows, chunks, seconds


@asynccontextmanager
async def collection(client: httpx.AsyncClient, name: str) -> AsyncIterator[None]:
    """The sample documents in a collection that is deleted again."""
    (await client.post("/v1/collections", json={"name": name})).raise_for_status()
    try:
        files = [("files", (s.name, s.read(10**8))) for s in documents()]
        sent = await client.post("/v1/documents?wait=true", files=files, data={"collection": name})
        sent.raise_for_status()
        yield
    finally:
        (await client.delete(f"/v1/collections/{name}")).raise_for_status()


async def asking(
    client: httpx.AsyncClient, load: Load, askers: int, asked: int, seen: Seen
) -> None:
    """Ask so many questions, `askers` of them at any time; every other answer is streamed."""
    waiting = iter(enumerate(islice(cycle(q.question for q in questions()), asked)))

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
    text = "\n\n".join(
        parse_document(s.read(10**8), name=s.name, media_type=s.media_type).text
        for s in documents()
        if s.name.endswith((".md", ".html"))
    )
    for number in count():
        sent = [
            {"id": f"bulk-{number}-{n}", "text": f"Copy {number}, {n}.\n\n{text[:CHARACTERS]}"}
            for n in range(DOCUMENTS)
        ]
        body = {"collection": name, "documents": sent}
        while (response := await client.post("/v1/documents", json=body)).status_code == 429:
            await asyncio.sleep(float(response.headers["retry-after"]))
        response.raise_for_status()


async def chunks_of(client: httpx.AsyncClient, name: str) -> int:
    """Chunks of a collection."""
    return int((await client.get(f"/v1/collections/{name}")).json()["chunks"])


@contextmanager
def watching_health(url: str, seen: Seen) -> Iterator[None]:
    """Look at /healthz again and again for the length of the block, in a thread of its own."""
    stop = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            while not stop.wait(HEALTH_SECONDS):
                start = time.perf_counter()
                status = client.get("/healthz").status_code
                seen.note(str(status), time.perf_counter() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
