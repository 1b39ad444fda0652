"""A folder into which something is being restored is nobody else's."""

from contextlib import suppress

import pytest

from rag import unfinished
from rag.errors import Conflict, DataFolderBusy
from rag.orchestrator import Orchestrator


def interrupted(folder, *physical: str) -> None:
    """What a restore leaves that ends early."""
    with suppress(KeyboardInterrupt), unfinished.marked(folder, list(physical)):
        (folder / "objects").mkdir()
        (folder / "objects" / "half").write_bytes(b"x")
        raise KeyboardInterrupt


def test_the_mark_goes_when_all_is_there(tmp_path):
    folder = tmp_path / "data"
    with unfinished.marked(folder, ["a"]) as left:
        assert left == []
        with pytest.raises(Conflict, match="not whole"):
            unfinished.check(folder)
    unfinished.check(folder)
    assert list(folder.iterdir()) == []


def test_nothing_opens_a_folder_that_a_restore_did_not_finish(tmp_path):
    interrupted(tmp_path / "data")
    with pytest.raises(Conflict, match="rag restore"):
        Orchestrator.open(tmp_path / "data", profile="starter")
    assert not (tmp_path / "data" / "catalog.sqlite").exists()


def test_the_next_restore_begins_anew_and_knows_what_was_left_elsewhere(tmp_path):
    folder = tmp_path / "data"
    interrupted(folder, "a", "b")
    interrupted(folder, "b", "c")
    assert unfinished.left(folder) == ["a", "b", "c"]
    unfinished.check_empty(folder)
    with unfinished.marked(folder, ["c"]) as left:
        assert left == ["a", "b", "c"]
        assert [path.name for path in folder.iterdir()] == [unfinished.MARK]


def test_a_torn_line_of_the_mark_is_passed_over(tmp_path):
    folder = tmp_path / "data"
    interrupted(folder, "a")
    with (folder / unfinished.MARK).open("a") as mark:
        mark.write('{"pid": 1, "phys')
    assert unfinished.left(folder) == ["a"]


def test_a_folder_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("precious")
    for refused in (
        unfinished.check_empty,
        lambda folder: unfinished.marked(folder, []).__enter__(),
    ):
        with pytest.raises(Conflict, match="not empty"):
            refused(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(Conflict, match="no folder"):
        unfinished.check_empty(tmp_path / "mine")


def test_two_restores_do_not_mix(tmp_path):
    with (
        unfinished.marked(tmp_path / "data", ["a"]),
        pytest.raises(DataFolderBusy, match="Another process"),
        unfinished.marked(tmp_path / "data", ["a"]),
    ):
        pass
