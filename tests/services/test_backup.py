"""Backups of a running service, over HTTP and by the command line."""

import json
import threading

import pytest
import sqlalchemy as sa
from rich.console import Console

from rag import backup
from rag.archive import Archive
from rag.errors import Conflict, InvalidInput, Overloaded, StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.restore import restore
from rag.tables import backups
from rag.types import Scope
from services import cli_backup
from tests.rag.restoring import documents_of, opened
from tests.services.serving import is_problem, server, serving
from tests.services.test_cli import run

QUIET = Console(quiet=True)


@pytest.fixture
def rag(own_parts):
    """A Ragstone with two documents."""
    made = Orchestrator(own_parts, Scope("default"))
    with serving(own_parts) as client:
        documents = [{"id": name, "text": f"The lamp of {name}."} for name in ("one", "two")]
        sent = {"documents": documents}
        assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
    return made


@pytest.fixture
def pieces_at_once(monkeypatch):
    """A small backup comes in many pieces, as a large one does."""
    monkeypatch.setattr(backup.Writer, "take", lambda self: self._out.take(1))


def test_the_route_sends_a_whole_backup(rag, tmp_path):
    with serving(rag.parts) as client:
        response = client.post("/v1/backup")
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/zip"
    assert "attachment" in response.headers["content-disposition"]
    (tmp_path / "b").write_bytes(response.content)
    restore(rag.parts.settings.model_copy(update={"data": tmp_path / "new"}), tmp_path / "b")
    with opened(tmp_path / "new", rag) as restored:
        assert documents_of(restored, "default") == documents_of(rag, "default")


@pytest.mark.usefixtures("pieces_at_once")
def test_a_download_over_a_real_connection(rag, tmp_path):
    settings, path = rag.parts.settings, tmp_path / "b"
    with server(rag) as client:
        manifest = cli_backup.download(QUIET, settings, path, str(client.base_url))
    assert manifest.counts["documents"] == 2
    with Archive.open(path) as archive:
        assert archive.manifest == manifest


@pytest.mark.usefixtures("pieces_at_once")
def test_one_that_breaks_off_leaves_no_file(rag, tmp_path, monkeypatch):
    def away(*_):
        raise StoreUnreachable("Qdrant does not answer.")
        yield

    monkeypatch.setattr(backup, "_points", away)
    with server(rag) as client, pytest.raises(StoreUnreachable, match="broke off"):
        cli_backup.download(QUIET, rag.parts.settings, tmp_path / "b", str(client.base_url))
    assert list(tmp_path.glob("b*")) == []
    assert holds(rag) == 0


def holds(rag) -> int:
    """How many backups keep things from being deleted."""
    with rag.parts.database.read() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(backups)).scalar_one()


def test_what_is_wrong_before_the_first_byte_is_a_problem(rag, tmp_path):
    record = rag.parts.catalog.document(rag.scope, "default", "one")
    rag.parts.objects.delete(record.text_hash)
    with serving(rag.parts) as client:
        found = is_problem(client.post("/v1/backup"), 409, "/problems/conflict")
    assert "would not be whole" in found["detail"]
    with server(rag) as client, pytest.raises(Conflict, match="would not be whole"):
        cli_backup.download(QUIET, rag.parts.settings, tmp_path / "b", str(client.base_url))
    assert list(tmp_path.glob("b*")) == []


@pytest.mark.usefixtures("pieces_at_once")
def test_one_at_a_time_and_a_client_that_goes_away_ends_it(rag, tmp_path, monkeypatch):
    go, points, ended = threading.Event(), backup._points, threading.Event()

    def waiting(*arguments):
        try:
            assert go.wait(15)
            yield from points(*arguments)
        finally:
            ended.set()

    monkeypatch.setattr(backup, "_points", waiting)
    with server(rag) as client:
        with client.stream("POST", "/v1/backup") as response:
            read = response.iter_raw()  # kept: without it the connection would be closed
            assert next(read)
            assert holds(rag) == 1
            with pytest.raises(Overloaded):
                cli_backup.download(QUIET, rag.parts.settings, tmp_path / "b", str(client.base_url))
            assert client.get("/healthz").status_code == 200
        go.set()
        assert ended.wait(30)
    assert holds(rag) == 0


def test_a_server_that_is_none_is_named(own_parts, tmp_path):
    settings = own_parts.settings
    with pytest.raises(StoreUnreachable, match=r"127\.0\.0\.1:1 broke off"):
        cli_backup.download(QUIET, settings, tmp_path / "b", "http://127.0.0.1:1")
    with pytest.raises(InvalidInput, match="takes a URL"):
        cli_backup.download(QUIET, settings, tmp_path / "b", "localhost")
    assert list(tmp_path.glob("b*")) == []


def test_the_command_line(tmp_path):
    (tmp_path / "bell.md").write_text("# Bell Rock\n\nThe Bell Rock light was lit in 1811.\n")
    run("ingest", "bell.md", "-p", "starter", folder=tmp_path)
    done = run("backup", "one.backup", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "one.backup: 1 documents in 1 collections, 1 chunks" in done.stderr
    again = run("backup", "one.backup", folder=tmp_path)
    assert (again.returncode, again.stdout) == (4, "")
    assert "already" in again.stderr
    nothing = run("backup", "two.backup", "--data", "typo", folder=tmp_path)
    assert nothing.returncode == 3
    assert "There is no data in typo" in nothing.stderr
    assert not (tmp_path / "typo").exists()

    back = run("restore", "one.backup", "--data", "new", "-p", "starter", folder=tmp_path)
    assert back.returncode == 0, back.stderr
    assert "new: 1 documents" in back.stderr
    found = run("search", "Bell Rock", "--data", "new", "-p", "starter", folder=tmp_path)
    assert "lit in 1811" in found.stdout
    refused = run("restore", "one.backup", "--data", "new", folder=tmp_path)
    assert refused.returncode == 4
    assert "not empty" in refused.stderr
    (tmp_path / "half").write_bytes((tmp_path / "one.backup").read_bytes()[:-9])
    torn = run("restore", "half", "--data", "other", folder=tmp_path)
    assert torn.returncode == 2
    assert "not whole" in torn.stderr
    assert "Traceback" not in again.stderr + nothing.stderr + refused.stderr + torn.stderr


def test_a_folder_that_something_else_holds_is_an_error(rag, tmp_path):
    done = run("backup", "b", "--data", str(rag.parts.settings.data), folder=tmp_path)
    assert done.returncode == 4
    assert "in use by process" in done.stderr
    assert not (tmp_path / "b").exists()


def test_the_server_that_has_the_folder_open_is_found(rag, tmp_path):
    data = ("--data", str(rag.parts.settings.data))
    with server(rag):
        done = run("backup", "b", *data, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "2 documents" in done.stderr
        proved = run("rm", "one", "--prove", "--json", *data, folder=tmp_path)
        assert json.loads(proved.stdout)[0]["gone"], proved.stdout
        picked = run("rm", "--filter", '{"document_id": "two"}', *data, folder=tmp_path)
        assert picked.returncode == 0, picked.stderr
        assert json.loads(run("ls", "default", "--json", *data, folder=tmp_path).stdout) == []
