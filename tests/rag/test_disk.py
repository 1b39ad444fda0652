"""A file has its name only when it is whole; one sync serves many who wait for it."""

import errno
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.disk import SharedSync, written_whole
from rag.errors import Conflict, InvalidInput, StorageFull

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


def test_the_name_comes_last(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as file:
        file.write(b"all of it")
        assert [one.name for one in tmp_path.iterdir()] == ["file.part"]
    assert path.read_bytes() == b"all of it"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_nothing(tmp_path):
    def broken_off() -> None:
        with written_whole(tmp_path / "file") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path):
    with pytest.raises(StorageFull, match="disk is full"), written_whole(tmp_path / "file"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_written_anew(tmp_path):
    (tmp_path / "file.part").write_bytes(b"half of a longer one")
    with written_whole(tmp_path / "file") as file:
        file.write(b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


def test_no_file_is_overwritten(tmp_path):
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(Conflict, match="already"), written_whole(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_bytes() == b"old"


def test_two_at_once_do_not_mix(tmp_path):
    with written_whole(tmp_path / "file") as file:
        file.write(b"first")
        with pytest.raises(Conflict, match="Another process"), written_whole(tmp_path / "file"):
            pass
    assert (tmp_path / "file").read_bytes() == b"first"


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="No such file"), written_whole(tmp_path / "no" / "file"):
        pass
