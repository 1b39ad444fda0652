"""Folders of CSV files, scored by a tiny language model or from documents."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from rag import scoring
from rag.errors import Conflict, InvalidInput, NotFound, Overloaded, RagError
from rag.orchestrator import Orchestrator
from rag.sampling import Sampling
from rag.scoring import Scoring
from rag.types import Scope
from services.client import Client
from services.score_batch import ERRORS, PREDICTIONS, PROGRESS, Batching, score_folder
from services.scorers import ByServer, InProcess
from tests.services.serving import server

GREEDY = Scoring(Sampling(do_sample=False, max_new_tokens=4))


@pytest.fixture
def rag(lm_parts):
    return Orchestrator(lm_parts, Scope("default"))


@pytest.fixture
def source(tmp_path):
    """Two files with five rows, one text over two lines."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    write(folder / "a.csv", ["The ferry", "Bread,\nand butter", "A heron"])
    write(folder / "more" / "b.csv", ["The ferry", "Fog"], id=["x", "y"])
    return folder


def write(path, texts, **columns):
    with path.open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "input_string"])
        writer.writerows(zip(*columns.values(), texts, strict=True))


def read(path):
    with path.open(newline="", encoding="utf8") as file:
        return list(csv.DictReader(file))


def run(rag, source, target, how=GREEDY, **batching):
    seen = []
    counts = score_folder(
        InProcess(rag), source, target, how, Batching(**batching), lambda *told: seen.append(told)
    )
    return counts, seen


def test_each_row_has_its_prediction_with_number_and_file(rag, source, tmp_path):
    counts, seen = run(rag, source, tmp_path / "out", mini_batch=2)
    assert counts == (5, 0)
    assert seen == [(0, 0), (2, 0), (4, 0), (5, 0)]
    rows = read(tmp_path / "out" / PREDICTIONS)
    assert [(row["row"], row["file"]) for row in rows] == [
        ("0", "a.csv"), ("1", "a.csv"), ("2", "a.csv"), ("0", "more/b.csv"), ("1", "more/b.csv"),
    ]  # fmt: skip
    assert rows[0]["prediction"] == rows[3]["prediction"] != "", "greedy, whatever its company"
    assert read(tmp_path / "out" / ERRORS) == []


