"""The benchmark's end of a worker: a process of its own that is told what to do line by line."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

CLOSE_SECONDS = 90


class WorkerFailed(Exception):
    """The worker answered with an error, or ended. The message is one line."""


class Worker:
    """A running worker. `log` keeps all that it prints.

    It leads a process group of its own, so that what it started ends with it.
    """

    def __init__(
        self, command: list[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._counted = 0
        log.unlink(missing_ok=True)
        with log.open("ab") as written:  # what is added later comes after what it printed
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                encoding="utf8",
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    def call(self, name: str, /, **arguments: object) -> Any:  # noqa: ANN401 - any JSON
        """What the worker's method returns. Raises WorkerFailed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        reply = json.loads(line)
        if "error" in reply:
            with self._log.open("a", encoding="utf8") as written:
                written.write(reply["trace"])
            raise WorkerFailed(_one_line(reply["error"]))
        return reply["result"]

    def count_from(self, pid: int) -> None:
        """Whose memory `resident` tells: a process that the worker started in place of its own."""
        self._counted = pid

    def resident(self) -> int:
        """Resident bytes of the process and of all that it started."""
        top = psutil.Process(self._counted or self._process.pid)
        return sum(process.memory_info().rss for process in [top, *top.children(recursive=True)])

    def close(self) -> None:
        """Let the worker end by itself, and its whole group by force if it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self) -> WorkerFailed:
        code = self._process.wait()
        lines = self._log.read_text("utf8", errors="replace").strip().splitlines()
        last = lines[-1].strip() if lines else "it printed nothing"
        return WorkerFailed(_one_line(f"ended with exit code {code}: {last}"))


def _one_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0][:300] if lines else text
