"""A service that takes documents in and works on none: `python -m tests.outage.accepting DATA`.

Prints its port. A line that comes in names what is to be left out from then on, and is answered.
"""

import os
import socket
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import uvicorn

from rag.audit import Audit
from rag.journal import Journal
from rag.orchestrator import Orchestrator
from services import ingestion
from services.service import Server, build

left_out = ""
_fsync, _accept = os.fsync, Journal.accept


def fsync(descriptor: int) -> None:
    """As ever, unless it is left out for folders, or for files."""
    is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
    if left_out != ("sync of the folder" if is_folder else "sync of the file"):
        _fsync(descriptor)


def accept(self: Journal, job_id: str) -> None:
    """As ever, unless it is left for later."""
    if left_out != "acceptance before the answer":
        _accept(self, job_id)


def unwritten(*_: object) -> None:
    """The audit log's commit also comes before the answer, and would be taken for acceptance's."""


def without_commit_sync(connection: Any, *_: object) -> None:
    """SQLite's own syncs are left out like ours."""
    level = "OFF" if left_out == "sync of the commit" else "FULL"
    connection.execute(f"PRAGMA synchronous={level}")


def main() -> None:
    global left_out
    os.fsync, Journal.accept = fsync, accept  # type: ignore[method-assign]
    Audit.write = unwritten  # type: ignore[method-assign]
    rag = Orchestrator.open(Path(sys.argv[1]), profile="starter", warm_up=False)
    sa.event.listen(rag.parts.database._engine, "checkout", without_commit_sync)
    app = build("Accepting", [ingestion.router], orchestrator=rag, ingests=False)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(uvicorn.Config(app, log_level="warning"), app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            left_out = line.strip()
            sys.stdout.write("so be it\n")
            sys.stdout.flush()
        server.should_exit = True
        thread.join()
    rag.parts.close()


if __name__ == "__main__":
    main()
