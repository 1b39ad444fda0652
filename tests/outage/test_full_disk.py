"""A disk that is full to the last byte, at each step: a clear error, nothing lost, on it goes."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.outage.full_disk import DEAD, STEPS
from tests.services.serving import is_problem
from tests.waiting import killed_after, until

ROOT = Path(__file__).parents[2]
ACCEPTING = ("receive", "keep bytes", "accept")
SIZE = 256 * 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "ragstone-test", folder]
    mounted = subprocess.run(mount, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"No file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


class Small:
    """The service of `tests.outage.full_disk`."""

    def __init__(self, data: Path) -> None:
        with (data.parent.parent / "service.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.outage.full_disk", data], cwd=ROOT, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        started = json.loads(self.process.stdout.readline())
        address = f"http://127.0.0.1:{started['port']}"
        self.client = httpx.Client(base_url=address, timeout=60, trust_env=False)

    def tell(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def send(self, name: str) -> httpx.Response:
        sentence = f"The lamp of {name} burns oil all night long, and the horn sounds in fog. "
        text = "\n\n".join(f"Paragraph {n}. {sentence * 4}" for n in range(6))
        return self.client.post("/v1/documents", json={"documents": [{"id": name, "text": text}]})

    def sees(self, sign: str) -> bool:
        """Whether the disk was filled, or a document failed since."""
        return bool(self.tell(look=True)[sign])

    def jobs(self) -> list[str]:
        """The states of those that are known."""
        return [job["state"] for job in self.client.get("/v1/jobs").json()["jobs"]]

    def wait(self, job: str) -> None:
        """Return when a job has ended as it should."""
        until(lambda: self.client.get(f"/v1/jobs/{job}").json()["state"] == "done")

    def check(self, documents: set[str]) -> None:
        """These are there, whole, and nothing else is."""
        listed = self.client.get("/v1/documents").json()["documents"]
        assert {one["id"] for one in listed} == documents
        assert min(one["chunks"] for one in listed) > 4, "more than is embedded at once"
        for name in documents:
            assert self.searched(name).json()["hits"][0]["document_id"] == name
        assert self.tell(fsck=True)["findings"] == []

    def searched(self, name: str) -> httpx.Response:
        body = {"query": f"lamp of {name}", "filter": {"document_id": name}}
        return self.client.post("/v1/search", json=body)


@contextmanager
def service(data: Path) -> Iterator[Small]:
    """One that runs."""
    opened = Small(data)
    with killed_after(opened.process):
        try:
            yield opened
        finally:
            opened.client.close()
            opened.process.communicate()  # the end of what it reads is the end of it


def test_a_full_disk_is_said_and_waited_for(small_disk):
    """One process, from step to step; after each the space comes back."""
    there = {"kept"}
    with service(small_disk / "data") as small:
        small.wait(small.send("kept").json()["job_id"])
        for step in STEPS:
            name = step.replace(" ", "-")
            small.tell(fill=f"before {step}")
            if step in ACCEPTING:
                is_problem(small.send(name), 507, "/problems/storage-full")
                assert small.tell(look=True)["filled"]
                assert set(small.jobs()) <= {"done", "receiving"}, "nothing was promised"
                small.tell(free=True)
                until(lambda: set(small.jobs()) == {"done"})  # the refused one is forgotten
                sent = small.send(name)
            else:
                sent = small.send(name)
                sign = "filled" if step == "claim" else "failed"
                until(partial(small.sees, sign))
                small.tell(fill="now")  # also what something that ended meanwhile gave back
                is_problem(small.send("too-much"), 507, "/problems/storage-full")
                unready = small.client.get("/readyz")
                assert unready.status_code == 503
                assert "free" in unready.json()["checks"]["disk"]
                assert small.searched("kept").json()["hits"], "questions are answered"
                small.tell(free=True)
            assert sent.status_code == 202
            small.wait(sent.json()["job_id"])
            there.add(name)
            if step not in (*ACCEPTING, "claim"):
                assert small.tell(look=True)["retries"][name] >= 1
        until(lambda: len(small.jobs()) == len(there))
        small.check(there)
    assert small.process.returncode == 0


def test_a_disk_that_fills_up_under_the_engine_s_feet(small_disk):
    """Its files are mapped into memory, so that kills the process. The next one goes on."""
    data = small_disk / "data"
    with service(data) as small:
        small.wait(small.send("kept").json()["job_id"])
        small.tell(fill=DEAD)
        job = small.send("late").json()["job_id"]
        small.process.wait(60)
    assert small.process.returncode == -signal.SIGBUS
    with service(data) as small:  # it starts all the same
        small.tell(fill="now")
        # The engine writes when it opens its files.
        is_problem(small.searched("kept"), 507, "/problems/storage-full")
        is_problem(small.send("too-much"), 507, "/problems/storage-full")
        small.tell(free=True)
        small.wait(job)
        small.check({"kept", "late"})
        small.tell(fill="now")
    assert small.process.returncode == 0, "and it ends as it should"
