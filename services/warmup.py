"""Models loaded when a service starts, so that the first question does not wait for them."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from rag.errors import RagError
from rag.parts import ModelName, Parts

log = logging.getLogger(__name__)

RETRY_SECONDS = 30.0

ALL_MODELS: tuple[ModelName, ...] = ("embedder", "reranker", "generator")


class WarmUp:
    """Loads models one after the other in a thread of its own, and says how far it is.

    A model that cannot be loaded does not keep the others from it. Once `retry_seconds` have passed
    since, asking how it stands tries that one again: a hub or a server may be back.
    """

    def __init__(
        self,
        parts: Parts,
        models: Sequence[ModelName] = ALL_MODELS,
        *,
        retry_seconds: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._parts = parts
        self._standing: dict[ModelName, str] = {name: f"loading the {name}" for name in models}
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._guard = threading.Lock()
        self._closing = False
        self._ended = 0.0
        self._thread: threading.Thread | None = None
        self._start()

    def check(self) -> str:
        """What is being loaded or could not be, or "ok". Tries again what failed long ago."""
        with self._guard:
            waiting = [said for said in self._standing.values() if said != "ok"]
            due = self._clock() - self._ended >= self._retry_seconds
            if waiting and self._thread is None and due and not self._closing:
                self._start()
        return "; ".join(waiting) or "ok"

    def wait(self, seconds: float | None = None) -> None:
        """Return when nothing is being loaded, at the latest after so many seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def close(self) -> None:
        """Load nothing more; returns when the model at hand is loaded."""
        with self._guard:
            self._closing = True
        self.wait()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._load_all, name="warm-up", daemon=True)
        self._thread.start()

    def _load_all(self) -> None:
        began = self._clock()
        for name in [name for name, said in self._standing.items() if said != "ok"]:
            if not self._closing:
                self._standing[name] = self._load(name)
        with self._guard:
            self._ended, self._thread = self._clock(), None
        if set(self._standing.values()) == {"ok"}:
            names = ", ".join(self._standing)
            log.info("ready: %s loaded in %.1f s", names, self._ended - began)

    def _load(self, name: ModelName) -> str:
        try:
            getattr(self._parts, name)
        except RagError as error:
            log.error("the %s cannot be loaded: %s", name, error)
            return f"{name}: {error}"
        except Exception as error:
            log.error("the %s cannot be loaded", name, exc_info=error)
            return f"{name}: something went wrong inside; the log says what"
        return "ok"
