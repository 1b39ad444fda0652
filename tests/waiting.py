"""Waiting for what other threads and processes do."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    """Return once it has happened; an AssertionError when it does not within the time."""
    end, pause = time.monotonic() + seconds, threading.Event()
    while not happened():
        assert time.monotonic() < end, f"it did not happen within {seconds:.0f} s"
        pause.wait(0.01)


@contextmanager
def killed_after(process: subprocess.Popen[str], seconds: float = 300) -> Iterator[None]:
    """Kill a process, which leads a session, with its children when the block takes so long.

    Whoever reads what it says is not kept for ever then, and fails.
    """
    timer = threading.Timer(seconds, os.killpg, (process.pid, signal.SIGKILL))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
