"""What was measured, kept: settings, fingerprints, versions, seed, machine, values per question.

An experiment is a folder:

    experiment.json     what it is, and its measures once it is done
    pool.jsonl          the candidates of each question (see `eval.pool`)
    values.jsonl        a line per system: its measures, a value per question
    runs/SYSTEM.trec    what each system ranked

The same inputs are the same folder: an interrupted run goes on, a finished one is not repeated.
"""

import hashlib
import json
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from rag.errors import InvalidInput, NotFound

HOME = Path("ragstone-eval")  # where experiments are kept unless told otherwise
PACKAGES = ("ragstone", "ir-measures", "numpy", "openvino", "qdrant-edge-py", "torch", "tokenizers")

Values = Mapping[str, NDArray[np.float64]]  # measure -> a value per question


@dataclass(frozen=True, slots=True)
class Experiment:
    """A folder of results; see the module."""

    folder: Path

    @property
    def pool(self) -> Path:
        """Where the candidates are."""
        return self.folder / "pool.jsonl"

    @property
    def id(self) -> str:
        """What it is called."""
        return self.folder.name

    def about(self) -> dict[str, Any]:
        """All of experiment.json. Raises InvalidInput for one that cannot be read."""
        path = self.folder / "experiment.json"
        try:
            found = json.loads(path.read_text("utf8"))
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{path} cannot be read: {error}.") from error
        if not isinstance(found, dict) or not {"kind", "name", "begun", "made_from"} <= set(found):
            raise InvalidInput(f"{path} describes no experiment.")
        return found

    @property
    def state(self) -> str:
        """`done` once its results are in experiment.json, `interrupted` before."""
        return "done" if "rows" in self.about() else "interrupted"

    def check_values(self) -> None:
        """Raise InvalidInput where no values per question were kept: not yet, or never."""
        if (self.folder / "values.jsonl").exists():
            return
        if self.state == "done":
            raise InvalidInput(
                f"{self.id} keeps no values per question: there is nothing to compare or to plot.",
                hint=f"`rag eval show {self.id}` prints what it found.",
            )
        raise InvalidInput(
            f"{self.id} was interrupted: it has no values yet.",
            hint="Run the same again: it goes on where it was.",
        )

    def note(self, **more: object) -> None:
        """Add to experiment.json."""
        _write(self.folder / "experiment.json", json.dumps(self.about() | more, indent=2) + "\n")

    def run_path(self, system: str) -> Path:
        """Where a system's run is."""
        return self.folder / "runs" / f"{_slug(system)}.trec"

    def keep_values(self, systems: Mapping[str, Values], questions: Sequence[str]) -> None:
        """The values of each system, one per question."""
        lines = [json.dumps({"questions": list(questions)})]
        lines += [
            json.dumps({
                "system": name,
                "values": {measure: list(map(float, found)) for measure, found in values.items()},
            })
            for name, values in systems.items()
        ]  # fmt: skip
        _write(self.folder / "values.jsonl", "\n".join(lines) + "\n")

    def values(self) -> tuple[list[str], dict[str, dict[str, NDArray[np.float64]]]]:
        """(questions, system -> measure -> a value per question)."""
        head, *rows = (self.folder / "values.jsonl").read_text("utf8").splitlines()
        found = {
            row["system"]: {m: np.array(values) for m, values in row["values"].items()}
            for row in map(json.loads, rows)
        }
        return json.loads(head)["questions"], found


def begin(kind: str, name: str, made_from: Mapping[str, Any], home: Path = HOME) -> Experiment:
    """The experiment of these inputs, begun or gone on with."""
    text = json.dumps(made_from, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    experiment = Experiment(home / f"{kind}-{_slug(name)}-{key}")
    experiment.folder.mkdir(parents=True, exist_ok=True)
    if not (experiment.folder / "experiment.json").exists():
        _write(
            experiment.folder / "experiment.json",
            json.dumps({
                "kind": kind,
                "name": name,
                "begun": datetime.now(UTC).isoformat(timespec="seconds"),
                "made_from": json.loads(text),
                "versions": versions(),
                "machine": machine(),
            }, indent=2) + "\n",
        )  # fmt: skip
    return experiment


def every(home: Path = HOME) -> Iterator[Experiment]:
    """All experiments, newest first."""
    found = [Experiment(path.parent) for path in home.glob("*/experiment.json")]
    yield from sorted(found, key=_begun, reverse=True)


def _begun(experiment: Experiment) -> str:
    try:
        return str(experiment.about()["begun"])
    except InvalidInput:  # one that cannot be read is no reason not to find the others
        return ""


def find(id_: str, home: Path = HOME) -> Experiment:
    """By its id, or by a beginning of it that only one has; a folder will do as well.

    Raises NotFound, InvalidInput.
    """
    if (Path(id_) / "experiment.json").exists():
        return Experiment(Path(id_))
    found = [one for one in every(home) if one.id.startswith(id_)]
    exact = [one for one in found if one.id == id_]
    if exact or len(found) == 1:
        return (exact or found)[0]
    if not found:
        raise NotFound(
            f"There is no experiment {id_!r} in {home}.",
            hint="`rag eval ls` lists those there are.",
        )
    raise InvalidInput(
        f"{id_!r} may be {', '.join(one.id for one in found[:5])}.", hint="Give more of the id."
    )


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    return {name: _version(name) for name in PACKAGES}


def machine() -> dict[str, Any]:
    """What it runs on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.casefold()).strip("-")[:80] or "unnamed"


def _write(path: Path, text: str) -> None:
    half_written = path.with_name(f"{path.name}.part")
    half_written.write_text(text, "utf8")
    half_written.replace(path)
