"""`rag ingest`: what it takes and leaves, both ways to the documents, and ends that come early."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from fpdf import FPDF
from rich.console import Console

from rag.errors import DataFolderBusy, InvalidInput, NotFound
from rag.folder import Selection
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.orchestrator import Orchestrator
from rag.parts import Parts, open_parts
from rag.settings import Settings
from rag.sources import find
from rag.types import DocumentReport, Scope
from services import feed, ingest_command, reach, running
from services.ingest_command import Wanted
from tests.services.serving import server

ROOT = Path(__file__).parents[2]
GIF = b"GIF89a" + bytes(range(64))
OLD_WORD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le")
DEADLINE = 120  # for processes that load models on a busy machine


class Command:
    """`rag ingest` in this process, on one data folder, with models that are loaded already."""

    def __init__(self, settings: Settings, lend: Callable[[Parts], None]) -> None:
        self.settings = settings
        self.lend = lend
        self.said = ""
        self.opened: list[Parts] = []

    def open_parts(self, settings: Settings) -> Parts:
        parts = open_parts(settings)
        self.lend(parts)
        self.opened.append(parts)
        return parts

    def __call__(self, *paths: Path, **options) -> list[DocumentReport]:
        shown = StringIO()
        options.setdefault("selection", Selection(never=(self.settings.data,)))
        wanted = Wanted(paths, options.pop("collection", "default"), {}, **options)
        try:
            return ingest_command.run(wanted, self.settings, Console(file=shown, width=300))
        finally:
            self.said = shown.getvalue()

    def statuses(self, *paths: Path, **options) -> dict[str, str]:
        return {Path(one.source).name: one.status for one in self(*paths, **options)}

    @contextmanager
    def folder(self) -> Iterator[Orchestrator]:
        """The data folder, opened."""
        with Orchestrator(self.open_parts(self.settings), Scope("default")) as rag:
            yield rag


@pytest.fixture
def command(tmp_path, parts, monkeypatch) -> Command:
    def lend(opened: Parts) -> None:
        for name in ("embedder", "late interaction", "parsers"):
            getattr(parts, name.replace(" ", "_"))  # load what is not loaded yet
            opened._loaded[name] = parts._loaded[name]

    made = Command(Settings(data=tmp_path / "data", profile="starter"), lend)
    monkeypatch.setattr(reach, "open_parts", made.open_parts)
    return made


@pytest.fixture
def docs(tmp_path) -> Path:
    """A folder with three documents."""
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.md", "b.txt", "sub/c.md"):
        (folder / name).write_text(f"The lamp of {name} was lit in 1811.")
    return folder


def documents(rag: Orchestrator, collection: str = "default") -> dict[str, str]:
    """Source by id of everything that is there."""
    listed = rag.parts.catalog.documents(rag.scope, collection, limit=1000)
    return {record.id: record.source for record in listed}


# What is done, and what is not


def test_the_same_files_again_are_no_work(command, docs):
    first = command.statuses(docs)
    assert first == dict.fromkeys(("a.md", "b.txt", "c.md"), "ingested")
    assert "3 ingested" in command.said
    assert "0 cut off" in command.said

    command.lend = lambda _: None  # no model is there, so none may be needed
    assert set(command.statuses(docs).values()) == {"unchanged"}
    assert "embedder" not in command.opened[-1]._loaded
    with command.folder() as rag:
        assert len(rag.parts.journal.list_jobs(rag.scope)) == 1


def test_only_what_changed_is_worked_on(command, docs):
    command(docs)
    (docs / "b.txt").write_text("Its keeper left in 1812.")
    assert command.statuses(docs) == {"a.md": "unchanged", "b.txt": "replaced", "c.md": "unchanged"}
    with command.folder() as rag:
        found = rag.search("keeper", rerank=False)
        assert found.hits[0].chunk.text == "Its keeper left in 1812."
        assert list(examine(rag.parts)) == []


def test_a_report_says_what_was_made_of_a_file(command, docs):
    (report,) = command(docs / "a.md")
    assert (report.title, report.chunks, report.characters) == ("a", 1, 33)
    assert report.tokens > 8
    assert report.truncated_tokens == 0
    (again,) = command(docs / "a.md")
    assert (again.chunks, again.tokens) == (report.chunks, report.tokens)
    assert again.truncated_tokens is None  # nothing was embedded


def test_what_no_parser_reads_is_skipped_in_a_folder_and_fails_by_name(command, docs):
    (docs / "photo.gif").write_bytes(GIF)
    (docs / "Makefile.bin").write_bytes(bytes(range(256)))
    (docs / "old.doc").write_bytes(OLD_WORD)  # which only its parser tells
    (docs / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    statuses = command.statuses(docs)
    assert statuses.pop("torn.pdf") == "failed"  # it is a type that is read
    assert set(statuses) == {"a.md", "b.txt", "c.md"}
    assert "skipped, of types that no parser reads: 1 .bin, 1 .doc, 1 .gif" in command.said
    assert "3 ingested, 1 failed, 3 skipped" in command.said
    with command.folder() as rag:  # what is known beforehand leaves no trace
        jobs = rag.parts.journal.list_jobs(rag.scope)
        tried = {task.source.name for job in jobs for task in job.tasks}
        assert tried == {"a.md", "b.txt", "c.md", "old.doc", "torn.pdf"}
    named = command.statuses(docs / "photo.gif", docs / "old.doc")
    assert named == {"photo.gif": "failed", "old.doc": "failed"}


def test_a_file_that_cannot_be_read_stops_no_other(command, docs):
    (docs / "large.md").write_text("x" * 2000)
    command.settings = command.settings.model_copy(update={"max_file_bytes": 1999})
    statuses = command.statuses(docs)
    assert statuses.pop("large.md") == "failed"
    assert set(statuses.values()) == {"ingested"}
    assert "RAG_MAX_FILE_BYTES" in command.said


def test_selection_and_the_data_folder(command, docs, tmp_path):
    (docs / ".gitignore").write_text("b.txt\n")
    assert set(command.statuses(tmp_path)) == {"a.md", "c.md"}  # and nothing of tmp_path/data
    everything = Selection(gitignore=False, exclude=("sub/",), never=(command.settings.data,))
    assert set(command.statuses(tmp_path, selection=everything)) == {"a.md", "b.txt"}


def test_what_makes_no_sense_is_refused_before_anything_is_opened(command, docs):
    for wrong, options in (
        (InvalidInput, {"selection": Selection(include=("!",))}),
        (InvalidInput, {"watch": True}),
    ):
        with pytest.raises(wrong):
            command(docs / "a.md", **options)
    with pytest.raises(NotFound):
        command(docs / "nowhere")
    assert not command.settings.data.exists()


# Documents whose files are gone


def test_documents_without_a_file_are_named_and_on_request_deleted(command, docs):
    other = docs.parent / "docs-of-others"
    other.mkdir()
    (other / "d.md").write_text("Another folder's lamp.")
    command(docs, other)
    (docs / "a.md").unlink()
    (other / "d.md").unlink()
    (docs / ".gitignore").write_text("b.txt\n")  # left out from now on, but not gone

    assert command.statuses(docs) == {"c.md": "unchanged"}
    assert "1 documents have no file any more; --delete removes them" in command.said
    with command.folder() as rag:
        assert len(documents(rag)) == 4

    deleted = command.statuses(docs, delete=True)
    assert deleted == {"c.md": "unchanged", "a.md": "deleted"}
    with command.folder() as rag:
        left = {Path(source).name for source in documents(rag).values()}
        assert left == {"b.txt", "c.md", "d.md"}
        assert list(examine(rag.parts)) == []


# A bounded number at a time


def test_a_full_queue_is_waited_for(command, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "BATCH_FILES", 2)
    most_open = 0
    submit = Ingestor.submit

    def watched(self, *arguments, **options):
        nonlocal most_open
        job = submit(self, *arguments, **options)
        most_open = max(most_open, len(self._journal.open_jobs(Scope("default"))))
        return job

    monkeypatch.setattr(Ingestor, "submit", watched)
    command.settings = command.settings.model_copy(update={"ingest_queue": 1})
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(9):
        (folder / f"{n}.txt").write_text(f"Lamp number {n}.")
    assert set(command.statuses(folder).values()) == {"ingested"}
    assert most_open <= 1
    with command.folder() as rag:
        assert len(rag.parts.journal.list_jobs(rag.scope)) == 5  # of nine files


def test_so_many_files_are_open_and_no_more(command, tmp_path, monkeypatch):
    monkeypatch.setattr(feed, "BATCH_FILES", 2)
    monkeypatch.setattr(feed, "MOST_OPEN", 4)
    most = 0
    submit = Ingestor.submit

    def watched(self, *arguments, **options):
        nonlocal most
        job = submit(self, *arguments, **options)
        left = self._journal.open_jobs(Scope("default"))
        most = max(most, sum(one.report is None for job in left for one in job.tasks))
        return job

    monkeypatch.setattr(Ingestor, "submit", watched)
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(11):
        (folder / f"{n}.txt").write_text(f"Lamp number {n}.")
    assert len(command(folder)) == 11
    assert most <= 4


# What an earlier process accepted


def test_what_was_accepted_before_is_gone_on_with_and_not_sent_twice(command, docs):
    with command.folder() as rag:
        from rag import collection as shelf

        shelf.ensure(rag.parts, rag.scope, "default")
        (source,) = find([docs / "a.md"])
        accepting = Ingestor(rag)  # which never works
        with (docs / "a.md").open("rb") as file:
            job = accepting.submit(rag.scope, "default", [Upload(source, file)])
        assert job.state == "queued"
    assert command.statuses(docs) == dict.fromkeys(("a.md", "b.txt", "c.md"), "ingested")
    assert "Going on with 1 documents accepted earlier." in command.said
    with command.folder() as rag:
        jobs = rag.parts.journal.list_jobs(rag.scope)
        sent = [task.source.name for job in jobs for task in job.tasks]
        assert sorted(sent) == ["a.md", "b.txt", "c.md"]
        assert list(examine(rag.parts)) == []


# Through a server


AWKWARD = ['say "so".md', "a\\b.md", "new\nline.md", "50%41.md", "Größe.md", " .md", "#?.md"]


def test_a_file_is_the_same_document_both_ways(command, docs):
    for name in AWKWARD:
        (docs / name).write_text(f"The lamp of {name!r}.")
    (docs / "aliased.md").symlink_to(docs / "sub" / "c.md")
    # Too much to be copied in memory, and nearly nothing to embed.
    (docs / "large.html").write_text(f"<p>A lamp.</p><!-- {'x' * 1_200_000} -->")
    first = command(docs)
    assert {report.status for report in first} == {"ingested"}
    with command.folder() as rag:
        before = documents(rag)
        with server(rag):
            again = command(docs)
            assert f"The server at {running.find(command.settings.data)}" in command.said
            assert {report.status for report in again} == {"unchanged"}
            assert {report.id for report in again} == set(before)
            for name in AWKWARD:
                (docs / name).write_text(f"The new lamp of {name!r}.")
            changed = command.statuses(docs)
            assert {changed[Path(name).name] for name in AWKWARD} == {"replaced"}
            assert documents(rag) == before
    assert {report.status for report in command(docs)} == {"unchanged"}


def test_through_a_server_it_reports_the_same(command, docs):
    (docs / "photo.gif").write_bytes(GIF)
    (docs / "old.doc").write_bytes(OLD_WORD)
    (docs / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    (docs / "empty.md").write_text("")
    own = command(docs, docs / "old.doc", collection="own")
    said = command.said
    with command.folder() as rag, server(rag):
        theirs = command(docs, docs / "old.doc", collection="theirs")
        assert command.said.partition("\n")[0].startswith("The server at")
        assert command.said.partition("\n")[2] == said
        assert sorted(theirs, key=by_source) == sorted(own, key=by_source)
        gone = docs / "a.md"
        gone.unlink()
        deleted = command.statuses(docs, collection="theirs", delete=True)
        assert deleted["a.md"] == "deleted"
        assert str(gone) not in documents(rag, "theirs").values()
        assert str(gone) in documents(rag, "own").values()


def test_a_password_opens_files_both_ways(command, docs):
    made = FPDF()
    made.add_page()
    made.set_font("Helvetica", size=12)
    made.cell(text="The lamp burns oil.")
    made.set_encryption("owner", user_password="1811")
    file = docs / "locked.pdf"
    file.write_bytes(bytes(made.output()))
    assert command.statuses(file) == {"locked.pdf": "failed"}
    assert "password" in command.said
    assert command.statuses(file, password="1811") == {"locked.pdf": "ingested"}
    with command.folder() as rag, server(rag):
        found = command.statuses(file, password="1811", collection="theirs")
        assert found == {"locked.pdf": "ingested"}


def by_source(report: DocumentReport) -> str:
    return report.source


def test_a_batch_that_a_server_refuses_goes_in_parts(command, tmp_path):
    """Its limits are its own: here it takes two files of one megabyte at most at once."""
    folder = tmp_path / "many"
    folder.mkdir()
    for n in range(5):
        (folder / f"{n}.txt").write_text(f"Lamp number {n}.")
    (folder / "large.txt").write_text("A lamp. " * 100_000)
    with command.folder() as rag:
        parts = rag.parts
        small = parts.settings.model_copy(update={"max_documents": 2, "max_file_bytes": 100_000})
        parts.settings = small
        with server(rag):
            statuses = command.statuses(folder)
    assert statuses.pop("large.txt") == "failed"
    assert statuses == dict.fromkeys([f"{n}.txt" for n in range(5)], "ingested")
    assert "RAG_MAX_FILE_BYTES" in command.said


def test_a_folder_that_something_else_holds_is_an_error(command, docs):
    with command.folder(), pytest.raises(DataFolderBusy):
        command(docs)


# Processes that are killed, and one that watches


ENVIRONMENT = {
    **os.environ,
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "300",
    "RAG_PROFILE": "starter",
    "PYTHONPATH": str(ROOT),
}


class Process:
    """A `rag` command, its standard error read line by line."""

    def __init__(self, *arguments: str | Path, folder: Path, **environment: str) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from services.cli import main; main()", *map(str, arguments)],
            cwd=folder,
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job, as this may be, would pass on that it ignores Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait_for(self, text: str, *, after: int = 0) -> int:
        """Until a line behind the first `after` ones holds a text; how many lines there are."""
        with self._news:
            assert self._news.wait_for(
                lambda: any(text in line for line in self.lines[after:]), DEADLINE
            ), self.said
            return len(self.lines)

    def end(self, how: signal.Signals | None = None) -> int:
        if how is not None:
            self.process.send_signal(how)
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., Process]]:
    """Starts a command; what is left of it at the end is killed."""
    begun: list[Process] = []

    def started(*arguments: str | Path, **environment: str) -> Process:
        begun.append(
            Process(*arguments, "--data", tmp_path / "data", folder=tmp_path, **environment)
        )
        return begun[-1]

    yield started
    for one in begun:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again; fails at the deadline."""
    deadline, pause = time.monotonic() + DEADLINE, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        pause.wait(0.02)


