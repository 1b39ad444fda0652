"""Kills a process again and again, and compares what is there with what it promised."""

import json
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from rag.archive import SEAL_BYTES, Archive
from rag.disk import UNFINISHED
from rag.embed import load_embedder
from rag.errors import MalformedBackup
from rag.parts import engines_of
from rag.restore import restore
from rag.settings import load_settings
from tests import tiny_models
from tests.crash.victim import CHUNK_TOKENS, MAIL, MIGRATION_STEPS, STEPS, files_of

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*(f"doc-{n}" for n in range(6)), MAIL]
POINTS = [f"{side} {name}" for name in STEPS for side in ("before", "after")]
MIGRATION_POINTS = [f"{side} {name}" for name in MIGRATION_STEPS for side in ("before", "after")]
AT_RANDOM = "at random"
DIE_SECONDS = 120
SILENCE_SECONDS = 240


class Died(Exception):
    """The victim is gone."""


class Violation(AssertionError):
    """Something was lost, doubled or half visible."""


class Victim:
    """The process, and the line to it."""

    def __init__(self, data: Path, sabotage: str, models: tuple[Path, Path]) -> None:
        self._log = (data.parent / "victim.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.victim", str(data), sabotage, *map(str, models)],
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

    def _stacks(self) -> str:
        """Where its threads stand, at the end of its log."""
        self.process.send_signal(signal.SIGUSR1)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(2)
        self.process.kill()
        return Path(self._log.name).read_text("utf8", "replace")[-8000:]

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], SILENCE_SECONDS)[0]:
            raise Violation(f"it stands still: {self._stacks()}")
        line = self.process.stdout.readline()
        if not line:
            if (code := self.process.wait(60)) != -signal.SIGKILL:
                raise Violation(f"it ended by itself, with {code}: see victim.log")
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
    marks: dict[str, tuple[int | None, set[int | None]]] = field(default_factory=dict)

    def mark(self, document: str, *marks: int | None) -> None:
        """What a patch may have left in the metadata of the version that is there."""
        self.marks[document] = (self.promised[document], set(marks))

    def marked(self, document: str) -> int | None:
        """The mark that was there when it was looked at last."""
        return next(iter(self.marks.get(document, (None, {None}))[1]))

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
            mark = there["mark"] if there else None
            patched, marks = self.marks.get(document, (version, {mark}))
            if patched == version and mark not in marks:
                raise Violation(f"{document} has mark {mark}, and none of {marks}")
            self.mark(document, mark)
        check_attachments(seen["documents"], self.promised[MAIL])


def embedders(folder: Path) -> tuple[Path, Path]:
    """Two with the same weights under different instructions: their vectors do not compare.

    They are tiny, because what they mean is not looked at, and converted here, so that no victim
    spends its time on that.
    """
    one = tiny_models.bge(folder / "one", max_tokens=2 * CHUNK_TOKENS)
    other = folder / "other"
    shutil.copytree(one, other)
    prompts = {"prompts": {"document": "passage: ", "query": "query: "}}
    (other / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    for model in (one, other):
        load_embedder(str(model), engines=engines_of(load_settings())).close()
    return one, other


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


class Backups:
    """Those that were made, and what each has to hold: all that was promised when it began."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._models: dict[Path, Model] = {}
        folder.mkdir()

    def next(self, model: Model) -> Path:
        """Where to write another."""
        path = self._folder / str(len(self._models))
        self._models[path] = deepcopy(model)
        return path

    def check(self) -> None:
        """Raise Violation for one that has its name and is not whole; forget all but the newest.

        One that was interrupted has no name, and is refused unless all of it is there.
        """
        for path in self._folder.glob(f"*{UNFINISHED}"):
            whole = path.read_bytes()[-SEAL_BYTES - 22 :].startswith(b"PK\x05\x06")
            try:
                Archive.open(path).__exit__()
            except MalformedBackup:
                if whole:
                    raise Violation(f"{path} has an end and is not whole") from None
            path.unlink()
        for path in self._named()[:-1]:
            path.unlink()
        for path in self._named():
            Archive.open(path).__exit__()

    def restored(self) -> Iterator[tuple[Path, Model]]:
        """The newest one put back, and what it has to hold."""
        for path in self._named():
            data = self._folder / f"restored-{path.name}"
            restore(load_settings(data=data, profile="starter"), path)
            yield data, self._models[path]

    def _named(self) -> list[Path]:
        found = [path for path in self._folder.iterdir() if path.name.isdigit()]
        return sorted(found, key=lambda path: int(path.name))


def kills(
    data: Path, total: int, *, seed: int, sabotage: str = "", at: list[str] | None = None
) -> Counter[str]:
    """Kill `total` times, checking after each restart; where it died, by step.

    Every third kill is at a random instant, the others at the steps in turn. Raises Violation.
    """
    draw, model, died = random.Random(seed), Model(), Counter[str]()
    kept = Backups(data.parent / "backups")
    turns = cycle(at or POINTS + MIGRATION_POINTS)
    models = embedders(data.parent / "models")
    version = 0
    for number in range(total):
        victim = Victim(data, sabotage, models)
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
                seldom = at_mail or where in MIGRATION_POINTS
                victim.do("arm", where=where, count=1 if seldom else draw.randint(1, 3))
            # Those are left alone by deletes, so a search always has to find them.
            watched = [d for d in DOCUMENTS[:3] if model.promised.get(d) is not None]
            victim.do("watch", ids=watched)
            for document in [d for d in DOCUMENTS if model.promised.get(d) is not None] * 3:
                version += 1
                model.mark(document, model.marked(document), version)
                assert victim.do("patch", id=document, mark=version)["patched"]
                model.mark(document, version)
            deadline = time.monotonic() + DIE_SECONDS
            while time.monotonic() < deadline:
                if draw.random() < 0.3:
                    victim.do("migrate", wish=draw.choice(["on", "drop"]))
                if not sabotage and draw.random() < 0.15:
                    victim.do("backup", file=str(kept.next(model)))
                    continue
                version += 1
                document = draw.choice(likely)
                deletable = document not in watched and model.promised.get(document) is not None
                if deletable and draw.random() < 0.4:
                    model.ask(document, None)
                    if draw.random() < 0.5:
                        victim.do("delete", id=document)
                        model.promise(document, None)
                    elif victim.do("delete matching", id=document)["deleted"]:
                        model.promise(document, None)
                else:
                    model.ask(document, version)
                    victim.do("put", id=document, version=version, paragraphs=draw.randint(1, 12))
                    model.promise(document, version)
                if at_mail:  # rather soon than behind a thousand others
                    victim.do("drain")
            raise Violation(f"it did not die {where} within {DIE_SECONDS} seconds")
        except Died:
            died[where] += 1
        finally:
            if timer is not None:
                timer.cancel()
            victim.kill()
        kept.check()
    for there, expected in ((data, model), *kept.restored()):
        victim = Victim(there, sabotage, models)
        victim.do("drain")
        expected.check(victim.do("look"))
        victim.kill()
    return died
