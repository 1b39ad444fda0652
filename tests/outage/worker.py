"""A worker on shared stores: `python -m tests.outage.worker`, its settings from the environment.

Lines of JSON go out: {"ready": pid}, and {"live": document, "generation": n} for each document that
this process made live. A line that comes in is a plan: {"signal": "SIGKILL", "where": "before
upsert", "count": 2} makes the process send itself that signal right before the second upsert from
then on; "within flip" is right before its transaction commits. {"idle": true} is answered when
nothing is at work here; from {"hold": true} to {"hold": false} nothing is begun. LEASE_SECONDS in
the environment shortens what others wait for a process that is gone.
"""

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rag import database, jobs, journal
from rag.catalog import Catalog
from rag.jobs import Ingestor
from rag.journal import Journal
from rag.orchestrator import Orchestrator
from rag.store.server import ServerStore
from tests.waiting import until


class Plan:
    """What signal to send to oneself, and where."""

    def __init__(self) -> None:
        self.signal, self.where, self.left = 0, "", 0
        watched = {
            "before upsert": (ServerStore, "upsert"),
            "before flip": (Journal, "flip"),
            "within flip": (Catalog, "flip"),
        }
        for name, (owner, attribute) in watched.items():
            setattr(owner, attribute, self._watched(name, getattr(owner, attribute)))

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            if name.startswith("before"):
                self._reached(name)
                return call(*arguments, **options)
            result = call(*arguments, **options)
            self._reached(name)
            return result

        return watched

    def _reached(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                # To this thread: another one might be given the signal, and take it later.
                signal.pthread_kill(threading.get_ident(), self.signal)


class Gate:
    """Before every claim of work."""

    def __init__(self) -> None:
        self.held = threading.Lock()
        claim = Journal.claim

        @functools.wraps(claim)
        def waiting(*arguments: Any, **options: Any) -> Any:
            with self.held:
                return claim(*arguments, **options)

        Journal.claim = waiting  # type: ignore[method-assign]


def say(line: dict[str, Any]) -> None:
    with out:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def telling(flip: Callable[..., Any]) -> Callable[..., Any]:
    """A flip that says so once it is committed."""

    @functools.wraps(flip)
    def told(self: Journal, task: Any, revision: Any, *more: Any) -> Any:
        report = flip(self, task, revision, *more)
        say({"live": task.document_id, "generation": revision.generation})
        return report

    return told


if __name__ == "__main__":
    out = threading.Lock()
    plan, gate = Plan(), Gate()
    Journal.flip = telling(Journal.flip)  # type: ignore[method-assign]
    if seconds := float(os.environ.get("LEASE_SECONDS", "0")):
        journal.LEASE, jobs.RENEW_SECONDS = timedelta(seconds=seconds), seconds / 6
        jobs.TICK_SECONDS, jobs.SWEEP_SECONDS = seconds / 12, seconds / 4
        database.STILL_SECONDS = seconds
    with Orchestrator.open() as rag:
        rag.parts.embedder  # noqa: B018 - loads
        ingestor = Ingestor(rag)
        ingestor.start()
        say({"ready": os.getpid()})
        for line in sys.stdin:
            match json.loads(line):
                case {"idle": True}:
                    until(lambda: not ingestor._work)
                    say({"idle": True})
                case {"hold": hold}:
                    (gate.held.acquire if hold else gate.held.release)()
                    say({"hold": hold})
                case {"signal": name, "where": where, "count": count}:
                    plan.signal, plan.left, plan.where = signal.Signals[name], count, where
                    say({"planned": where})
        ingestor.close()