def states(data: Path) -> dict[str, int]:
    """How many tasks the journal of another process has in which state."""
    try:
        catalog = sqlite3.connect(f"file:{data / 'catalog.sqlite'}?mode=ro", uri=True)
        rows = catalog.execute("SELECT state, count(*) FROM tasks GROUP BY state").fetchall()
        catalog.close()
    except sqlite3.OperationalError:  # there is no journal yet
        return {}
    return dict(rows)


@pytest.fixture
def long(tmp_path) -> Path:
    """Forty documents of several chunks, for something to happen in the middle of them."""
    folder = tmp_path / "long"
    folder.mkdir()
    for n in range(40):
        sentence = f"Keeper {n} trimmed the wick, wound the clock and wrote the log of the night. "
        (folder / f"{n:02}.txt").write_text(sentence * 40)
    return folder


def everything_is_there(command: Command, folder: Path) -> None:
    with command.folder() as rag:
        sources = sorted(documents(rag).values())
        assert sources == sorted(str(path) for path in folder.iterdir())
        assert list(examine(rag.parts)) == []


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_killed_in_the_middle_and_run_again(command, long, start):
    ingesting = start("ingest", long)
    until(lambda: (at := states(command.settings.data)).get("done", 0) > 2 and "queued" in at)
    ingesting.end(signal.SIGKILL)
    left = states(command.settings.data)
    assert left["queued"] + left.get("running", 0) > 0  # it was in the middle
    reports = command(long)
    assert sorted(Path(one.source).name for one in reports) == names(long)
    # What was done before is known, what was accepted is gone on with, the rest is new.
    assert {one.status for one in reports} == {"ingested", "unchanged"}
    assert sum(one.status == "unchanged" for one in reports) >= left["done"]
    assert "documents accepted earlier" in command.said
    everything_is_there(command, long)


