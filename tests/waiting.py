"""Waiting for what other threads and processes do."""

import threading
import time
from collections.abc import Callable


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    """Return once it has happened; an AssertionError when it does not within the time."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not happened():
        assert time.monotonic() < end, f"it did not happen within {seconds:.0f} s"
        pause.wait(0.01)
