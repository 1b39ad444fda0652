"""Kills a process again and again, and compares what is there with what it promised."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from rag.embed import load_embedder
from rag.models.load import BUNDLED_ID, resolve
from rag.parts import engines_of
from rag.settings import load_settings
from tests.crash.victim import MIGRATION_STEPS, STEPS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [f"doc-{n}" for n in range(6)]
POINTS = [f"{side} {name}" for name in STEPS for side in ("before", "after")]
MIGRATION_POINTS = [f"{side} {name}" for name in MIGRATION_STEPS for side in ("before", "after")]
AT_RANDOM = "at random"
DIE_SECONDS = 120


class Died(Exception):
    """The victim is gone."""


class Violation(AssertionError):
    """Something was lost, doubled or half visible."""


class Victim:
    """The process, and the line to it."""

    def __init__(self, data: Path, sabotage: str, other: Path) -> None:
        self._log = (data.parent / "victim.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim", str(data), sabotage, str(other)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip
        self._read()

    def do(self, do: str, **more: Any) -> dict[str, Any]:
        """Have a command carried out. Raises Died."""
        try:
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Died from None
        return self._read()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait(60)
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise Died
        said: dict[str, Any] = json.loads(line)
        if "violation" in said:
            raise Violation(f"a search saw {said['violation']}")
        return said


@dataclass
class Model:
    """What may be there: of each document the version that was promised last, None for deleted,
    and what was asked for without an answer.
    """

    promised: dict[str, int | None] = field(default_factory=dict)
    open: dict[str, set[int | None]] = field(default_factory=dict)

    def ask(self, document: str, version: int | None) -> None:
        """It may happen from now on."""
        self.open.setdefault(document, set()).add(version)

    def promise(self, document: str, version: int | None) -> None:
        """It has to happen."""
        self.promised[document] = version
        self.open.pop(document, None)

    def check(self, seen: dict[str, Any]) -> None:
        """Raise Violation unless what is seen is what was promised; it is known from then on."""
        if seen["fsck"]:
            raise Violation(f"fsck finds {seen['fsck']}")
        for document in DOCUMENTS:
            there = seen["documents"].get(document)
            versions = there["versions"] if there else {}
            if len(versions) > 1:
                raise Violation(f"{document} is there in versions {versions}")
            version = int(next(iter(versions))) if versions else None
            if there and versions != {str(version): there["chunks"]}:
                raise Violation(f"{document} has {there['chunks']} chunks, seen: {versions}")
            allowed = {self.promised.get(document), *self.open.get(document, ())}
            if version not in allowed:
                raise Violation(f"{document} is there in version {version}, not one of {allowed}")
            self.promise(document, version)


def other_embedder(folder: Path) -> Path:
    """MiniLM under another instruction: the same weights, and vectors that do not compare.

    It is converted here, so that no victim spends its time on that.
    """
    if not folder.exists():
        folder.mkdir()
        for file in resolve(BUNDLED_ID).path.iterdir():
            (folder / file.name).symlink_to(file)
        prompts = folder / "config_sentence_transformers.json"
        prompts.unlink(missing_ok=True)
        prompts.write_text(json.dumps({"prompts": {"document": "passage: ", "query": "query: "}}))
        load_embedder(str(folder), engines=engines_of(load_settings())).close()
    return folder


def kills(
    data: Path, total: int, *, seed: int, sabotage: str = "", at: list[str] | None = None
) -> Counter[str]:
    """Kill `total` times, checking after each restart; where it died, by step.

    Every third kill is at a random instant, the others at the steps in turn. Raises Violation.
    """
    draw, model, died = random.Random(seed), Model(), Counter[str]()
    turns = cycle(at or POINTS + MIGRATION_POINTS)
    other = other_embedder(data.parent / "other")
    version = 0
    for number in range(total):
        victim = Victim(data, sabotage, other)
        where = AT_RANDOM if number % 3 == 2 and at is None else next(turns)
        timer = None
        try:
            victim.do("drain")
            model.check(victim.do("look"))
            if where == AT_RANDOM:
                timer = threading.Timer(draw.uniform(0.05, 2.0), victim.process.kill)
                timer.start()
            else:
                count = 1 if where in MIGRATION_POINTS else draw.randint(1, 3)
                victim.do("arm", where=where, count=count)
            # Those are left alone by deletes, so a search always has to find them.
            kept = [d for d in DOCUMENTS[:3] if model.promised.get(d) is not None]
            victim.do("watch", ids=kept)
            deadline = time.monotonic() + DIE_SECONDS
            while time.monotonic() < deadline:
                if draw.random() < 0.3:
                    victim.do("migrate", wish=draw.choice(["on", "drop"]))
                version += 1
                document = draw.choice(DOCUMENTS)
                deletable = document not in kept and model.promised.get(document) is not None
                if deletable and draw.random() < 0.4:
                    model.ask(document, None)
                    victim.do("delete", id=document)
                    model.promise(document, None)
                else:
                    model.ask(document, version)
                    victim.do("put", id=document, version=version, paragraphs=draw.randint(1, 12))
                    model.promise(document, version)
            raise Violation(f"it did not die {where} within {DIE_SECONDS} seconds")
        except Died:
            died[where] += 1
        finally:
            if timer is not None:
                timer.cancel()
            victim.kill()
    victim = Victim(data, sabotage, other)
    victim.do("drain")
    model.check(victim.do("look"))
    victim.kill()
    return died
