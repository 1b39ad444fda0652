"""Folders watched: which files have become ready to be taken, and whether some are gone.

What the system tells of changes only wakes us up. What has changed is found by looking at all files
again, so that nothing depends on how a change came about: a rename on save, a moved folder, an
edited .gitignore, more events than the system keeps.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from watchfiles import watch

from rag.folder import Selection, walk

STABLE_SECONDS = 1.0  # without a change, and a file counts as written
TICK_MS = 250  # between looks at files that are not stable yet
DEBOUNCE_MS, STEP_MS = 1000, 50

Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Changed:
    """Files to take, and whether some that were there are not any more."""

    files: tuple[Path, ...]
    some_gone: bool


class Watched:
    """What is known of the files of some folders."""

    def __init__(self, folders: Sequence[Path], selection: Selection) -> None:
        self._folders = folders
        self._selection = selection
        self._known: dict[Path, Stamp] = {}
        self._fresh: dict[Path, tuple[Stamp, float]] = {}  # and since when

    @property
    def unsettled(self) -> bool:
        """Whether files have changed that are not stable yet."""
        return bool(self._fresh)

    def begin(self) -> list[Path]:
        """All files that there are; from now on they are known."""
        self._known = dict(self._scan())
        return list(self._known)

    def look(self, now: float) -> Changed:
        """What has changed since, as far as it is stable; that is known from then on."""
        seen = dict(self._scan())
        ready = []
        fresh: dict[Path, tuple[Stamp, float]] = {}
        for path, stamp in seen.items():
            if self._known.get(path) == stamp:
                continue
            before, since = self._fresh.get(path, (None, now))
            if before != stamp:
                since = now
            if now - since >= STABLE_SECONDS:
                ready.append(path)
                self._known[path] = stamp
            else:
                fresh[path] = (stamp, since)
        self._fresh = fresh
        gone = self._known.keys() - seen.keys()
        for path in gone:
            del self._known[path]
        return Changed(tuple(ready), bool(gone))

    def _scan(self) -> Iterator[tuple[Path, Stamp]]:
        for folder in self._folders:
            for path in walk(folder, self._selection):
                try:
                    found = path.stat()
                except OSError:  # it went while we looked
                    continue
                yield path, (found.st_mtime_ns, found.st_size, found.st_ino)


def changes(
    watched: Watched,
    folders: Sequence[Path],
    *,
    never: Sequence[Path] = (),
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Changed]:
    """Every change to watched folders, until interrupted. What lies below `never` wakes nobody."""
    apart = tuple(str(path.resolve()) + os.sep for path in never)
    waking = watch(
        *(folder.resolve() for folder in folders),
        watch_filter=None,  # or nothing would come at all while only other files change
        debounce=DEBOUNCE_MS,
        step=STEP_MS,
        rust_timeout=TICK_MS,
        yield_on_timeout=True,
        ignore_permission_denied=True,
    )
    first = True  # something may have changed before the system was asked to tell
    for events in waking:
        woken = any(not path.startswith(apart) for _, path in events)
        if woken or first or watched.unsettled:
            found = watched.look(clock())
            if found.files or found.some_gone:
                yield found
        first = False
