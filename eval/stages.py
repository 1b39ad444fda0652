"""Where ingestion spends its time: its steps, watched from outside."""

import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

from rag import ingest as steps
from rag import jobs, orchestrator
from rag.embed import Embedder
from rag.jobs import Ingestor
from rag.journal import Journal
from rag.objects import ObjectStore
from rag.store.edge import EdgeStore

STEPS: dict[str, tuple[Any, str]] = {
    "accept": (Ingestor, "submit"),
    "claim": (Journal, "claim"),
    "read": (ObjectStore, "get"),
    "parse": (steps, "parse"),
    "open generation": (Journal, "open_generation"),
    "keep text": (ObjectStore, "put"),
    "split": (orchestrator, "split_document"),
    "embed": (Embedder, "embed_passages"),
    "upsert": (EdgeStore, "upsert"),
    "flush": (EdgeStore, "flush"),
    "progress": (Journal, "progress"),
    "revision": (steps, "revision"),
    "flip": (Journal, "flip"),
    "release": (Journal, "release"),
    "purge": (jobs, "purge"),
}


class Stages:
    """Seconds of each step within the block, and CPU seconds of its thread, over all threads."""

    def __init__(self) -> None:
        self.waited: defaultdict[str, float] = defaultdict(float)
        self.computed: defaultdict[str, float] = defaultdict(float)
        self._guard = threading.Lock()
        self._own: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        for name, (owner, attribute) in STEPS.items():
            self._own[name] = getattr(owner, attribute)
            setattr(owner, attribute, self._watched(name, self._own[name]))
        return self

    def __exit__(self, *_: object) -> None:
        for name, (owner, attribute) in STEPS.items():
            setattr(owner, attribute, self._own[name])

    def told(self, documents: int) -> str:
        """Milliseconds a document, waited and computed, by step."""
        return ", ".join(
            f"{name} {1000 * self.waited[name] / documents:.1f}"
            f" ({1000 * self.computed[name] / documents:.1f})"
            for name in STEPS
        )

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever it takes
            start, computed = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **options)
            finally:
                with self._guard:
                    self.waited[name] += time.perf_counter() - start
                    self.computed[name] += time.thread_time() - computed

        return watched
