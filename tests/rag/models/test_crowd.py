"""Questions go first, and nobody waits for ever."""

import threading
import time

import pytest

from rag.models.batching import Batcher
from rag.models.crowd import Crowd
from rag.models.genai import Turns
from rag.work import Priority, Work

LONG = 60.0


def test_an_empty_crowd_is_not_waited_for():
    Crowd().wait_until_gone(LONG)


def test_it_is_waited_for_until_the_last_has_left():
    crowd, gone = Crowd(), threading.Event()
    crowd.enter()
    crowd.enter()

    def wait() -> None:
        crowd.wait_until_gone(LONG)
        gone.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    crowd.leave()
    assert not gone.is_set()  # one is still inside
    crowd.leave()
    waiting.join(LONG)
    assert gone.is_set()


def test_nobody_waits_longer_than_asked_for():
    crowd = Crowd()
    crowd.enter()
    for seconds in (0.01, 0.0, -1.0):
        crowd.wait_until_gone(seconds)  # returns although somebody is inside


def test_a_model_s_patience_counts_from_its_last_tokens():
    crowd = Crowd()
    crowd.enter()
    turns = Turns(crowd, patience=0.05)
    turns.taken()
    start = time.monotonic()
    turns.wait()
    assert time.monotonic() - start >= 0.04  # never sooner; how much later is the machine's affair
    Turns(crowd, patience=0.0).wait()


@pytest.mark.parametrize("priority", list(Priority))
def test_interactive_requests_are_in_the_crowd_until_they_are_done(priority):
    crowd, started, release = Crowd(), threading.Event(), threading.Event()

    def run(items):
        started.set()
        assert release.wait(LONG)
        return items

    batcher = Batcher("model", run, length=len, batch_tokens=8, waiting=4, crowd=crowd)
    future = batcher.submit(["a"], Work(priority))
    assert started.wait(LONG)
    assert crowd._inside == (priority is Priority.INTERACTIVE)
    release.set()
    future.result(LONG)
    batcher.close()
    assert crowd._inside == 0


def test_who_gives_up_leaves_the_crowd():
    crowd, release = Crowd(), threading.Event()

    def run(items):
        assert release.wait(LONG)
        return items

    batcher = Batcher("model", run, length=len, batch_tokens=1, waiting=4, crowd=crowd)
    at_work, waiting = Work(), Work()
    first, second = batcher.submit(["a"], at_work), batcher.submit(["b"], waiting)
    waiting.cancelled.set()
    assert second.cancelled()
    assert crowd._inside == 1
    release.set()
    first.result(LONG)
    batcher.close()
    assert crowd._inside == 0


def test_it_is_quiet_for_as_long_as_nobody_asked_and_nothing_was_answered():
    now = [100.0]
    crowd = Crowd(lambda: now[0])
    assert crowd.quiet_seconds == float("inf")
    crowd.enter()
    with crowd.answering():
        assert crowd.quiet_seconds == 0
        crowd.leave()
        now[0] += 30  # a language model takes its time
        assert crowd.quiet_seconds == 0
    assert crowd.quiet_seconds == 0
    now[0] += 2.5
    assert crowd.quiet_seconds == 2.5
    with pytest.raises(ZeroDivisionError), crowd.answering():
        raise ZeroDivisionError
    now[0] += 1
    assert crowd.quiet_seconds == 1


def test_answers_are_not_waited_for():
    """They are what waits: for the questions that are still on their way."""
    crowd = Crowd()
    with crowd.answering():
        crowd.wait_until_gone(LONG)
