"""Blocking calls in bounded threads, so that the event loop never waits for a model or a disk.

Each call is `Work`: when nobody waits for it any more it is cancelled, and the models drop what
they have not computed yet.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Generic, Self, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.types import Receive

from rag.errors import Overloaded
from rag.work import Work, working

T = TypeVar("T")

FORGETTING = 0.9  # weight of the past in the mean time of a call


class _End:
    """What `next` gives at the end: a StopIteration cannot leave a thread."""


class Pool:
    """At most `running` calls run and `waiting` more wait; any further raises Overloaded.

    To be used from one event loop.
    """

    def __init__(
        self, running: int, *, waiting: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._turns = asyncio.Semaphore(running)
        self._at_once = running
        self.most = running + waiting
        self.running = 0  # calls whose turn it is
        self._inside = 0
        self._clock = clock
        self._mean_seconds: float | None = None

    @property
    def inside(self) -> int:
        """How many calls run or wait."""
        return self._inside

    @property
    def retry_after(self) -> float:
        """Seconds until the calls that wait have begun, by how long calls took of late.

        1 before any has ended.
        """
        if self._mean_seconds is None:
            return 1.0
        ahead = max(0, self._inside - self._at_once) + 1
        return ahead * self._mean_seconds / self._at_once

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises. Cancelled, it waits for the thread all the same."""
        with self.place():
            async with self.turn():
                return await _in_thread(call, Work())

    def stream(self, call: Callable[[], Generator[T]]) -> "Stream[T]":
        """The events of a blocking generator. Holds a place until closed. Raises Overloaded."""
        self.enter()
        return Stream(call(), self)  # a generator: nothing has run yet

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for the length of a block."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn and have it for the length of a block."""
        started = await self.begin()
        try:
            yield
        finally:
            self.end(started)

    async def drain(self) -> None:
        """Wait until nothing runs any more, and let nothing run again."""
        for _ in range(self._at_once):
            await self._turns.acquire()

    def enter(self) -> None:
        """Take a place. Raises Overloaded."""
        if self._inside >= self.most:
            raise Overloaded(
                f"{self._inside} requests are being worked on already.",
                retry_after=self.retry_after,
                hint="Try again in a moment.",
            )
        self._inside += 1

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1

    async def begin(self) -> float:
        """Wait for one's turn, in the order of those who wait. Returns when it began."""
        await self._turns.acquire()
        self.running += 1
        return self._clock()

    def end(self, began: float) -> None:
        """Give the turn to the next, and learn how long it took."""
        self.running -= 1
        seconds = self._clock() - began
        if self._mean_seconds is None:
            self._mean_seconds = seconds
        self._mean_seconds += (1 - FORGETTING) * (seconds - self._mean_seconds)
        self._turns.release()


class Stream(Generic[T]):
    """A blocking generator as an asynchronous iterator. Close it to stop what makes the events.

    Each step runs in a thread, on behalf of `work`; between the first and closing it has a turn of
    its pool.
    """

    def __init__(self, events: Generator[T], pool: Pool) -> None:
        self.work = Work()
        self._events = events
        self._pool = pool
        self._step: asyncio.Task[T | type[_End]] | None = None
        self._began: float | None = None  # its turn
        self._closed = False

    async def ready(self, seconds: float | None = None) -> bool:
        """Wait for the next event or the end, at most so long; whether it is there."""
        if self._step is None:
            self._step = asyncio.create_task(self._next())
        await asyncio.wait({self._step}, timeout=seconds)
        return self._step.done()

    async def close(self) -> None:
        """Cancel the work, and return when nothing runs any more."""
        if self._closed:
            return
        self._closed = True
        self.work.cancelled.set()
        try:
            with anyio.CancelScope(shield=True):
                if self._step is not None:
                    if self._began is None:
                        self._step.cancel()  # it still waits for its turn
                    # A running generator cannot be closed: the event that it is at comes first.
                    await _ended(self._step)
                if self._began is not None:
                    await _in_thread(self._events.close, self.work)
        finally:
            if self._began is not None:
                self._pool.end(self._began)
            self._pool.leave()

    async def __anext__(self) -> T:
        await self.ready()
        assert self._step is not None
        step, self._step = self._step, None
        event = step.result()
        if event is _End:
            raise StopAsyncIteration
        return event  # type: ignore[return-value] # the only class that is ever yielded is _End

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _next(self) -> T | type[_End]:
        if self._began is None:
            self._began = await self._pool.begin()
        return await _in_thread(lambda: next(self._events, _End), self.work)


async def first(events: Stream[T], receive: Receive) -> T | None:
    """The first event; None when the client went away before it. Without one the stream is closed.

    What is raised before it closes the stream, too.
    """
    found = None
    try:
        found = await unless_gone(receive, anext(events))
    finally:
        if found is None:
            await events.close()
    return found


async def last(events: Stream[T], receive: Receive) -> T | None:
    """The last event of at least one; None when the client went away: then no more is done."""
    async with events:
        return await unless_gone(receive, _last(events))


async def unless_gone(receive: Receive, awaited: Coroutine[Any, Any, T]) -> T | None:
    """What is awaited; None when the client goes away first: then that is cancelled, and ended."""
    wanted = asyncio.create_task(awaited)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({wanted, gone}, return_when=asyncio.FIRST_COMPLETED)
        return wanted.result() if wanted.done() else None
    finally:
        with anyio.CancelScope(shield=True):
            for task in (gone, wanted):
                task.cancel()
                await _ended(task)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _last(events: Stream[T]) -> T:
    latest = await anext(events)
    async for event in events:
        latest = event
    return latest


async def _in_thread(call: Callable[[], T], work: Work) -> T:
    """Run a call in a thread on behalf of work.

    Cancelled, it cancels the work and waits for the thread, which cannot be interrupted.
    """
    with working(work):
        # The pool has counted it already: a limiter of its own never makes it wait.
        limiter = CapacityLimiter(1)
        running = asyncio.create_task(to_thread.run_sync(call, limiter=limiter))
    try:
        await asyncio.wait({running})
    except asyncio.CancelledError:
        work.cancelled.set()
        with anyio.CancelScope(shield=True):
            await _ended(running)
        raise
    return running.result()


async def _ended(task: asyncio.Task[Any]) -> None:
    """Wait for a task whose outcome does not matter any more."""
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # else asyncio complains that nobody looked
