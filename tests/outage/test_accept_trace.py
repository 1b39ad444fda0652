"""What is promised is on the disk: the order of system calls from an upload to its 202."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from rag import collection as shelf
from rag.objects import digest
from rag.orchestrator import Orchestrator
from tests.outage.syscalls import SENDS, SYNCS, TRACED, WRITES, Call, calls_of
from tests.waiting import killed_after

ROOT = Path(__file__).parents[2]
LEFT_OUT = (
    "sync of the file",
    "sync of the folder",
    "sync of the commit",
    "acceptance before the answer",
)


def can_trace() -> bool:
    """Whether strace is there and may look at other processes."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode == 0


@pytest.fixture
def data(tmp_path: Path, lighthouse: Orchestrator) -> Path:
    """A data folder with an empty collection `default`."""
    with Orchestrator.open(tmp_path / "data", profile="starter") as rag:
        rag.parts._loaded["embedder"] = lighthouse.parts.embedder
        shelf.create(rag.parts, rag.scope, "default")
    return tmp_path / "data"


@pytest.mark.skipif(not can_trace(), reason="There is no strace, or it may not trace here.")
def test_an_answer_of_202_comes_after_everything_is_on_the_disk(data, tmp_path):
    """And each sync that is left out is noticed: else the check would check nothing."""
    trace, uploads = tmp_path / "trace", ["", *LEFT_OUT]
    process = subprocess.Popen(
        ["strace", "-f", "-y", "-s", "32", "--seccomp-bpf", "-e", f"trace={TRACED}", "-o", trace,
         sys.executable, "-m", "tests.outage.accepting", data],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    with process, killed_after(process):
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            for left_out in uploads:
                process.stdin.write(f"{left_out}\n")
                process.stdin.flush()
                assert process.stdout.readline() == "so be it\n"
                file = (f"{left_out}.txt", content_of(left_out))
                assert client.post("/v1/documents", files={"files": file}).status_code == 202
        process.stdin.close()
        assert process.wait(60) == 0
    with trace.open(encoding="utf8", errors="replace") as lines:
        calls = calls_of(lines)
    answers = [call for call in calls if call.name in SENDS and '"HTTP/1.1 202' in call.arguments]
    assert len(answers) == len(uploads)
    began = -1
    for left_out, answer in zip(uploads, answers, strict=True):
        of_one = [call for call in calls if began < call.begun < answer.begun]
        began = answer.ended
        assert missing(of_one, answer, content_of(left_out)) == left_out


def content_of(left_out: str) -> bytes:
    """An upload of several pieces, no two alike."""
    return f"Without {left_out or 'nothing'}. ".encode() * 200_000


def missing(calls: Sequence[Call], answer: Call, content: bytes) -> str:
    """Which of `LEFT_OUT` cannot be seen between an upload and its answer; "" when all is there.

    Strict: what a step rests on has ended before that step begins. An AssertionError for anything
    that is wrong in another way.
    """
    name = digest(content)
    (rename,) = [c for c in calls if c.name.startswith("rename") and f'/{name}"' in c.arguments]
    old, new = re.findall(r'"([^"]+)"', rename.arguments)
    assert rename.result == 0
    assert Path(old).parent == Path(new).parent

    written = [c for c in calls if c.name in WRITES and c.path == old]
    assert sum(c.result for c in written) == len(content)
    assert last(written) < rename.begun
    log = [c for c in calls if c.path.endswith("catalog.sqlite-wal")]
    received = [c for c in log if c.name in WRITES and c.ended < written[0].begun]
    assert received, "the journal knows of the bytes before they come"

    of_file = [c for c in calls if c.path == old and c.name in SYNCS]
    if not any(last(written) < c.begun and ok(c) and c.ended < rename.begun for c in of_file):
        return "sync of the file"
    of_folder = [
        c for c in calls
        if c.path == str(Path(new).parent) and c.name in SYNCS and ok(c) and c.begun > rename.ended
    ]  # fmt: skip
    for made in (c for c in calls if c.name.startswith("mkdir") and c.result == 0):
        above = str(Path(re.findall(r'"([^"]+)"', made.arguments)[-1]).parent)
        of_above = [c for c in calls if c.path == above and c.name in SYNCS and ok(c)]
        if not any(made.ended < c.begun and c.ended < rename.begun for c in of_above):
            return "sync of the folder"
    if not of_folder:
        return "sync of the folder"
    accepted = [c for c in log if c.name in WRITES and c.begun > of_folder[0].ended]
    if not accepted:
        return "acceptance before the answer"
    assert not [c for c in log if c.name in WRITES and rename.begun < c.begun < of_folder[0].ended]
    spans = ((-1, written[0].begun), (of_folder[0].ended, answer.begun))
    return "" if all(synced(log, *span) for span in spans) else "sync of the commit"


def synced(log: Sequence[Call], after: int, before: int) -> bool:
    """Whether everything written to a log in that span, and there is some, was synced within it."""
    span = [c for c in log if after < c.begun and c.ended < before]
    writes = [c for c in span if c.name in WRITES]
    return any(c.name in SYNCS and ok(c) and c.begun > last(writes) for c in span if writes)


def last(calls: Sequence[Call]) -> int:
    """The line on which the last of them had ended."""
    return max(call.ended for call in calls)


def ok(call: Call) -> bool:
    """Whether it did what it is for."""
    return call.result == 0
