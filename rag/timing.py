"""Seconds per stage, and the span of each."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from rag.spans import SILENT, Span, ended, step

T = TypeVar("T")


class Timings:
    """Adds up the wall-clock seconds spent in each named stage, which is a part of `span`."""

    def __init__(self, span: Span = SILENT) -> None:
        self.seconds: dict[str, float] = {}
        self.span = span

    @contextmanager
    def stage(self, name: str, model: str = "") -> Iterator[Span]:
        """Time a block; the same name again adds to it. `model` is the one that it asks."""
        start = time.perf_counter()
        try:
            with ended(self.span.child(*step(name, model))) as span:
                yield span
        finally:
            self._add(name, time.perf_counter() - start)

    def each(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """The items, timing how long each is waited for."""
        waiting = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(waiting)
            except StopIteration:
                return
            finally:
                self._add(name, time.perf_counter() - start)
            yield item

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take over stages that were timed elsewhere."""
        for name, spent in seconds.items():
            self._add(name, spent)

    def _add(self, name: str, spent: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
