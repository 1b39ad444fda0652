"""Who goes first on a CPU: questions on their way to a language model, before its next token, and
before documents that are being ingested.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Crowd:
    """Counts interactive requests to the encoders and rerankers of one CPU, and the answers that
    are being written. Thread-safe.

    A language model writes sixteen answers in little more time than one, so while questions are
    still being embedded and reranked it is better to wait for them than to race them.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._changed = threading.Condition()
        self._clock = clock
        self._inside = 0
        self._answers = 0
        self._last = float("-inf")  # when the last request or answer ended

    def enter(self) -> None:
        """A request has begun to wait or to be computed."""
        with self._changed:
            self._inside += 1

    def leave(self) -> None:
        """It has ended."""
        with self._changed:
            self._inside -= 1
            self._last = self._clock()
            self._changed.notify_all()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """An answer is being written for the length of the block."""
        with self._changed:
            self._answers += 1
        try:
            yield
        finally:
            with self._changed:
                self._answers -= 1
                self._last = self._clock()

    @property
    def quiet_seconds(self) -> float:
        """How long ago the last request or answer ended: 0 while there is one."""
        with self._changed:
            return 0.0 if self._inside or self._answers else self._clock() - self._last

    def wait_until_gone(self, seconds: float) -> None:
        """Return when no request is inside, at the latest after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside, timeout=max(0.0, seconds))