def test_interrupted_it_says_what_goes_on_later(command, long, start):
    ingesting = start("ingest", long)
    until(lambda: states(command.settings.data).get("done", 0) > 2)
    assert ingesting.end(signal.SIGINT) == 130
    assert "documents are accepted and not done" in ingesting.said
    assert "Traceback" not in ingesting.said
    command(long)
    everything_is_there(command, long)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def serving(start, data: Path) -> Process:
    started = start("serve", "--port", str(free_port()))
    until(lambda: running.find(data) is not None)
    return started


def test_a_killed_server_is_waited_for(command, long, start):
    data = command.settings.data
    first = serving(start, data)
    ingesting = start("ingest", long)
    until(lambda: (at := states(data)).get("done", 0) > 2 and "queued" in at)
    first.end(signal.SIGKILL)
    second = serving(start, data)  # on another port
    assert ingesting.end() == 0, ingesting.said
    assert "40 ingested" in ingesting.said
    assert second.end(signal.SIGINT) == 0
    everything_is_there(command, long)


def test_a_server_that_stays_away_is_an_error_that_says_what_was_accepted(command, long, start):
    data = command.settings.data
    first = serving(start, data)
    ingesting = start("ingest", long, RAG_CLIENT_PATIENCE="0")
    until(lambda: (at := states(data)).get("done", 0) > 2 and "queued" in at)
    first.end(signal.SIGKILL)
    assert ingesting.end() == 6  # unreachable
    assert "does not answer any more" in ingesting.said
    assert "documents are accepted and not done" in ingesting.said
    command(long)  # nothing holds the folder now: it does the work itself
    everything_is_there(command, long)


