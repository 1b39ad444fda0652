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

from tests.crash.victim import MAIL, STEPS, files_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*(f"doc-{n}" for n in range(6)), MAIL]
POINTS = [f"{side} {name}" for name in STEPS for side in ("before", "after")]
AT_RANDOM = "at random"


class Died(Exception):
    """The victim is gone."""


class Violation(AssertionError):
    """Something was lost, doubled or half visible."""


class Victim:
    """The process, and the line to it."""

    def __init__(self, data: Path, sabotage: str, log: Path) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim", str(data), sabotage],
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
            if there and sum(versions.values()) != there["chunks"] - unmarked(document, there):
                raise Violation(f"{document} has {there['chunks']} chunks, seen: {versions}")
            allowed = {self.promised.get(document), *self.open.get(document, ())}
            if version not in allowed:
                raise Violation(f"{document} is there in version {version}, not one of {allowed}")
            self.promise(document, version)
        check_attachments(seen["documents"], self.promised[MAIL])


def unmarked(document: str, there: dict[str, Any]) -> int:
    """Chunks that need not say of which version they are: the end of a mail names its files."""
    found = sum(there["versions"].values())
    return 1 if document == MAIL and found == there["chunks"] - 1 else 0


def check_attachments(documents: dict[str, Any], version: int | None) -> None:
    """Raise Violation unless there is exactly what is attached to the mail in this version."""
    expected = set() if version is None else {f"{MAIL}/{name}" for name in files_of(version)}
    there = {name for name in documents if name.startswith(f"{MAIL}/")}
    if there != expected:
        raise Violation(f"of version {version} of the mail {there} are there, not {expected}")
    for name in there:
        if documents[name]["versions"] != {str(version): documents[name]["chunks"]}:
            raise Violation(f"{name} is {documents[name]}, the mail's version {version}")


def kills(
    data: Path, count: int, *, seed: int, sabotage: str = "", at: list[str] | None = None
) -> Counter[str]:
    """Kill `count` times, checking after each restart; where it died, by step.

    Every third kill is at a random instant, the others at the steps in turn. Raises Violation.
    """
    draw, model, died = random.Random(seed), Model(), Counter[str]()
    turns = cycle(at or POINTS)
    version = 0
    for number in range(count):
        victim = Victim(data, sabotage, data.parent / "victim.log")
        where = AT_RANDOM if number % 3 == 2 and at is None else next(turns)
        # Only the mail comes by there.
        at_mail = "attachments" in where
        likely = [*DOCUMENTS, *[MAIL] * 7] if at_mail else DOCUMENTS
        timer = None
        try:
            victim.do("drain")
            model.check(victim.do("look"))
            if where == AT_RANDOM:
                timer = threading.Timer(draw.uniform(0.05, 2.0), victim.process.kill)
                timer.start()
            else:
                victim.do("arm", where=where, count=1 if at_mail else draw.randint(1, 3))
            # Those are left alone by deletes, so a search always has to find them.
            kept = [d for d in DOCUMENTS[:3] if model.promised.get(d) is not None]
            victim.do("watch", ids=kept)
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                version += 1
                document = draw.choice(likely)
                deletable = document not in kept and model.promised.get(document) is not None
                if deletable and draw.random() < 0.4:
                    model.ask(document, None)
                    victim.do("delete", id=document)
                    model.promise(document, None)
                else:
                    model.ask(document, version)
                    victim.do("put", id=document, version=version, paragraphs=draw.randint(1, 12))
                    model.promise(document, version)
                if at_mail:  # rather soon than behind a thousand others
                    victim.do("drain")
            raise Violation(f"it did not die {where} within a minute")
        except Died:
            died[where] += 1
        finally:
            if timer is not None:
                timer.cancel()
            victim.kill()
    victim = Victim(data, sabotage, data.parent / "victim.log")
    victim.do("drain")
    model.check(victim.do("look"))
    victim.kill()
    return died
