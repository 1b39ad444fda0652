"""Leaving a failing server alone for a while (Nygard, "Release It!": circuit breaker)."""

import logging
import threading
from collections.abc import Callable

from rag.errors import ModelUnavailable

log = logging.getLogger(__name__)


class Breaker:
    """Lets requests through while they succeed. Thread-safe.

    Closed: everything passes. Open after `failures` failed requests in a row: nothing does, for
    `seconds`. Then half-open: one request passes, and its outcome closes or opens it again.
    """

    def __init__(
        self, name: str, failures: int, seconds: float, clock: Callable[[], float]
    ) -> None:
        self._name = name
        self._allowed = failures
        self._seconds = seconds
        self._clock = clock
        self._guard = threading.Lock()
        self._failed = 0
        self._closed_at = 0.0  # when the pause ends, while `_failed` has reached `_allowed`
        self._probing = False

    def admit(self) -> None:
        """Raise `ModelUnavailable` where the request must not be sent."""
        with self._guard:
            if self._failed < self._allowed:
                return
            wait = self._closed_at - self._clock()
            if wait <= 0 and not self._probing:
                self._probing = True
                return
        when = f"in {wait:.0f} s" if wait > 0 else "when the request that tries it now is answered"
        raise ModelUnavailable(
            f"{self._name} failed {self._failed} times in a row and is left alone; "
            f"it is tried again {when}."
        )

    def succeeded(self) -> None:
        """The server answered."""
        with self._guard:
            opened = self._failed >= self._allowed
            self._failed, self._probing = 0, False
        if opened:
            log.info("%s answers again.", self._name)

    def failed(self) -> None:
        """The server did not answer, or broke off."""
        with self._guard:
            self._failed += 1
            self._probing = False
            opened = self._failed >= self._allowed
            if opened:
                self._closed_at = self._clock() + self._seconds
        if opened:
            log.warning(
                "%s failed %d times in a row: left alone for %g s.",
                self._name, self._failed, self._seconds,
            )  # fmt: skip

    def abandoned(self) -> None:
        """The request was given up by its caller: nothing is known of the server."""
        with self._guard:
            self._probing = False
