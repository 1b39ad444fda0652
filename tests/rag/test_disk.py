"""A file has its name only when it is whole."""

import errno

import pytest

from rag.disk import written_whole
from rag.errors import Conflict, InvalidInput, StorageFull


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
