"""What has to reach the disk before anything may rest on it."""

import os
import threading
from collections.abc import Callable
from pathlib import Path


def sync(path: Path) -> None:
    """Return when a file, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class SharedSync:
    """Brings one thing to the disk for many threads. Thread-safe.

    One sync runs at a time. It is also for those who asked before it began; who asks while it runs
    may have written what it does not see, and waits for the next, with all who asked meanwhile.
    """

    def __init__(self, bring_to_disk: Callable[[], object]) -> None:
        self._bring_to_disk = bring_to_disk
        self._changed = threading.Condition()
        self._running = False
        self._begun = 0
        self._done = 0  # the last one that succeeded

    def __call__(self) -> None:
        """Return when what was written before this call is on the disk, else raise why not."""
        with self._changed:
            wanted = self._begun + 1
            while self._running and self._done < wanted:
                self._changed.wait()
            if self._done >= wanted:
                return
            self._running = True
            self._begun += 1
            number = self._begun
        succeeded = False
        try:
            self._bring_to_disk()
            succeeded = True
        finally:  # after a failure the next of those who wait tries, and finds out for itself
            with self._changed:
                self._running = False
                if succeeded:
                    self._done = number
                self._changed.notify_all()
