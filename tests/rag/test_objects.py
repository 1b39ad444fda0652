import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rag.errors import NotFound, StorageFull
from rag.objects import ObjectStore, digest

# FIPS 180-2, the example "abc".
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def files(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_bytes_come_back_under_their_digest(tmp_path):
    store = ObjectStore(tmp_path / "objects")
    assert store.put(b"abc") == digest(b"abc") == ABC
    assert store.get(ABC) == b"abc"
    assert files(tmp_path) == [f"objects/ba/{ABC}"]
    assert store.get(store.put(b"")) == b""


def test_the_same_bytes_are_kept_once(tmp_path):
    store = ObjectStore(tmp_path)
    store.put(b"abc")
    written = (tmp_path / "ba" / ABC).stat()
    store.put(b"abc")
    again = (tmp_path / "ba" / ABC).stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_another_process_finds_what_was_put(tmp_path):
    ObjectStore(tmp_path).put(b"abc")
    assert ObjectStore(tmp_path).get(ABC) == b"abc"


def test_a_missing_object_is_named(tmp_path):
    with pytest.raises(NotFound, match=ABC) as raised:
        ObjectStore(tmp_path).get(ABC)
    assert "backup" in raised.value.hint


def test_deleting_may_be_repeated(tmp_path):
    store = ObjectStore(tmp_path)
    store.put(b"abc")
    store.delete(ABC)
    store.delete(ABC)
    assert files(tmp_path) == []
    assert store.put(b"abc") == ABC  # and it can be kept again


def test_the_bytes_reach_the_disk_before_the_name_and_the_name_before_put_returns(
    tmp_path, monkeypatch
):
    path = tmp_path / "ba" / ABC
    seen = []
    real = os.fsync

    def watched(descriptor):
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        seen.append((target if target.is_dir() else "the file", path.exists()))
        real(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to see what is synced")
    monkeypatch.setattr(os, "fsync", watched)
    store = ObjectStore(tmp_path)
    store.put(b"abc")
    # The file is synced while nothing has its name, its folder once it has; and before either the
    # names of the folders, which were made a moment ago.
    assert seen == [
        (tmp_path.parent, False), (tmp_path, False), ("the file", False), (tmp_path / "ba", True),
    ]  # fmt: skip
    # Whoever wrote the same bytes before may not have come to syncing their name.
    store.put(b"abc")
    assert seen[4:] == [(tmp_path / "ba", True)]


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, OSError)],
)
def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch, number, error):
    def fail(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(error):
        ObjectStore(tmp_path).put(b"abc")
    assert files(tmp_path) == []


def test_threads_may_put_the_same_bytes_at_once(tmp_path):
    store = ObjectStore(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        names = list(pool.map(lambda n: store.put(b"%d" % (n % 3)), range(24)))
    assert [store.get(name) for name in names] == [b"%d" % (n % 3) for n in range(24)]
    assert len(files(tmp_path)) == 3
