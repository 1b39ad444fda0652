"""Blocking calls in bounded threads, so that the event loop never waits for a model or a disk."""

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

import anyio
from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from rag.errors import Overloaded

T = TypeVar("T")


class _End:
    """What `next` gives at the end: a StopIteration cannot leave a thread."""


class Pool:
    """At most `threads` calls run and `waiting` more wait; any further raises Overloaded.

    To be used from one event loop.
    """

    def __init__(self, threads: int, *, waiting: int = 0, retry_after: float = 1.0) -> None:
        self._limiter = CapacityLimiter(threads)
        self._size = threads + waiting
        self._inside = 0
        self._retry_after = retry_after

    @property
    def inside(self) -> int:
        """How many calls run or wait."""
        return self._inside

    async def run(self, call: Callable[[], T]) -> T:
        """What the call returns or raises."""
        with self.place():
            return await to_thread.run_sync(call, limiter=self._limiter)

    def stream(self, call: Callable[[], Generator[T]]) -> "Stream[T]":
        """The events of a blocking generator. Holds a place until closed. Raises Overloaded."""
        events = call()  # a generator: nothing has run yet
        self.enter()
        return Stream(events, self._limiter, self.leave)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for the length of a block."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Take a place. Raises Overloaded."""
        if self._inside >= self._size:
            raise Overloaded(
                f"{self._inside} requests are being worked on already.",
                retry_after=self._retry_after,
                hint="Try again in a moment.",
            )
        self._inside += 1

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1


class Stream(Generic[T]):
    """A blocking generator as an asynchronous iterator. Close it to stop what makes the events."""

    def __init__(
        self, events: Generator[T], limiter: CapacityLimiter, leave: Callable[[], None]
    ) -> None:
        self._events = events
        self._limiter = limiter
        self._leave = leave
        self._step: asyncio.Task[T | type[_End]] | None = None
        self._closed = False

    async def ready(self, seconds: float | None = None) -> bool:
        """Wait for the next event or the end, at most so long; whether it is there."""
        if self._step is None:
            self._step = asyncio.create_task(self._next())
        await asyncio.wait({self._step}, timeout=seconds)
        return self._step.done()

    async def close(self) -> None:
        """Return when nothing runs any more."""
        if self._closed:
            return
        self._closed = True
        try:
            with anyio.CancelScope(shield=True):
                if self._step is not None:
                    # A running generator cannot be closed: the event that it is at comes first.
                    await asyncio.wait({self._step})
                    self._step.exception()  # else asyncio complains that nobody looked
                await to_thread.run_sync(self._events.close, limiter=self._limiter)
        finally:
            self._leave()

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
        return await to_thread.run_sync(next, self._events, _End, limiter=self._limiter)


async def first(events: Stream[T]) -> T:
    """The first event; what is raised before it ends the stream."""
    try:
        return await anext(events)
    except BaseException:
        await events.close()
        raise


async def last(events: Stream[T], request: Request) -> T | None:
    """The last event; None, and no more work done, when the client went away before it."""
    latest: T | None = None
    async with events:
        async for event in events:
            if await request.is_disconnected():
                return None
            latest = event
    return latest
