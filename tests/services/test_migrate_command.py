"""`rag migrate`, in a process of its own and through a running server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag import collection as shelf
from rag.errors import Conflict, InvalidInput, NotFound, StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import Scope
from services import migrate_command as command
from services.schemas import MigrationRequest
from tests import tiny_models
from tests.services.serving import BELL_ROCK, server

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return tiny_models.bge(tmp_path_factory.mktemp("models") / "tiny", max_tokens=128)


@pytest.fixture
def docs(own_parts) -> Orchestrator:
    rag = Orchestrator(own_parts, Scope("default"))
    shelf.create(own_parts, rag.scope, "docs")
    rag.add(Source(name="bell", origin="bell", id="bell", text=BELL_ROCK), collection="docs")
    return rag


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from services.cli import main; main()", *arguments],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_in_a_process_of_its_own(tmp_path, tiny):
    (tmp_path / "bell.md").write_text("# Bell Rock\n\nThe Bell Rock light was lit in 1811.\n")
    (tmp_path / "queries.txt").write_text("When was the light lit?\n")
    (tmp_path / "tiny").symlink_to(tiny)
    starter = ("--profile", "starter")
    assert run("ingest", "bell.md", *starter, folder=tmp_path).returncode == 0
    done = run(
        "migrate", "default", "--to", "tiny", "--queries", "queries.txt", *starter, folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "default: flipped, 1 of 1 documents." in done.stdout
    assert "1 queries, given; 0 name their document." in done.stdout
    found = run("search", "Bell Rock", "--json", *starter, folder=tmp_path)
    assert json.loads(found.stdout)["hits"][0]["title"] == "Bell Rock", found.stderr
    shown = json.loads(
        run("migrate", "default", "--status", "--json", *starter, folder=tmp_path).stdout
    )
    # A folder is known by its whole path, wherever the next command is given.
    assert (shown["state"], shown["serving"]) == ("flipped", str(tiny.resolve()))


def test_through_a_running_server(docs, tiny, capsys):
    with server(docs) as client:
        base = str(client.base_url)

        def call(**options):
            command.migrate("docs", most_loss=1.0, server=base, **options)
            return capsys.readouterr().out

        assert "docs: flipped" in call(to=str(tiny))
        assert "vectors" in call(status=True)
        assert "docs: ready" in call(back=True)
        assert json.loads(call(flip=True, as_json=True))["serving"] == str(tiny)
        with pytest.raises(Conflict, match="nothing to flip"):
            call(flip=True)
        assert "one index" in call(drop=True)
        with pytest.raises(NotFound, match="not being migrated"):
            call(status=True)
    with pytest.raises(StoreUnreachable, match="--server"):
        call(status=True)


def test_what_does_not_go_together():
    with pytest.raises(InvalidInput, match="--flip and --back"):
        command.migrate("docs", flip=True, back=True)
    with pytest.raises(InvalidInput, match="--task belongs to --to"):
        command.migrate("docs", task="tool")
    with pytest.raises(InvalidInput, match="cannot be read"):
        command.migrate("docs", to="x", queries=Path("/no/such/file"))


def test_a_refused_flip_is_a_failure(docs, tiny, capsys, monkeypatch):
    monkeypatch.setattr("rag.migrate.is_worse", lambda *_: "dense search finds less")
    here = command.Here(docs, command.Bar(command.Progress(disable=True)))
    result = here.start("docs", MigrationRequest(to=str(tiny)))
    assert result.state == "ready"
    command._show("docs", result, as_json=False)
    assert "not flipped: dense search finds less" in capsys.readouterr().out
    assert here.ask("docs", "flip").state == "flipped"
    assert here.ask("docs", "drop") is None
    command._show("docs", None, as_json=False)
    assert "one index" in capsys.readouterr().out
