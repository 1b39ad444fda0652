"""Many clients at once: python -m eval.load_answers --clients 200 --seconds 300

Starts `rag serve` with the starter profile over the sample collection, and asks it from so many
clients, each streaming one answer after the other, as fast as it is let. In the second half,
clients that read a byte a second, and clients that never end their request, come beside them.
Prints the time to the first byte and to the end, every outcome, and the server's memory; exits 1
when there was an error that is no 429, when memory grew, or when the slow ones held the others up.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from eval.load import percentiles
from rag.demo import FOLDER

QUESTIONS = (
    "Who built the Bell Rock lighthouse?",
    "What is a Fresnel lens made of?",
    "When was the Eddystone lighthouse lit for the first time?",
    "How are fog signals given?",
    "Who keeps a lighthouse?",
    "What did Smeaton learn from an oak?",
)
COLLECTION = "lighthouses"
SLOW, HALF_OPEN = 40, 200
MOST_GROWTH = 0.10  # of the resident memory, from a third of the time to its end
MOST_HELD_UP = 1.5  # median time to the first byte beside slow ones, against without them
START_SECONDS = 120


@dataclass
class Half:
    """What the clients met in one half: seconds of answered requests, and all outcomes."""

    first_byte: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)


def main() -> None:
    options = _options()
    console = Console()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as (address, process):
        halves, memory = asyncio.run(measure(address, process, options))
    table = Table("", "answers", "first byte p50 ms", "p95", "p99", "whole p50 ms", "outcomes")
    for name, half in halves.items():
        first = sorted(half.first_byte)
        marks = (0.5, 0.95, 0.99)
        shown = [f"{1000 * first[int(mark * (len(first) - 1))]:.0f}" for mark in marks]
        outcomes = ", ".join(f"{n} x {what}" for what, n in sorted(half.outcomes.items()))
        whole = f"{1000 * percentiles(half.whole)[0]:.0f}"
        table.add_row(name, str(len(first)), *shown, whole, outcomes)
    console.print(table)
    settled = [size for at, size in memory if at >= options.seconds / 3]
    third = max(1, len(settled) // 4)
    begin, end = sum(settled[:third]) / third, sum(settled[-third:]) / third
    console.print(
        f"resident memory: {begin / 2**20:.0f} MB after a third of the time,"
        f" {end / 2**20:.0f} MB at its end, {max(settled) / 2**20:.0f} MB at most"
    )
    wrong = [
        f"{n} x {what}"
        for half in halves.values()
        for what, n in half.outcomes.items()
        if what not in ("answered", "429")
    ]
    before, beside = (sorted(half.first_byte) for half in halves.values())
    held_up = beside[len(beside) // 2] / before[len(before) // 2]
    console.print(f"median time to the first byte beside slow clients: {held_up:.2f} times")
    if wrong or end > (1 + MOST_GROWTH) * begin or held_up > MOST_HELD_UP:
        sys.exit(f"It does not hold: {'; '.join(wrong) or 'see above'}.")


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server of its own with the sample collection."""
    rag = [sys.executable, "-c", "from services.cli import main; main()"]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "RAG_DATA": str(folder / "data"),
        "RAG_PROFILE": "starter",
        "RAG_PORT": str(port),
        "RAG_LOG_LEVEL": "warning",
    }
    ingest = [*rag, "ingest", str(FOLDER), "--collection", COLLECTION]
    subprocess.run(ingest, env=environment, check=True, stdout=subprocess.DEVNULL)
    serve = [*rag, "serve"]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(serve, env=environment, stdout=log, stderr=log) as started,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            end = time.monotonic() + START_SECONDS
            while not _is_ready(address):
                if time.monotonic() > end or started.poll() is not None:
                    sys.exit("The server does not become ready.")
                time.sleep(0.2)
            yield address, psutil.Process(started.pid)
        finally:
            started.terminate()


async def measure(
    address: str, process: psutil.Process, options: argparse.Namespace
) -> tuple[dict[str, Half], list[tuple[float, int]]]:
    """(both halves, [(seconds since the beginning, bytes)])."""
    halves = {"streaming": Half(), "beside slow and half-open clients": Half()}
    begin = time.monotonic()
    middle, end = begin + options.seconds / 2, begin + options.seconds
    memory: list[tuple[float, int]] = []
    limits = httpx.Limits(max_connections=options.clients, max_keepalive_connections=None)
    questions = cycle(QUESTIONS)

    async def ask_on(client: httpx.AsyncClient) -> None:
        while (now := time.monotonic()) < end:
            half = list(halves.values())[now >= middle]
            wait = await _ask(client, next(questions), half)
            if wait:
                await asyncio.sleep(min(wait, max(0.0, end - time.monotonic())))

    async def watch() -> None:
        while (now := time.monotonic()) < end:
            memory.append((now - begin, _resident(process)))
            await asyncio.sleep(1)

    async def hinder() -> None:
        await asyncio.sleep(middle - time.monotonic())
        slow = [_read_slowly(address, end) for _ in range(SLOW)]
        half_open = [_never_end(address, end) for _ in range(HALF_OPEN)]
        await asyncio.gather(*slow, *half_open)

    async with httpx.AsyncClient(
        base_url=address, timeout=60, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(ask_on(client) for _ in range(options.clients)), watch(), hinder())
    return halves, memory


async def _ask(client: httpx.AsyncClient, question: str, half: Half) -> float:
    """Stream one answer. Returns the seconds to wait before the next."""
    began = time.monotonic()
    try:
        async with client.stream(
            "POST", "/v1/ask", json={"question": question, "collection": COLLECTION, "stream": True}
        ) as response:
            if response.status_code == 429:
                half.outcomes["429"] += 1
                return float(response.headers["retry-after"])
            if response.status_code != 200:
                half.outcomes[str(response.status_code)] += 1
                return 1.0
            first, ended = 0.0, False
            async for line in response.aiter_lines():
                first = first or time.monotonic() - began
                ended = ended or line == "event: done"
    except httpx.HTTPError as error:
        half.outcomes[type(error).__name__] += 1
        return 1.0
    half.outcomes["answered" if ended else "not ended"] += 1
    half.first_byte.append(first)
    half.whole.append(time.monotonic() - began)
    return 0.0


async def _read_slowly(address: str, end: float) -> None:
    """Ask, and take a byte a second of the answer."""
    body = json.dumps({"question": QUESTIONS[0], "collection": COLLECTION, "stream": True}).encode()
    head = f"POST /v1/ask HTTP/1.1\r\nHost: {address.removeprefix('http://')}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    while time.monotonic() < end:
        reader, writer = await _connected(address, small=True)
        writer.write(head.encode() + body)
        while time.monotonic() < end:
            if not await reader.read(1):
                break
            await asyncio.sleep(1)
        writer.close()


async def _never_end(address: str, end: float) -> None:
    """Send half of a request, and no more."""
    _, writer = await _connected(address)
    writer.write(b"POST /v1/ask HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
    await asyncio.sleep(max(0.0, end - time.monotonic()))
    writer.close()


async def _connected(
    address: str, *, small: bool = False
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    opened = socket.socket()
    opened.setblocking(False)
    if small:  # little is buffered on the way: the server soon waits for the reader
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    host, port = address.removeprefix("http://").split(":")
    await asyncio.get_running_loop().sock_connect(opened, (host, int(port)))
    return await asyncio.open_connection(sock=opened, limit=1024)


def _resident(process: psutil.Process) -> int:
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=300)
    return parser.parse_args()


if __name__ == "__main__":
    main()
