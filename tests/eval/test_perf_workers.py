"""The line protocol, spoken by a real process."""

import sys

import psutil
import pytest

from eval.perf.places import PEERS
from eval.perf.workers import Worker, WorkerFailed

WORKER = """
import os, subprocess, sys
from protocol import answer_all, serve

class Calculator:
    def __init__(self):
        print("made")  # a library that prints must not break the protocol

    def add(self, a, b):
        print("adding")
        os.write(1, b"from below Python\\n")
        return {"sum": a + b}

    def environment(self, name):
        return os.environ.get(name)

    def die(self):
        sys.stderr.write("out of memory, it says\\n")
        os._exit(3)

    def child(self):
        command = [sys.executable, "-c", "print('up', flush=True); input()"]
        pipe = subprocess.PIPE
        self.started = subprocess.Popen(command, stdin=pipe, stdout=pipe)
        self.started.stdout.readline()
        return self.started.pid

    def answer(self, questions, concurrency):
        return answer_all(len, questions, concurrency)

    def close(self):
        print("closed in order")

serve({"calculator": Calculator})
"""


@pytest.fixture
def opened(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    environment = {"PYTHONPATH": str(PEERS / "protocol"), "RAG_PRECISION": "int8"}
    command = [sys.executable, str(script), "calculator"]
    with Worker(command, tmp_path / "logs" / "worker.log", environment) as worker:
        yield worker


def test_a_call_returns_what_the_method_returns_whatever_is_printed(opened):
    assert opened.call("add", a=2, b=3) == {"sum": 5}
    assert opened.call("add", a="ü", b="\n") == {"sum": "ü\n"}  # a line break inside a value


def test_an_error_is_one_line_and_the_worker_goes_on(opened, tmp_path):
    with pytest.raises(WorkerFailed, match=r"^TypeError: .*unsupported operand"):
        opened.call("add", a=2, b=None)
    assert opened.call("add", a=1, b=1) == {"sum": 2}
    assert "Traceback" in (tmp_path / "logs" / "worker.log").read_text()


def test_a_worker_that_ends_says_so_with_its_last_line(opened):
    with pytest.raises(WorkerFailed, match=r"exit code 3: out of memory, it says$"):
        opened.call("die")
    with pytest.raises(WorkerFailed, match="exit code 3"):
        opened.call("add", a=1, b=1)


def test_variants_reach_the_worker_through_its_environment(opened):
    assert opened.call("environment", name="RAG_PRECISION") == "int8"


def test_resident_memory_counts_what_the_worker_started(opened):
    opened.call("add", a=1, b=1)  # it is up
    alone = opened.resident()
    assert alone > 2**20  # a Python interpreter has megabytes
    child = psutil.Process(opened.call("child"))
    of_child = child.memory_info().rss
    assert opened.resident() == pytest.approx(alone + of_child, rel=0.2)
    opened.count_from(child.pid)
    assert opened.resident() == pytest.approx(of_child, rel=0.2)
    child.kill()


def test_answers_come_with_a_latency_each(opened):
    found = opened.call("answer", questions=["a", "bb", "ccc"], concurrency=2)
    assert found["tokens"] == [1, 2, 3]  # in the order of the questions
    assert len(found["latencies"]) == 3
    assert max(found["latencies"]) <= found["seconds"]


def test_closing_lets_the_worker_clean_up(opened, tmp_path):
    opened.call("add", a=1, b=1)
    opened.close()
    assert "closed in order" in (tmp_path / "logs" / "worker.log").read_text()
