"""The `rag` command as a shell sees it: output, exit codes, one line per error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from services.cli import main; main()", *arguments],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with two documents ingested by the command line."""
    made = tmp_path_factory.mktemp("work")
    (made / "docs").mkdir()
    (made / "docs" / "bell.md").write_text("# Bell Rock\n\nThe Bell Rock light was lit in 1811.\n")
    (made / "docs" / "broken.pdf").write_bytes(b"%PDF-1.7 broken")
    return made


def test_ingest_ask_search_ls_rm(folder):
    starter = ("--profile", "starter")
    done = run("ingest", "docs", "-m", "sea=north", "-m", "year=1811", *starter, folder=folder)
    assert done.returncode == 1  # one file could not be read
    assert "1 ingested, 1 failed" in done.stderr
    assert "broken.pdf" in done.stderr
    assert "Traceback" not in done.stderr

    asked = run("ask", "When was the Bell Rock light lit?", "--json", *starter, folder=folder)
    assert asked.returncode == 0, asked.stderr
    answer = json.loads(asked.stdout)
    assert answer["citations"][0]["quote"] == "The Bell Rock light was lit in 1811."

    listed = json.loads(run("ls", "default", "--json", folder=folder).stdout)
    assert [row["metadata"] for row in listed] == [{"sea": "north", "year": 1811}]

    where = '{"year": {"gte": 1900}}'
    found = run("search", "Bell Rock", "--filter", where, "--json", *starter, folder=folder)
    assert json.loads(found.stdout)["hits"] == []

    assert run("rm", listed[0]["id"], folder=folder).returncode == 0
    assert json.loads(run("ls", "default", "--json", folder=folder).stdout) == []


def test_trace_and_replay(tmp_path):
    """One sentence where there were two, and why the other passage was read."""
    light = "The Bell Rock light was lit in 1811. It was built by Robert Stevenson."
    (tmp_path / "bell.md").write_text(f"# Bell Rock\n\n{light}\n")
    starter = ("--profile", "starter")
    assert run("ingest", "bell.md", *starter, folder=tmp_path).returncode == 0
    question = "When was the Bell Rock light lit and who built it?"
    asked = json.loads(run("ask", question, "--json", *starter, folder=tmp_path).stdout)
    assert len(asked["citations"]) == 2

    listed = run("trace", folder=tmp_path).stdout
    assert asked["trace_id"] in listed
    shown = run("trace", asked["trace_id"], folder=tmp_path).stdout
    assert "passage 1, cited" in shown

    one = ("--with", "quote_sentences=1", *starter)
    replayed = run("replay", asked["trace_id"], *one, "--json", folder=tmp_path)
    now = json.loads(replayed.stdout)["now"]
    assert len(now["citations"]) == 1
    text = run("replay", asked["trace_id"], *one, folder=tmp_path).stdout
    assert "with quote_sentences=1" in text
    assert asked["answer"].split("\n")[0] in text

    wrong = run("replay", asked["trace_id"], "--with", "colour=red", folder=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 2)
    assert run("trace", "none", folder=tmp_path).returncode == 3


def test_rm_by_filter_and_with_a_proof(folder):
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"This is text {name}.")
        metadata = ("-m", f"name={name}", "-m", "kind=shelf")
        run("ingest", f"{name}.txt", "-c", "shelf", *metadata, "-p", "starter", folder=folder)
    in_shelf = ("-c", "shelf", "--filter")
    would = run("rm", *in_shelf, '{"kind": "shelf"}', "--dry-run", folder=folder)
    assert would.stdout.splitlines()[-1] == "2 documents would be deleted."
    assert len(would.stdout.splitlines()) == 3
    done = run("rm", *in_shelf, '{"name": "one"}', "--json", folder=folder)
    assert [row["id"][:7] for row in json.loads(done.stdout)] == ["one-txt"]
    (left,) = json.loads(run("ls", "shelf", "--json", folder=folder).stdout)
    proved = run("rm", left["id"], "-c", "shelf", "--prove", folder=folder)
    assert proved.returncode == 0, proved.stderr
    assert f"{left['id']}: nothing is left" in proved.stdout
    assert json.loads(run("ls", "shelf", "--json", folder=folder).stdout) == []
    assert run("fsck", folder=folder).stdout == "Everything fits.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["ask", "x", "-c", "nowhere", "-p", "starter"], 3, "no collection 'nowhere'"),
        (["ask", "x", "--temperature", "-1", "-p", "starter"], 2, "temperature"),
        (["ask", "x", "-p", "enormous"], 2, "profile"),
        (["ask", "x", "--filter", "{", "-p", "starter"], 2, "not JSON"),
        (["ingest", "missing.txt", "-p", "starter"], 3, "missing.txt"),
        (["ingest", "docs", "-c", "new"], 5, "rag models pull"),
        (["rm"], 2, "--all"),
        (["rm", "x", "--filter", '{"a": 1}'], 2, "--filter"),
        (["rm", "--filter", "{}"], 2, "would delete every document"),
        (["rm", "--all", "--prove"], 2, "--prove"),
        (["rm", "x", "--dry-run"], 2, "--dry-run"),
        (["ls", "nowhere"], 3, "nowhere"),
    ],
)
def test_errors_are_a_line_and_a_hint(folder, arguments, code, says):
    done = run(*arguments, folder=folder)
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_fsck_finds_and_repairs(folder):
    run("ingest", "docs/bell.md", "-c", "checked", "-p", "starter", folder=folder)
    assert run("fsck", folder=folder).stdout == "Everything fits.\n"
    stray = folder / "ragstone-data" / "objects" / "ab"
    stray.mkdir(exist_ok=True)
    (stray / ".new-torn").write_bytes(b"half of")
    found = run("fsck", "--json", folder=folder)
    assert found.returncode == 1
    (row,) = json.loads(found.stdout)
    assert (row["kind"], row["outcome"]) == ("unfinished object", "found")
    repaired = run("fsck", "--repair", folder=folder)
    assert (repaired.returncode, repaired.stdout.split()[0]) == (0, "repaired")
    assert run("fsck", folder=folder).returncode == 0


def test_an_unreachable_qdrant_is_named(folder):
    done = run(
        "ls", "default", folder=folder, RAG_QDRANT_URL="http://127.0.0.1:1", RAG_DATA="elsewhere"
    )
    assert done.returncode == 3  # listing needs the catalog only
    asked = run(
        *("ingest", "docs", "-p", "starter"),
        folder=folder,
        RAG_QDRANT_URL="http://127.0.0.1:1",
        RAG_DATA="elsewhere",
    )
    assert asked.returncode == 6
    assert "Qdrant does not answer (http://127.0.0.1:1: " in asked.stderr


def test_doctor_says_what_runs(folder):
    done = run("doctor", "--json", folder=folder)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert done.returncode == 0
    assert checks["profile starter"]["ok"] is True
    assert checks["profile default"]["ok"] is False
    assert "rag models pull" in checks["profile default"]["found"]
