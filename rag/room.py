"""Room in memory, which documents that are worked on at once share."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from rag.errors import Cancelled
from rag.work import Work


class Room:
    """So many bytes, given in the order in which they are asked for. Thread-safe.

    What is larger than the whole room gets all of it, and is alone there.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def take(self, size: int, work: Work) -> Iterator[None]:
        """Hold so many bytes for the length of the block. Raises Cancelled while it waits."""
        size = min(size, self._size)
        self._wait(size, work)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()

    def _wait(self, size: int, work: Work) -> None:
        ticket = object()
        forget = work.cancelled.call(self._wake)
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: work.cancelled.is_set() or self._fits(ticket, size))
                if work.cancelled.is_set():
                    raise Cancelled("Nobody waits for this document any more.")
                self._taken += size
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
                forget()

    def _fits(self, ticket: object, size: int) -> bool:
        return self._waiting[0] is ticket and self._taken + size <= self._size

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
