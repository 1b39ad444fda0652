"""Which files of a watched folder are ready, by a clock of the test's own."""

import os

import pytest

from rag.folder import Selection
from services.watch import STABLE_SECONDS, Watched


@pytest.fixture
def docs(tmp_path):
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "b.md").write_text("b")
    return tmp_path


@pytest.fixture
def watched(docs):
    made = Watched([docs], Selection())
    assert [path.name for path in made.begin()] == ["a.md", "b.md"]
    return made


def names(changed) -> list[str]:
    return [path.name for path in changed.files]


def test_nothing_changed(watched):
    found = watched.look(0.0)
    assert (found.files, found.some_gone, watched.unsettled) == ((), False, False)


def test_a_file_is_taken_when_it_has_been_still_for_a_while(watched, docs):
    (docs / "c.md").write_text("half")
    assert names(watched.look(10.0)) == []
    assert watched.unsettled
    (docs / "c.md").write_text("half and more")  # still being written
    assert names(watched.look(10.0 + STABLE_SECONDS)) == []
    assert names(watched.look(10.0 + 2 * STABLE_SECONDS - 0.01)) == []
    assert names(watched.look(10.0 + 2 * STABLE_SECONDS)) == ["c.md"]
    assert not watched.unsettled
    assert names(watched.look(20.0)) == []  # and once


def test_a_rename_on_save_is_a_change(watched, docs):
    before = (docs / "a.md").stat()
    (docs / ".a.md.new").write_text("A")  # as long as before,
    os.utime(docs / ".a.md.new", ns=(before.st_atime_ns, before.st_mtime_ns))  # and as old
    (docs / ".a.md.new").replace(docs / "a.md")
    watched.look(0.0)
    assert names(watched.look(STABLE_SECONDS)) == ["a.md"]


def test_what_is_gone_is_told_once(watched, docs):
    (docs / "a.md").unlink()
    assert watched.look(0.0).some_gone
    assert not watched.look(1.0).some_gone
    (docs / "a.md").write_text("a")  # it comes back
    watched.look(2.0)
    assert names(watched.look(2.0 + STABLE_SECONDS)) == ["a.md"]


def test_an_ignore_file_that_changes_is_heeded(watched, docs):
    (docs / ".gitignore").write_text("b.md\n")
    watched.look(0.0)
    (docs / ".gitignore").unlink()
    watched.look(1.0)
    assert names(watched.look(1.0 + STABLE_SECONDS)) == ["b.md"]
