"""On whose behalf a model computes: how urgent it is, and whether anybody still waits for it.

Ambient like a deadline in asyncio: the rim of the program says it once (`with working(...)`), the
queue in front of each model reads it, and nothing between them has to pass it on.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class Priority(IntEnum):
    """Lower goes first."""

    INTERACTIVE = 0  # somebody waits for an answer
    BULK = 1  # ingestion, evaluation


class Cancellation(threading.Event):
    """An event that also tells those who asked: a thread cannot wait for two things at once.

    Once set it stays set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._guard = threading.Lock()
        self._listeners: dict[object, Callable[[], object]] = {}

    def set(self) -> None:
        """Tell everybody, each once, in this thread."""
        super().set()
        with self._guard:
            listeners = list(self._listeners.values())
            self._listeners.clear()
        for listener in listeners:
            listener()

    def call(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have `listener` called when this is set, at once where it is already.

        It must neither block nor raise. Returns what takes the wish back.
        """
        ticket = object()
        with self._guard:
            already = self.is_set()
            if not already:
                self._listeners[ticket] = listener
        if already:
            listener()

        def forget() -> None:
            with self._guard:
                self._listeners.pop(ticket, None)

        return forget


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work, from its beginning at `since` (monotonic seconds) to its end.

    Setting `cancelled` drops what has not been computed yet.
    """

    priority: Priority = Priority.INTERACTIVE
    cancelled: Cancellation = field(default_factory=Cancellation)
    since: float = field(default_factory=time.monotonic)


class Cancellable(Protocol):
    """What runs in another thread and can be stopped."""

    def cancel(self) -> None:
        """Stop soon. Neither blocks nor raises."""


def cancel_with(work: Work, running: Cancellable) -> None:
    """Have `running` cancelled when `work` is, for as long as anybody else holds it."""
    cancel = weakref.WeakMethod(running.cancel)

    def cancel_if_held() -> None:
        if held := cancel():
            held()

    weakref.finalize(running, work.cancelled.call(cancel_if_held))


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def current_work() -> Work:
    """The work of this thread or task; interactive and never cancelled where nobody said."""
    return _current.get() or Work()


@contextmanager
def working(work: Work) -> Iterator[None]:
    """Everything computed within the block is for `work`."""
    token = _current.set(work)
    try:
        yield
    finally:
        _current.reset(token)
