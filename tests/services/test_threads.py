"""Bounded threads, and generators that run in them."""

import asyncio
import threading

import pytest

from rag.errors import Overloaded
from services.threads import Pool, first


def test_what_does_not_fit_is_turned_away_and_the_loop_stays_free():
    async def crowded() -> list[str]:
        pool, release = Pool(1, waiting=1), threading.Event()
        running = asyncio.create_task(pool.run(lambda: release.wait(10)))
        waiting = asyncio.create_task(pool.run(lambda: "waited"))
        await asyncio.sleep(0)
        assert pool.inside == 2
        with pytest.raises(Overloaded):
            await pool.run(lambda: "no place")
        release.set()  # by the loop, which the blocked thread does not block
        done = [str(await running), await waiting]
        assert pool.inside == 0
        return done

    assert asyncio.run(crowded()) == ["True", "waited"]


def test_closing_a_stream_closes_the_generator_in_the_middle():
    closed = threading.Event()

    def count():
        try:
            at = 0
            while True:
                at += 1
                yield at
        finally:
            closed.set()

    async def read() -> list[int]:
        pool = Pool(1)
        async with pool.stream(count) as numbers:
            read = [await anext(numbers), await anext(numbers)]
            with pytest.raises(Overloaded):
                pool.stream(count)
        await numbers.close()  # again: nothing happens
        assert pool.inside == 0
        return read

    assert asyncio.run(read()) == [1, 2]
    assert closed.is_set()


def test_a_stream_is_ready_or_not_and_closing_waits_for_the_event_it_is_at():
    release, closed = threading.Event(), threading.Event()

    def slow():
        try:
            yield "first"
            release.wait(10)
            yield "second"
        finally:
            closed.set()

    async def read() -> None:
        events = Pool(1).stream(slow)
        assert await first(events) == "first"
        assert not await events.ready(0)
        closing = asyncio.create_task(events.close())
        await asyncio.sleep(0)
        assert not closed.is_set()
        release.set()
        await closing

    asyncio.run(read())
    assert closed.is_set()


def test_what_the_generator_raises_comes_out_and_gives_the_place_back():
    def broken():
        raise ValueError("at once")
        yield

    async def read() -> int:
        pool = Pool(1)
        with pytest.raises(ValueError, match="at once"):
            await first(pool.stream(broken))
        return pool.inside

    assert asyncio.run(read()) == 0


def test_a_stream_ends():
    async def read() -> list[int]:
        async with Pool(1).stream(lambda: (n for n in range(3))) as numbers:
            return [n async for n in numbers]

    assert asyncio.run(read()) == [0, 1, 2]