def test_a_file_is_named_from_the_folder_that_was_given(rag, tmp_path):
    """Also where all files lie deeper; and a folder that was moved is the same run."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    write(tmp_path / "in" / "deep" / "a.csv", ["The ferry"])
    run(rag, tmp_path / "in", tmp_path / "out")
    assert read(tmp_path / "out" / PREDICTIONS)[0]["file"] == "deep/a.csv"
    (tmp_path / "in").rename(tmp_path / "moved")
    _, seen = run(rag, tmp_path / "moved", tmp_path / "out")
    assert seen == [(1, 0)]


def test_full_text_and_retrieval(rag, source, tmp_path, lighthouses, client):
    whole = Scoring(GREEDY.sampling, full_text=True)
    run(rag, source, tmp_path / "whole", whole)
    assert read(tmp_path / "whole" / PREDICTIONS)[0]["prediction"].startswith("The ferry")
    quoting = Orchestrator(client.app.state.service.parts, Scope("default"))
    folder = tmp_path / "asked"
    folder.mkdir()
    write(folder / "q.csv", ["Who built the Bell Rock lighthouse?"])
    run(quoting, folder, tmp_path / "answers", Scoring(retrieval=True, collection=lighthouses))
    (row,) = read(tmp_path / "answers" / PREDICTIONS)
    assert "Robert Stevenson" in row["prediction"]


def test_a_bad_row_ends_among_the_errors_not_the_run(rag, source, tmp_path):
    write(source / "bad.csv", ["Fine", "word " * 5000, ""])
    counts, _ = run(rag, source, tmp_path / "out")
    assert counts == (8, 2)
    failed = read(tmp_path / "out" / ERRORS)
    assert [(row["file"], row["row"]) for row in failed] == [("bad.csv", "1"), ("bad.csv", "2")]
    assert "tokens" in failed[0]["error"]
    assert "empty" in failed[1]["error"]


def test_too_many_errors_end_the_run_and_it_goes_on_behind_them(rag, source, tmp_path):
    write(source / "a.csv", ["", "", "Fine"])
    with pytest.raises(RagError, match="1 rows failed, the limit is 0"):
        run(rag, source, tmp_path / "out", mini_batch=1, error_threshold=0)
    assert not (tmp_path / "out" / PREDICTIONS).exists()
    counts, seen = run(rag, source, tmp_path / "out", mini_batch=1)
    assert seen[0] == (1, 1)
    assert counts == (5, 2)


def test_what_may_heal_is_tried_again(rag, source, tmp_path, monkeypatch):
    waits, answers = [], iter([Overloaded("full"), Overloaded("full")])
    made = scoring.score

    def busy_twice(*arguments):
        *_, texts = made(*arguments)
        yield [next(answers, text) if n == 0 else text for n, text in enumerate(texts)]

    monkeypatch.setattr(scoring, "score", busy_twice)
    counts, _ = run(rag, source, tmp_path / "out", wait=waits.append)
    assert (counts, waits) == ((5, 0), [1.0, 2.0])


def test_a_torn_line_is_done_again(rag, source, tmp_path):
    run(rag, source, tmp_path / "out", mini_batch=2)
    whole = read(tmp_path / "out" / PREDICTIONS)
    progress = tmp_path / "out" / PROGRESS
    kept = progress.read_bytes().split(b"\n")
    progress.write_bytes(b"\n".join(kept[:3]) + b"\n" + kept[3][:10])
    _, seen = run(rag, source, tmp_path / "out", mini_batch=2)
    assert seen[0] == (2, 0)
    assert read(tmp_path / "out" / PREDICTIONS) == whole


def test_other_inputs_are_not_mixed_in(rag, source, tmp_path):
    run(rag, source, tmp_path / "out")
    with pytest.raises(Conflict, match="other parameters"):
        run(rag, source, tmp_path / "out", Scoring(Sampling(max_new_tokens=2)))
    write(source / "a.csv", ["Another"])
    with pytest.raises(Conflict, match="other files"):
        run(rag, source, tmp_path / "out")


def test_what_is_no_input_is_said(rag, source, tmp_path):
    with pytest.raises(NotFound, match="no folder"):
        run(rag, tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match=r"no \.csv"):
        run(rag, tmp_path / "empty", tmp_path / "out")
    (source / "a.csv").write_text("text\nhello\n")
    with pytest.raises(InvalidInput, match="no column 'input_string'") as raised:
        run(rag, source, tmp_path / "out")
    assert raised.value.hint == "It has: text."


ROWS = int(os.environ.get("RAG_SOAK_ROWS", "200"))


def test_killed_half_way_it_gives_each_row_once(qwen, tmp_path):
    """Some hundred rows; the bad ones are among the errors."""
    folder, target = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    texts = [f"Row number {n}" if n % 50 else "" for n in range(ROWS)]
    bad = [n for n, text in enumerate(texts) if not text]
    write(folder / "rows.csv", texts)
    code = "from services.cli import main; main()"
    command = [
        sys.executable, "-c", code, "score-batch", str(folder), str(target), "--mini-batch", "32",
        "--max-new-tokens", "2", "--no-do-sample", "--data", str(tmp_path / "data"),
        "-p", "starter",
    ]  # fmt: skip
    environment = {**os.environ, "RAG_GENERATOR": str(qwen)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while _lines(target / PROGRESS) < ROWS // 2 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.01)  # another process cannot be waited for otherwise
        process.send_signal(signal.SIGKILL)
    assert ROWS // 2 <= _lines(target / PROGRESS) <= ROWS
    assert not (target / PREDICTIONS).exists()
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran.stderr  # some rows failed
    assert (
        f"{ROWS} rows: {ROWS - len(bad)} in predictions.csv, {len(bad)} in errors.csv" in ran.stdout
    )
    made, failed = (
        sorted(int(row["row"]) for row in read(target / name)) for name in (PREDICTIONS, ERRORS)
    )
    assert failed == bad
    assert sorted([*made, *failed]) == list(range(ROWS))
    lines = (target / PROGRESS).read_text("utf8").splitlines()[1:]
    assert len({json.loads(line)["row"] for line in lines}) == len(lines) == ROWS


@pytest.mark.parametrize("retrieval", [False, True])
def test_a_server_scores_as_the_process_does(lm_parts, lighthouses, source, tmp_path, retrieval):
    write(source / "bad.csv", ["Fine", "word " * 5000, "", "Fine"])
    rag = Orchestrator(lm_parts, Scope("default"))
    how = Scoring(GREEDY.sampling, retrieval, lighthouses, full_text=True)
    run(rag, source, tmp_path / "here", how)
    with server(rag) as client, Client(str(client.base_url).rstrip("/"), patience=0) as opened:
        there = ByServer(opened, lm_parts.settings)
        score_folder(there, source, tmp_path / "there", how, Batching(), lambda *_: None)
    for name in (PREDICTIONS, ERRORS):
        assert read(tmp_path / "there" / name) == read(tmp_path / "here" / name)
    assert len(read(tmp_path / "there" / ERRORS)) == 2


def test_a_server_is_asked_for_a_collection_that_there_is(lm_parts, source, tmp_path):
    rag, how = Orchestrator(lm_parts, Scope("default")), Scoring(retrieval=True, collection="none")
    with server(rag) as client, Client(str(client.base_url).rstrip("/"), patience=0) as opened:
        there = ByServer(opened, lm_parts.settings)
        with pytest.raises(NotFound, match="no collection"):
            score_folder(there, source, tmp_path / "out", how, Batching(), lambda *_: None)


@pytest.mark.parametrize("by_server", [False, True])
def test_what_takes_too_long_is_tried_again_and_then_an_error(lm_parts, tmp_path, by_server):
    """A long text, for which no attempt has time."""
    folder, waits = tmp_path / "in", []
    folder.mkdir()
    write(folder / "a.csv", ["The ferry"])
    rag = Orchestrator(lm_parts, Scope("default"))
    how = Scoring(Sampling(do_sample=False, max_new_tokens=2000))
    batching = Batching(retries=1, timeout=0.2, wait=waits.append)
    with server(rag) as client, Client(str(client.base_url).rstrip("/"), patience=0) as opened:
        scorer = ByServer(opened, lm_parts.settings) if by_server else InProcess(rag)
        counts = score_folder(scorer, folder, tmp_path / "out", how, batching, lambda *_: None)
    assert (counts, waits) == ((1, 1), [1.0])
    (row,) = read(tmp_path / "out" / ERRORS)
    assert row["error"] == "It was not done in 0.2 seconds."


def _lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0