def test_watching(command, docs, start):
    watching = start("ingest", docs, "--watch", "--delete")
    at = watching.wait_for("Watching")
    assert "3 ingested" in watching.said
    (docs / "d.md").write_text("A new lamp.")
    at = watching.wait_for("1 ingested", after=at)
    # An editor saves: it writes aside, then renames.
    (docs / ".a.md.swp").write_text("The lamp is electric.")
    (docs / ".a.md.swp").replace(docs / "a.md")
    at = watching.wait_for("1 replaced", after=at)
    (docs / "sub").rename(docs / "below")
    watching.wait_for("1 documents deleted", after=at)
    at = watching.wait_for("1 ingested", after=at)
    (docs / "b.txt").unlink()
    watching.wait_for("b.txt", after=at)
    assert watching.end(signal.SIGINT) == 0
    assert "Traceback" not in watching.said
    with command.folder() as rag:
        names = {str(Path(source).relative_to(docs)) for source in documents(rag).values()}
        assert names == {"a.md", "below/c.md", "d.md"}
        assert list(examine(rag.parts)) == []


def test_watching_through_a_server(command, docs, start):
    with command.folder() as rag, server(rag) as client:

        def hits(question: str) -> set[str]:
            asked = {"query": question, "rerank": False, "mode": "bm25"}
            return {hit["title"] for hit in client.post("/v1/search", json=asked).json()["hits"]}

        watching = start("ingest", docs, "--watch", "--delete")
        watching.wait_for("Watching")
        assert hits("lamp") == {"a", "b", "c"}
        (docs / "new.md").write_text("A heron.")
        until(lambda: hits("heron") == {"new"})
        (docs / "new.md").write_text("A cormorant.")
        until(lambda: hits("cormorant") == {"new"})
        assert hits("heron") == set()
        (docs / "new.md").unlink()
        until(lambda: hits("cormorant") == set())
        assert watching.end(signal.SIGINT) == 0
        assert client.get("/healthz").json()["status"] == "ok"  # the server works on
