"""Shorter pauses: what could keep the event loop from answering while other threads work."""

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

# How long a busy thread keeps the interpreter when others want it. With Python's own 5 ms the event
# loop, behind sixteen busy threads, answers /healthz late.
SWITCH_SECONDS = 0.00025
LONG_SECONDS = 0.02  # of a collection


def shorten_pauses() -> None:
    """Let threads take turns quickly, and long garbage collections happen once.

    For a process that serves: it holds for the whole interpreter.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.callbacks.append(SurvivorsFrozen())


class SurvivorsFrozen:
    """After a full collection that took long, exempts what survived it from all later ones.

    A full collection stops every thread while it looks through all there is: 0.1 s for the 190,000
    objects of a server that has imported its libraries, which are never garbage. What is freed by
    its reference count still is; of what is frozen only cycles would stay for ever, those of the
    requests at hand, each time that as much again has come to live in the process.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        """To be called by `gc` at the start and the end of a collection."""
        if phase == "start":
            self._began = self._clock()
        elif info["generation"] == 2 and self._clock() - self._began > LONG_SECONDS:
            gc.freeze()
