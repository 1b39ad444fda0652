"""Bounded threads, and generators that run in them."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from rag.errors import Overloaded
from rag.work import Priority, current_work
from services.threads import Pool, first, last, unless_gone


class Client:
    """The far end of a request: it stays until it goes."""

    def __init__(self):
        self._gone = asyncio.Event()

    def go(self):
        self._gone.set()

    async def receive(self):
        await self._gone.wait()
        return {"type": "http.disconnect"}


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


def test_who_is_turned_away_is_told_when_there_will_be_room():
    """Two run at once and three wait, four seconds each: the queue is empty in (3 + 1) * 4 / 2."""

    async def crowded() -> float:
        now, release = [0.0], threading.Event()
        pool = Pool(2, waiting=3, clock=lambda: now[0])
        assert pool.retry_after == 1.0, "nothing is known yet"

        def four_seconds():
            now[0] += 4.0

        await pool.run(four_seconds)
        calls = [asyncio.create_task(pool.run(lambda: release.wait(10))) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await pool.run(four_seconds)
        release.set()
        await asyncio.gather(*calls)
        return refused.value.retry_after

    assert asyncio.run(crowded()) == 8.0


def test_a_call_works_for_somebody_who_waits():
    async def run():
        return await Pool(1).run(current_work)

    work = asyncio.run(run())
    assert work.priority is Priority.INTERACTIVE
    assert not work.cancelled.is_set()


def test_a_call_whose_client_goes_is_cancelled_and_ended():
    async def leave():
        pool, client, ended = Pool(1), Client(), threading.Event()
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def search():
            loop.call_soon_threadsafe(started.set)
            assert current_work().cancelled.wait(10)
            ended.set()

        searching = asyncio.create_task(unless_gone(client.receive, pool.run(search)))
        await started.wait()
        client.go()
        assert await searching is None
        assert ended.is_set()
        assert pool.inside == 0
        assert await pool.run(lambda: "the next one") == "the next one"

    asyncio.run(leave())


def test_a_client_that_stays_gets_the_result_or_the_error():
    async def stay():
        client, pool = Client(), Pool(1)
        assert await unless_gone(client.receive, pool.run(lambda: 7)) == 7
        with pytest.raises(ZeroDivisionError):
            await unless_gone(client.receive, pool.run(lambda: 1 / 0))
        assert pool.inside == 0

    asyncio.run(stay())


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
        assert await first(events, Client().receive) == "first"
        assert not await events.ready(0)
        closing = asyncio.create_task(events.close())
        await asyncio.sleep(0)
        assert not closed.is_set()
        assert events.work.cancelled.is_set(), "the model is told at once"
        release.set()
        await closing

    asyncio.run(read())
    assert closed.is_set()


def test_a_stream_keeps_its_turn_between_its_events():
    """Two answers of one turn come one after the other; neither is half of each."""

    async def read():
        pool = Pool(1, waiting=1)
        one, other = (pool.stream(lambda: (n for n in range(2))) for _ in range(2))
        assert await anext(one) == 0
        assert not await other.ready(0)
        assert await anext(one) == 1
        assert not await other.ready(0)
        await one.close()
        async with other:
            assert [n async for n in other] == [0, 1]
        assert pool.inside == 0

    asyncio.run(read())


def test_who_goes_while_waiting_for_a_turn_was_never_worked_for():
    async def leave():
        pool, client, asked = Pool(1, waiting=1), Client(), []
        async with pool.stream(lambda: (n for n in range(2))) as running:
            await anext(running)
            events = pool.stream(lambda: (asked.append(n) for n in range(2)))
            waiting = asyncio.create_task(last(events, client.receive))
            await asyncio.sleep(0)
            client.go()
            assert await waiting is None
            assert pool.inside == 1
        assert pool.inside == 0
        assert asked == []
        async with pool.stream(lambda: (n for n in range(2))) as again:
            assert await anext(again) == 0, "the turn was not lost"

    asyncio.run(leave())


@pytest.mark.parametrize("read", [first, last])
def test_who_goes_before_the_first_event_stops_what_makes_it(read):
    async def leave():
        pool, client = Pool(1), Client()
        started, closed = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def answer():
            try:
                loop.call_soon_threadsafe(started.set)
                assert current_work().cancelled.wait(10)
                yield "too late"
            finally:
                closed.set()

        reading = asyncio.create_task(read(pool.stream(answer), client.receive))
        await started.wait()
        client.go()
        assert await reading is None
        assert closed.is_set()
        assert pool.inside == 0

    asyncio.run(leave())


def test_every_step_of_a_stream_is_the_same_work():
    def steps():
        yield current_work()
        yield current_work()

    async def read():
        async with Pool(1).stream(steps) as events:
            assert {id(work) async for work in events} == {id(events.work)}

    asyncio.run(read())


def test_context_variables_of_the_request_are_there_in_each_step():
    """What a line of the log is told by, whichever thread a step runs in, closing included."""
    request: ContextVar[str] = ContextVar("request", default="nobody's")
    seen = []

    def made():
        try:
            for _ in range(3):
                seen.append(request.get())
                yield
        finally:
            seen.append(request.get())

    async def asked(name: str, pool: Pool) -> None:
        request.set(name)
        assert await pool.run(request.get) == name
        async with pool.stream(made) as events:
            await anext(events)
            await anext(events)

    async def both() -> None:
        pool = Pool(1, waiting=1)
        for name in ("one", "other"):
            await asyncio.create_task(asked(name, pool))
        assert (pool.running, pool.inside) == (0, 0)

    asyncio.run(both())
    assert seen == ["one"] * 3 + ["other"] * 3


def test_what_the_generator_raises_comes_out_and_gives_the_place_back():
    def broken():
        raise ValueError("at once")
        yield

    async def read() -> int:
        pool = Pool(1)
        for way in (first, last):
            with pytest.raises(ValueError, match="at once"):
                await way(pool.stream(broken), Client().receive)
        return pool.inside

    assert asyncio.run(read()) == 0


def test_a_stream_ends_and_the_last_event_is_the_last():
    async def read() -> tuple[list[int], int | None]:
        pool = Pool(1)
        async with pool.stream(lambda: (n for n in range(3))) as numbers:
            read = [n async for n in numbers]
        return read, await last(pool.stream(lambda: (n for n in range(3))), Client().receive)

    assert asyncio.run(read()) == ([0, 1, 2], 2)


def test_draining_waits_for_what_runs():
    async def stop():
        pool, release = Pool(2), threading.Event()
        running = asyncio.create_task(pool.run(lambda: release.wait(10)))
        await asyncio.sleep(0)
        draining = asyncio.create_task(pool.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        release.set()
        await draining
        assert running.done()

    asyncio.run(stop())
