"""Searching while documents are ingested: python -m eval.load_search --documents 500

Asks a running `rag serve` one search after the other: with nothing else to do, while it ingests so
many documents, and when it is done with them. Prints how long the searches took and the ratio of
the p95 beside ingestion to the p95 before. No query comes twice. Works in a collection of its own,
in which there are some 600 chunks before.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from uuid import uuid4

import httpx
from rich.console import Console
from rich.table import Table

from eval.load import (
    Seen,
    chunks_of,
    collection,
    distinct_questions,
    outcome_of,
    percentiles,
    sample_text,
    watching,
)

UPLOAD = 50  # documents in one request
LOOK_SECONDS = 0.5  # between two looks at how ingestion goes on
LEAST = 100  # searches beside ingestion, for a p95 to mean something


def main() -> None:
    options = _options()
    console = Console()
    rows, chunks, seconds = asyncio.run(measure(options))
    table = Table("", "p50 ms", "p95 ms", "max ms", "outcomes")
    for name, seen in rows.items():
        figures = [f"{1000 * value:.1f}" for value in percentiles(seen.seconds)]
        outcomes = ", ".join(f"{n} x {status}" for status, n in sorted(seen.outcomes.items()))
        table.add_row(name, *figures, outcomes)
    console.print(table)
    console.print(
        f"{options.documents} documents, {chunks} chunks ingested in {seconds:.1f} s:"
        f" {options.documents / seconds:.1f} documents and {chunks / seconds:.1f} chunks a second"
    )
    beside = rows["searching, ingesting"]
    if len(beside.seconds) < LEAST:
        sys.exit(f"Only {len(beside.seconds)} searches beside ingestion: take more --documents.")
    ratio = percentiles(beside.seconds)[1] / percentiles(rows["searching"].seconds)[1]
    console.print(f"p95 of a search beside ingestion: {ratio:.2f} times its idle value")


async def measure(options: argparse.Namespace) -> tuple[dict[str, Seen], int, float]:
    """(what each kind of request met, chunks ingested meanwhile, seconds that took)."""
    rows: dict[str, Seen] = defaultdict(Seen)
    name, queries = f"load-{uuid4().hex[:8]}", distinct_questions()
    async with (
        httpx.AsyncClient(base_url=options.url, timeout=300, trust_env=False) as client,
        collection(client, name),
    ):
        await searching(client, name, islice(queries, 20), Seen())  # the models are warm
        with watching(options.url, rows, "searching"):
            idle = islice(queries, options.searches)
            await searching(client, name, idle, rows["searching"])
        before, start = await chunks_of(client, name), time.perf_counter()
        with watching(options.url, rows, "searching, ingesting"):
            jobs = await send(client, name, options)
            ingesting = asyncio.create_task(ended(client, jobs))
            beside = _until_done(queries, ingesting)
            await searching(client, name, beside, rows["searching, ingesting"])
            seconds = await ingesting - start
        chunks = await chunks_of(client, name) - before
        afterwards = islice(queries, options.searches)
        await searching(client, name, afterwards, rows["searching, afterwards"])
    return dict(rows), chunks, seconds


async def searching(
    client: httpx.AsyncClient, name: str, queries: Iterator[str], seen: Seen
) -> None:
    """Search for each query, one after the other."""
    for query in queries:
        start = time.perf_counter()
        body = {"collection": name, "query": query}
        outcome = await outcome_of(client.post("/v1/search", json=body))
        seen.note(outcome, time.perf_counter() - start)


async def send(client: httpx.AsyncClient, name: str, options: argparse.Namespace) -> list[str]:
    """Send documents of which no two are alike; the ids of their jobs."""
    numbers, jobs, sample = iter(range(options.documents)), [], sample_text()
    while part := list(islice(numbers, UPLOAD)):
        texts = {n: _text(sample, n, options.characters) for n in part}
        documents = [{"id": f"sent-{n}", "text": text} for n, text in texts.items()]
        body = {"collection": name, "documents": documents}
        sent = await client.post("/v1/documents", json=body)
        sent.raise_for_status()
        jobs.append(sent.json()["job_id"])
    return jobs


async def ended(client: httpx.AsyncClient, jobs: list[str]) -> float:
    """When all jobs were done, in seconds of the performance counter."""
    for job in jobs:
        while (state := (await client.get(f"/v1/jobs/{job}")).json()["state"]) != "done":
            if state in ("failed", "cancelled"):
                raise RuntimeError(f"job {job} {state}")
            await asyncio.sleep(LOOK_SECONDS)
    return time.perf_counter()


def _until_done(queries: Iterator[str], task: "asyncio.Task[float]") -> Iterator[str]:
    while not task.done():
        yield next(queries)


def _text(sample: str, number: int, characters: int) -> str:
    """A piece of the sample, from another place for each number, and marked with it."""
    start = number * 997 % max(1, len(sample) - characters)
    paragraphs = sample[start : start + characters].split("\n\n")
    return "\n\n".join(f"{text} ({number}.{n})" for n, text in enumerate(paragraphs))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--documents", type=int, default=500, help="ingested beside the searches")
    parser.add_argument("--characters", type=int, default=3000, help="of each document")
    parser.add_argument("--searches", type=int, default=300, help="with nothing else to do")
    return parser.parse_args()


if __name__ == "__main__":
    main()
