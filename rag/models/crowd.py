"""Who goes first on a CPU: questions on their way to a language model, before its next token."""

import threading


class Crowd:
    """Counts interactive requests to the encoders and rerankers of one CPU. Thread-safe.

    A language model writes sixteen answers in little more time than one, so while questions are
    still being embedded and reranked it is better to wait for them than to race them.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0

    def enter(self) -> None:
        """A request has begun to wait or to be computed."""
        with self._changed:
            self._inside += 1

    def leave(self) -> None:
        """It has ended."""
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def wait_until_gone(self, seconds: float) -> None:
        """Return when nobody is inside, at the latest after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._inside, timeout=max(0.0, seconds))
