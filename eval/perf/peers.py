"""What users otherwise run, each in a virtual environment of its own.

`python -m eval.perf install` makes them: eval/peers/NAME/requirements.txt into
eval/cache/venvs/NAME.
"""

import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from rich.progress import track

from eval.perf.places import PEERS, REPOSITORY, VENVS, WORK
from eval.perf.workers import Worker

OURS = "ours"
NAMES = (
    "sentence_transformers",
    "fastembed",
    "flagembedding",
    "langchain",
    "llamaindex",
    "haystack",
)
INSTALLED = "requirements.installed"  # a copy of what was installed, once it all was
FAILED = "install-error.txt"


class PeerMissing(Exception):
    """A peer cannot run here. The message says why in one line."""


def install(names: Sequence[str]) -> dict[str, str]:
    """Install peers whose requirements changed; name -> "" or the last line of the error."""
    return {name: _install(name) for name in track(names, "installing")}


def python_of(name: str) -> Path:
    """The interpreter of a peer. Raises PeerMissing."""
    if name == OURS:
        return Path(sys.executable)
    folder = VENVS / name
    if _is_current(name):
        return folder / "bin" / "python"
    if (folder / FAILED).is_file():
        raise PeerMissing(f"does not install: {(folder / FAILED).read_text('utf8')}")
    raise PeerMissing(f"not installed: run `python -m eval.perf install {name}`")


def start(name: str, task: str, environment: dict[str, str], label: str) -> Worker:
    """A worker of a peer (or of Ragstone) for a task. Raises PeerMissing."""
    python = python_of(name)
    script = PEERS / name / "worker.py"
    paths = [str(PEERS / "protocol")] + [str(REPOSITORY)] * (name == OURS)
    offline = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": ":".join(paths), "PYTHONWARNINGS": "ignore"}
    log = WORK / "logs" / f"{task}-{label.replace(' ', '-').replace('/', '-')}.log"
    return Worker([str(python), str(script), task], log, offline | environment)


def requirements(name: str) -> list[str]:
    """A peer's pinned packages."""
    return (PEERS / name / "requirements.txt").read_text("utf8").split()


def _is_current(name: str) -> bool:
    installed = VENVS / name / INSTALLED
    return installed.is_file() and installed.read_text("utf8").split() == requirements(name)


def _install(name: str) -> str:
    folder = VENVS / name
    if _is_current(name):
        return ""
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True, symlinks=True)
    wanted = PEERS / name / "requirements.txt"
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "-r", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = lines[-1] if lines else f"pip ended with exit code {done.returncode}"
        (folder / FAILED).write_text(last, "utf8")
        return last
    (folder / FAILED).unlink(missing_ok=True)
    (folder / INSTALLED).write_text(wanted.read_text("utf8"), "utf8")
    return ""
