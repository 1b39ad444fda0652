"""Clients that go away in the middle of a streamed answer leave nothing behind."""

import asyncio
import gc
import logging
import os
import threading
import time

import httpx
import psutil

from rag.orchestrator import Orchestrator
from rag.types import Scope
from services.app import create_app
from tests.services.serving import running, with_settings
from tests.waiting import until

log = logging.getLogger(__name__)

COUNT = int(os.environ.get("RAG_SOAK_DISCONNECTS", "60"))
AT_ONCE = 12
GROWTH = 150 * 2**20  # bytes; an answer that stays holds its passages, prompt, stream and threads


def asked(route, collection):
    question = "Who built Bell Rock?"
    if route == "/v1/ask":
        return {"collection": collection, "question": question, "stream": True,
                "max_new_tokens": 1500}  # fmt: skip
    turns = [{"role": "user", "content": question}]
    return {"model": collection, "messages": turns, "stream": True, "max_tokens": 1500}


async def leave(client, route, collection, after):
    """Begin an answer, read so many pieces of it, and hang up."""
    body = asked(route, collection)
    async with client.stream("POST", route, json=body) as response:
        if response.status_code == 429:
            return False
        assert response.status_code == 200
        seen = 0
        async for line in response.aiter_lines():
            seen += line.startswith("data:")
            if seen >= after:
                break
    return True


async def leave_all(address, collection, count):
    limits = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=address, timeout=60, trust_env=False, limits=limits
    ) as client:
        places = asyncio.Semaphore(AT_ONCE)

        async def one(number):
            route = ("/v1/ask", "/v1/chat/completions")[number % 2]
            async with places:
                end = time.monotonic() + 120
                while not await leave(client, route, collection, after=1 + number % 5):
                    assert time.monotonic() < end, "no place becomes free"
                    await asyncio.sleep(0.02)  # asking again at once would leave nobody any time

        await asyncio.gather(*map(one, range(count)))


def test_generation_stops_and_nothing_is_left(lm_parts, lighthouses):
    parts = with_settings(lm_parts, max_answers=AT_ONCE, answers_waiting=AT_ONCE)
    app = create_app(orchestrator=Orchestrator(parts, Scope("default")))
    process = psutil.Process()

    def idle():
        return app.state.service.answers.inside == 0

    with running(app) as client:
        address = str(client.base_url)
        asyncio.run(leave_all(address, lighthouses, COUNT // 4))  # what is loaded once is there
        until(idle)
        gc.collect()
        threads, memory = threading.active_count(), process.memory_info().rss
        asyncio.run(leave_all(address, lighthouses, COUNT - COUNT // 4))
        until(idle)
        gc.collect()
        grown = process.memory_info().rss - memory
        log.info("%d clients left, %.1f MB more", COUNT, grown / 2**20)
        # A pool that had idle places before may have started threads for them.
        assert threading.active_count() <= threads + AT_ONCE
        assert grown < GROWTH
        body = asked("/v1/ask", lighthouses) | {"stream": False, "max_new_tokens": 4}
        answers = [client.post("/v1/ask", json=body) for _ in range(AT_ONCE)]
        assert {answer.status_code for answer in answers} == {200}
