"""Worker processes on one Postgres, one Qdrant server and one folder, and a hand on each."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue
from typing import Any

ROOT = Path(__file__).parents[2]


class Worker:
    """A process of `tests.outage.worker`, and what it made live."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.live: list[tuple[str, int]] = []  # document, generation
        self._answers: Queue[dict[str, Any]] = Queue()
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.outage.worker"], cwd=ROOT, text=True,
                env={**os.environ, **environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=errors,
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_ready(self) -> None:
        """Return when it works."""
        assert self._answers.get(timeout=60)["ready"] == self.process.pid

    def plan(self, name: str, where: str, count: int) -> None:
        """Have it send itself a signal at the count-th step of that name from now on."""
        self._ask({"signal": name, "where": where, "count": count})

    def hold(self, hold: bool) -> None:
        """Have it begin nothing, or go on."""
        self._ask({"hold": hold})

    def wait_idle(self) -> None:
        """Return when nothing is at work in it."""
        self._ask({"idle": True})

    @property
    def stopped(self) -> bool:
        """Whether it stands still."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text("utf8")
        return stat.rpartition(")")[2].split()[0] == "T"

    def resume(self) -> None:
        """Let it go on after it stood still."""
        os.kill(self.process.pid, signal.SIGCONT)

    def wait_dead(self) -> None:
        """Return when it has ended, and all that it said was read."""
        self.process.wait(60)
        self._reader.join()

    def close(self) -> None:
        """End it, whatever state it is in."""
        self.process.kill()
        self.wait_dead()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()

    def _ask(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        self._answers.get(timeout=60)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if "live" in said:
                self.live.append((said["live"], said["generation"]))
            else:
                self._answers.put(said)
