"""Experiments on disk: what is found, in what state, and what is no experiment."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval.experiments import begin, every, find
from rag.errors import InvalidInput
from services import eval_command
from services.eval_command import app


@pytest.fixture
def home(tmp_path):
    """One that is done, one that was interrupted, one that is torn, and a folder of a set."""
    begin("answers", "done", {}, tmp_path).note(rows=[], begun="2026-01-02")
    begin("tune", "begun", {}, tmp_path).note(begun="2026-01-01")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "experiment.json").write_text('{"kind": "retr')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "experiment.json").write_text(json.dumps({"kind": "retrieval"}))
    (tmp_path / "made-x").mkdir()
    return tmp_path


def test_the_list_has_the_state_of_each_and_says_what_cannot_be_read(home, monkeypatch):
    monkeypatch.setattr(eval_command, "out", Console(width=400))
    done = CliRunner().invoke(app, ["ls", "--out", str(home)])
    assert done.exit_code == 0, done.output
    rows = {line.split()[1]: line for line in done.output.splitlines() if line.startswith("│")}
    states = {id_.split("-")[0]: line for id_, line in rows.items()}
    assert "done" in states["answers"]
    assert "interrupted" in states["tune"]
    assert "cannot be read" in states["torn"]
    assert "describes no experiment" in states["other"]
    assert len(rows) == 4


def test_a_torn_one_hides_no_other(home):
    assert [one.id.split("-")[0] for one in every(home)][:2] == ["answers", "tune"], "newest first"
    assert find("ans", home).state == "done"
    with pytest.raises(InvalidInput, match="cannot be read"):
        find("torn", home).about()
