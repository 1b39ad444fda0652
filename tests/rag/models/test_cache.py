import json
import logging
import multiprocessing
import os
import threading

import pytest

from rag.errors import ModelUnavailable
from rag.models.cache import MANIFEST, default_cache, find, library_versions, open_or_build

KEY = {"model": "acme/tiny", "revision": "abc", "precision": "f32"}


class Build:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, content=b"graph"):
        self.content = content
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "model.bin").write_bytes(self.content)
        (folder / "inner").mkdir()
        (folder / "inner" / "table.npy").write_bytes(b"table")
        return {"cosine": 0.9}


def test_it_is_built_once(tmp_path):
    build = Build()
    first = open_or_build(tmp_path, KEY, build)
    second = open_or_build(tmp_path, dict(reversed(KEY.items())), build)
    assert build.calls == 1
    assert first == second
    assert first.record == {"cosine": 0.9}
    assert (first.path / "model.bin").read_bytes() == b"graph"


@pytest.mark.parametrize("part", KEY)
def test_another_key_is_another_folder(tmp_path, part):
    build = Build()
    one = open_or_build(tmp_path, KEY, build)
    other = open_or_build(tmp_path, {**KEY, part: "other"}, build)
    assert build.calls == 2
    assert one.path != other.path


def tear(folder):
    (folder / "model.bin").write_bytes(b"gra")


def flip_a_bit(folder):
    (folder / "model.bin").write_bytes(b"grbph")


def lose_a_file(folder):
    (folder / "inner" / "table.npy").unlink()


def lose_the_manifest(folder):
    (folder / MANIFEST).unlink()


def tear_the_manifest(folder):
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text("utf-8")[:40], "utf-8")


def make_it_foreign(folder):
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    manifest["key"]["revision"] = "another"
    (folder / MANIFEST).write_text(json.dumps(manifest), "utf-8")


@pytest.mark.parametrize(
    "damage",
    [tear, flip_a_bit, lose_a_file, lose_the_manifest, tear_the_manifest, make_it_foreign],
)
def test_what_is_not_whole_is_built_again_and_said(tmp_path, caplog, damage):
    build = Build()
    damage(open_or_build(tmp_path, KEY, build).path)
    assert find(tmp_path, KEY) is None
    assert "is not used" in caplog.text
    entry = open_or_build(tmp_path, KEY, build)
    assert build.calls == 2
    assert (entry.path / "model.bin").read_bytes() == b"graph"
    assert find(tmp_path, KEY) == entry


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "model.bin").write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        open_or_build(tmp_path, KEY, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert open_or_build(tmp_path, KEY, Build()).record == {"cosine": 0.9}


def test_what_a_killed_build_left_is_swept_away(tmp_path):
    entry = open_or_build(tmp_path, KEY, Build())
    left = entry.path.with_name(entry.path.name + ".part999999")
    entry.path.rename(left)  # as if the process had died before its rename
    build = Build()
    open_or_build(tmp_path, KEY, build)
    assert build.calls == 1
    assert not left.exists()


def build_slowly(folder, started, release, calls):
    calls.put(os.getpid())
    started.set()
    assert release.wait(20)
    return Build()(folder)


def use_cache(cache, started, release, calls):
    entry = open_or_build(cache, KEY, lambda folder: build_slowly(folder, started, release, calls))
    assert (entry.path / "model.bin").read_bytes() == b"graph"


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path):
    context = multiprocessing.get_context("spawn")
    started, release, calls = context.Event(), context.Event(), context.Queue()
    processes = [
        context.Process(target=use_cache, args=(tmp_path, started, release, calls))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert started.wait(30)
    release.set()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    calls.get(timeout=5)
    assert calls.empty()


def test_two_threads_build_once(tmp_path):
    build, entries = Build(), []
    threads = [
        threading.Thread(target=lambda: entries.append(open_or_build(tmp_path, KEY, build)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert build.calls == 1
    assert len(entries) == 8


def test_waiting_is_said(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    inside, release = threading.Event(), threading.Event()

    def build(folder):
        inside.set()
        assert release.wait(10)
        return Build()(folder)

    first = threading.Thread(target=open_or_build, args=(tmp_path, KEY, build))
    first.start()
    assert inside.wait(10)
    said = threading.Event()
    handler = logging.Handler()
    handler.emit = lambda record: said.set() if "waiting" in record.getMessage() else None
    logging.getLogger("rag.models.cache").addHandler(handler)
    second = threading.Thread(target=open_or_build, args=(tmp_path, KEY, Build()))
    second.start()
    assert said.wait(10)
    release.set()
    first.join(10)
    second.join(10)
    logging.getLogger("rag.models.cache").removeHandler(handler)


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way", "utf-8")
    with pytest.raises(ModelUnavailable, match="RAG_CACHE"):
        open_or_build(tmp_path / "file", KEY, Build())


def test_the_cache_is_where_the_user_keeps_caches(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "ragstone"
    monkeypatch.setattr("sys.platform", "darwin")
    assert default_cache().parts[-3:] == ("Library", "Caches", "ragstone")


def test_versions_are_those_installed():
    assert library_versions("numpy", "pytest").split(", ")[1] == f"pytest {pytest.__version__}"
