"""One sync for many who wait for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.disk import SharedSync

LONG = 60.0


def all_waiting(shared: SharedSync, count: int) -> None:
    """Return when so many threads wait for a sync that has not begun."""
    while True:
        with shared._changed:
            if len(shared._changed._waiters) == count:
                return


def test_one_sync_is_for_everybody_who_asked_before_it_began():
    began, release = threading.Event(), threading.Event()
    syncs = []

    def bring():
        syncs.append(1)
        began.set()
        if len(syncs) == 1:
            assert release.wait(LONG)

    shared = SharedSync(bring)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(shared)
        assert began.wait(LONG)
        others = [threads.submit(shared) for _ in range(5)]
        all_waiting(shared, 5)
        assert not any(one.done() for one in others)  # what runs may not have seen their writes
        release.set()
        for one in (first, *others):
            one.result(LONG)
    assert len(syncs) == 2


def test_nobody_returns_before_a_sync_that_began_after_what_he_wrote():
    guard, written, on_disk = threading.Lock(), 0, 0

    def bring():
        nonlocal on_disk
        seen = written
        with guard:
            on_disk = max(on_disk, seen)

    shared = SharedSync(bring)

    def write(_):
        nonlocal written
        with guard:
            written += 1
            mine = written
        shared()
        assert on_disk >= mine

    with ThreadPoolExecutor(8) as threads:
        assert len(list(threads.map(write, range(400)))) == 400


def test_after_a_failure_those_who_wait_find_out_for_themselves():
    began, release = threading.Event(), threading.Event()
    syncs = []

    def bring():
        syncs.append(1)
        began.set()
        if len(syncs) == 1:
            assert release.wait(LONG)
            raise OSError("the disk is gone")

    shared = SharedSync(bring)
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(shared)
        assert began.wait(LONG)
        others = [threads.submit(shared) for _ in range(2)]
        all_waiting(shared, 2)
        release.set()
        with pytest.raises(OSError, match="gone"):
            first.result(LONG)
        for one in others:
            one.result(LONG)
    assert len(syncs) == 2
