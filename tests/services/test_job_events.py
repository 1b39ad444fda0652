"""What an event of a job says, reckoned by hand."""

from datetime import UTC, datetime

import pytest

from rag.journal import Failure, Job, Task
from rag.sources import Source
from rag.types import DocumentReport, Scope
from services.job_events import _event, _stored

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def task(id: str, state: str, *, stage: str = "", done: int = 0, total: int = 0, **more) -> Task:
    values = {
        "id": 1, "job_id": "j", "scope": Scope("default"), "groups": None, "collection": "docs",
        "document_id": id, "source": Source(id, id), "content_hash": "c", "state": state,
        "stage": stage, "done": done, "total": total, "generation": None, "owner": None,
        "starts": 0, "retries": 0, "not_before": None, "report": None, "error": None,
        "updated_at": NOW,
    }  # fmt: skip
    return Task(**(values | more))


def test_stage_done_total_rate_and_time_left():
    job = Job("j", "docs", NOW, (
        task("a", "done", report=DocumentReport("a", "ingested", chunks=12)),
        # Given up half-way: nothing of it is left to do.
        task("b", "failed", done=3, total=100, error=Failure("ParseError", "No.", "")),
        task("c", "running", stage="embed", done=5, total=25),
        task("d", "queued"),
    ))  # fmt: skip
    assert _stored(job) == 12 + 3 + 5
    said = _event(job, stored=10, seconds=5.0)
    assert (said.stage, said.done, said.total) == ("embed", 2, 4)
    assert said.chunks_per_second == 2.0
    assert said.seconds_left == pytest.approx(10.0)  # twenty chunks of c
    failed = said.documents[1]
    assert (failed.status, failed.problem) == ("failed", "/problems/invalid-input")


def test_a_job_that_has_ended_has_no_stage_and_no_time_left():
    done = task("a", "done", stage="embed", report=DocumentReport("a", "ingested", chunks=2))
    said = _event(Job("j", "docs", NOW, (done,)), stored=2, seconds=1.0)
    assert (said.stage, said.seconds_left) == (None, None)
