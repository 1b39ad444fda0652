"""Migrations in the background: a thread that does what was asked for, one after the other.

What was asked for is in the catalog, so a process that dies leaves it to the next one.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

from rag.builds import Migration, Obstacle
from rag.errors import Cancelled, NotFound, RagError
from rag.jobs import HEALS, logged
from rag.journal import LeaseLost
from rag.migrate import advance
from rag.parts import Parts
from rag.types import Scope
from rag.work import Cancellation, Priority, Work, working

log = logging.getLogger(__name__)

TICK_SECONDS = 1.0
TELL_SECONDS = 1.0  # how often progress is written down
WAIT_SECONDS = 0.2
RETRY_SECONDS = 10.0

OnProgress = Callable[[Migration], None]


class Migrator:
    """Works on the migrations that the catalog holds. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._changed = threading.Condition()
        self._cancelled = Cancellation()
        self._thread = threading.Thread(target=self._work, name="migrations", daemon=True)

    def start(self) -> None:
        """Take up what was left, then work until `close`."""
        if self._parts.alone:
            self._parts.builds.recover()
        self._thread.start()

    def wake(self) -> None:
        """There may be something to do."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Stop: what is at work goes on from there another time."""
        self._cancelled.set()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def run(
        self, scope: Scope, name: str, on_progress: OnProgress = lambda _: None
    ) -> Migration | None:
        """Do in this thread what was asked for, until nothing more has to be done.

        Raises what stands in the way; then the same again goes on with it. Where another process
        does it already, it is only watched. None when the end is that nothing is left of it.
        """
        builds = self._parts.builds
        if self._parts.alone and self._thread.ident is None:
            builds.recover()
        while True:
            try:
                migration = builds.find(scope, name)
            except NotFound:
                return None
            if migration.settled:
                if migration.error is not None:
                    raise migration.error.as_error()
                return migration
            claimed = builds.claim(uuid4().hex, only=migration.collection)
            if claimed is None:
                on_progress(migration)
                self._cancelled.wait(TICK_SECONDS)
                continue
            try:
                self._do(claimed, on_progress)
            except LeaseLost:
                continue  # somebody asked for something else
            except BaseException as error:
                self._let_go(claimed, error)
                raise

    def _let_go(self, claimed: Migration, error: BaseException) -> None:
        builds = self._parts.builds
        with suppress(RagError):  # the one that is raised says more
            if isinstance(error, RagError) and not isinstance(error, (*HEALS, Cancelled)):
                builds.fail(claimed, error)
            else:
                builds.release(claimed)

    def _work(self) -> None:
        while not self._cancelled.is_set():
            claimed = None
            with logged("the migrations"):
                claimed = self._parts.builds.claim(uuid4().hex)
            if claimed is None:
                self._pause(TICK_SECONDS)
                continue
            with logged(f"the migration of {claimed.collection.name!r}"):
                self._attempt(claimed)

    def _attempt(self, migration: Migration) -> None:
        builds = self._parts.builds
        try:
            self._do(migration, lambda _: None)
        except HEALS as error:
            log.warning("%r is tried again: %s", migration.collection.name, error)
            builds.hinder(migration, error, timedelta(seconds=RETRY_SECONDS))
        except LeaseLost as error:
            log.info("the migration of %r ended: %s", migration.collection.name, error)
        except Cancelled:
            builds.release(migration)
        except RagError as error:
            log.error("the migration of %r failed: %s", migration.collection.name, error)
            builds.fail(migration, error)
        except Exception as error:
            log.error("the migration of %r failed", migration.collection.name, exc_info=error)
            inside = RagError("Something went wrong inside.", hint="The log says what.")
            builds.fail(migration, inside)

    def _do(self, migration: Migration, on_progress: OnProgress) -> None:
        work = Work(Priority.BULK, self._cancelled)
        watch = _Watch(self._parts, migration, work, on_progress)
        with working(work):
            advance(self._parts, migration, watch)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if not self._cancelled.is_set():
                self._changed.wait(seconds)


class _Watch:
    """Writes progress down now and then, which renews the lease."""

    def __init__(
        self, parts: Parts, migration: Migration, work: Work, on_progress: OnProgress
    ) -> None:
        self._parts = parts
        self._migration = replace(migration, doing="")
        self._work = work
        self._on_progress = on_progress
        self._begun: tuple[float, int] | None = None
        self._told = float("-inf")

    def tick(self, *, done: int | None = None, total: int | None = None, doing: str = "") -> None:
        """Raises Cancelled, LeaseLost."""
        if self._work.cancelled.is_set():
            raise Cancelled("The process is stopping.")
        now, news = time.monotonic(), bool(doing) and doing != self._migration.doing
        if done is not None:
            self._count(now, done, total or 0)
        self._migration = replace(self._migration, doing=doing)
        if news or now - self._told >= TELL_SECONDS:
            self._told = now
            at = self._migration
            self._parts.builds.progress(
                at, done=at.done, total=at.total, rate=at.rate, doing=at.doing
            )
            self._on_progress(at)

    def wait(self, obstacle: Obstacle) -> None:
        """Let a moment pass. Raises as `tick`."""
        self.tick(doing=f"waiting for {obstacle}")
        self._work.cancelled.wait(WAIT_SECONDS)

    def _count(self, now: float, done: int, total: int) -> None:
        if self._begun is None:
            self._begun = (now, done)
        since, before = self._begun
        rate = (done - before) / (now - since) if now > since else 0.0
        self._migration = replace(self._migration, done=done, total=total, rate=max(0.0, rate))
