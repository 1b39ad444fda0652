"""A service on a small disk that fills up when it is told: `python -m tests.outage.full_disk DATA`.

Prints its port. Then lines of JSON come in, and one goes out for each:

    {"fill": "before flip"}   fills the disk to the last byte at that step, once; "now" at once
    {"free": true}            gives the space back
    {"look": true}            {"filled": whether the step was reached, "failed": how often a
                              document failed since, "retries": {id: n}}
    {"fsck": true}            {"findings": [...]}, to be asked when nothing is at work
"""

import functools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn

from rag import jobs, journal
from rag.fsck import examine
from rag.jobs import Ingestor
from rag.journal import Journal
from rag.objects import ObjectStore
from rag.orchestrator import Orchestrator
from rag.store.edge import EdgeStore
from services.app import create_app
from services.service import Server

STEPS: dict[str, tuple[Any, str]] = {
    "receive": (Journal, "receive"),
    "keep bytes": (ObjectStore, "put_file"),
    "accept": (Journal, "accept"),
    "claim": (Journal, "claim"),
    "open generation": (Journal, "open_generation"),
    "keep text": (ObjectStore, "put"),
    "upsert": (EdgeStore, "upsert"),
    "flush": (EdgeStore, "flush"),
    "progress": (Journal, "progress"),
    "flip": (Journal, "flip"),
}
DEAD = "after the check for space"  # the engine maps its files: it cannot be told any more


class Disk:
    """The disk of the data, and the file that fills it."""

    def __init__(self, data: Path) -> None:
        self._filler = data.parent / "filler"
        self.when, self.filled, self.failed = "", False, 0
        ended = Ingestor._write_down

        def counted(ingestor: Ingestor, how: Callable[[], None]) -> None:
            self.failed += self.filled
            ended(ingestor, how)

        Ingestor._write_down = counted  # type: ignore[method-assign]
        for name, (owner, attribute) in STEPS.items():
            setattr(owner, attribute, self._watched(name, getattr(owner, attribute)))
        check = EdgeStore._check_space

        def checked(store: EdgeStore, *more: int) -> None:
            check(store, *more)
            self._reached(DEAD)

        EdgeStore._check_space = checked  # type: ignore[method-assign]

    def fill(self) -> None:
        """Not one byte is free afterwards."""
        self.filled = True
        with self._filler.open("ab", buffering=0) as file:
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)
        self.when, self.filled, self.failed = "", False, 0

    def _reached(self, step: str) -> None:
        if step == self.when and not self.filled:
            self.fill()

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            self._reached(f"before {name}")
            return call(*arguments, **options)

        return watched


def carry_out(command: dict[str, Any], disk: Disk, rag: Orchestrator) -> dict[str, Any]:
    match command:
        case {"fill": "now"}:
            disk.fill()
        case {"fill": when}:
            disk.when = when
        case {"free": True}:
            disk.free()
        case {"look": True}:
            found = rag.parts.journal.list_jobs(rag.scope)
            retries = {task.document_id: task.retries for job in found for task in job.tasks}
            return {"filled": disk.filled, "failed": disk.failed, "retries": retries}
        case {"fsck": True}:
            return {"findings": [f"{one.kind}: {one.what}" for one in examine(rag.parts)]}
    return {"done": command}


def always_growing(connection: Any, *_: object) -> None:
    """Every commit needs room: none goes to where an older one was in SQLite's log."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def main() -> None:
    data = Path(sys.argv[1])
    # What waits for its time does so for a moment only.
    journal.LEASE = timedelta(seconds=1)
    jobs.TICK_SECONDS, jobs.RENEW_SECONDS, jobs.SWEEP_SECONDS = 0.1, 0.3, 0.3
    rag = Orchestrator.open(
        data, profile="starter", embed_batch=4, chunk_tokens=64, chunk_overlap=0, warm_up=False,
        min_free_bytes=4 * 2**20, ingest_retry_seconds=0.2, ingest_retries=1000,
    )  # fmt: skip
    sa.event.listen(rag.parts.database._engine, "checkout", always_growing)
    disk, app = Disk(data), create_app(orchestrator=rag)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(uvicorn.Config(app, log_level="warning"), app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        say({"port": listening.getsockname()[1], "pid": os.getpid()})
        for line in sys.stdin:
            say(carry_out(json.loads(line), disk, rag))
        server.should_exit = True
        thread.join()
    rag.parts.close()


def say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
