"""A server that is stopped or killed while clients upload and ask: nothing promised is lost."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.services.serving import BELL_ROCK
from tests.waiting import until

UPLOADED, ANSWERED = 25, 25  # before the server is stopped


@contextmanager
def server(data):
    """`rag serve` in a process of its own: (its address, the process)."""
    command = [sys.executable, "-c", "from services.cli import main; main()", "serve"]
    environment = {
        **os.environ,
        "RAG_DATA": str(data),
        "RAG_PROFILE": "starter",
        "RAG_GRACE_SECONDS": "20",
    }
    environment["RAG_PORT"] = str(free_port())
    address = f"http://127.0.0.1:{environment['RAG_PORT']}"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until(lambda: process.poll() is not None or is_ready(address), seconds=120)
            assert process.poll() is None
            yield address, process
        finally:
            process.kill()


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def is_ready(address):
    try:
        return httpx.get(f"{address}/readyz", trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


class Load:
    """Clients that upload and ask until the server is gone, and what they were promised."""

    def __init__(self, address):
        self.address = address
        self.over = threading.Event()
        self.jobs: list[str] = []
        self.traces: list[str] = []
        self.broken: list[str] = []  # answers that had begun and did not end
        work = [self.upload, self.upload, self.ask, self.ask, self.ask]
        self.threads = [threading.Thread(target=one, args=(n,)) for n, one in enumerate(work)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(60)

    def upload(self, number):
        with httpx.Client(base_url=self.address, trust_env=False, timeout=30) as client:
            for count in range(10**6):
                text = f"Note {count} of {number}. {BELL_ROCK}"
                sent = {"documents": [{"id": f"note-{number}-{count}", "text": text}]}
                try:
                    answer = client.post("/v1/documents", json=sent)
                except httpx.HTTPError:
                    return
                if answer.status_code == 202:
                    self.jobs.append(answer.json()["job_id"])
                if self.over.wait(0.02):
                    return

    def ask(self, _):
        body = {"question": "Who built the Bell Rock lighthouse?", "stream": True}
        with httpx.Client(base_url=self.address, trust_env=False, timeout=30) as client:
            while not self.over.is_set():
                seen = ""
                try:
                    with client.stream("POST", "/v1/ask", json=body) as answer:
                        if answer.status_code != 200:
                            continue
                        for line in answer.iter_lines():
                            if line.startswith("event: "):
                                seen = line.removeprefix("event: ")
                            elif seen == "done" and line.startswith("data: "):
                                trace = json.loads(line.removeprefix("data: "))["trace_id"]
                                self.traces.append(trace)
                except httpx.HTTPError:
                    pass
                if seen not in ("", "done"):
                    self.broken.append(seen)
                if seen == "":
                    return


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_under_load_loses_nothing(tmp_path, how):
    with server(tmp_path) as (address, process):
        first = {"documents": [{"id": "bell-rock", "text": BELL_ROCK}]}
        made = httpx.post(f"{address}/v1/documents?wait=true", json=first, trust_env=False)
        assert made.status_code == 200
        with Load(address) as load:
            until(lambda: len(load.jobs) >= UPLOADED and len(load.traces) >= ANSWERED)
            begin = time.monotonic()
            process.send_signal(how)
            code = process.wait(40)
            took = time.monotonic() - begin
    if how is signal.SIGTERM:
        assert (
            code == -signal.SIGTERM
        )  # uvicorn ends by the signal, after it has shut down in order
        assert took < 20  # the grace time
        assert load.broken == []
    with (
        server(tmp_path) as (address, _),
        httpx.Client(base_url=address, trust_env=False, timeout=30) as client,
    ):
        for job in load.jobs:
            until(lambda: client.get(f"/v1/jobs/{job}").json()["state"] in ("done", "failed"))  # noqa: B023 - called at once
            found = client.get(f"/v1/jobs/{job}").json()
            assert found["state"] == "done", found
        for trace in load.traces:
            assert client.get(f"/v1/traces/{trace}").status_code == 200
        seen = client.get("/v1/collections/default").json()
        assert seen["chunks"] >= len(load.jobs)
