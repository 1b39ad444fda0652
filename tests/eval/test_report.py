"""The page holds everything, and nothing of what documents say can run in it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from eval.datasets import load_dataset
from eval.experiments import begin
from eval.report import gather, recall_by_depth, render, write
from eval.runs import Run
from rag.errors import InvalidInput, NotFound
from tests.small_experiment import ranked_at, small_dataset, small_experiment

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'{{ 7*7 }}"


class Elements(HTMLParser):
    """All elements with their attributes, and the visible text."""

    def __init__(self, html):
        super().__init__()
        self.found, self.text, self.open = [], "", []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def experiment(tmp_path):
    """Two systems; `better` ranks the relevant document first, `plain` second."""
    small_dataset(tmp_path / "small", 30)
    for name in ("corpus.jsonl", "queries.jsonl"):
        path = tmp_path / "small" / name
        told = json.dumps(ATTACK)[1:-1]
        path.write_text(path.read_text().replace("The text of", told).replace("What is", told))
    dataset = load_dataset(tmp_path / "small")
    runs = [
        ranked_at(dataset, name, dict.fromkeys(dataset.judged, at))
        for name, at in ((f"plain {ATTACK}", 2), ("better", 1))
    ]
    curve = [[0.1, 0.0], [0.5, 0.1], [1.0, 0.3]]
    return small_experiment(tmp_path / "home", dataset, runs, risk_coverage=curve)


def test_nothing_in_it_runs_or_is_fetched(experiment):
    page = render(gather(experiment))
    elements = Elements(page).found
    tags = {tag for tag, _ in elements}
    assert not tags & {"script", "img", "iframe", "link", "object", "embed", "base", "form"}
    for tag, attributes in elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), tag
            if name.endswith("href") or name == "src":
                assert value.startswith("#")
    assert not re.findall(r"url\((?!#)", page)
    (policy,) = [a["content"] for _, a in elements if "http-equiv" in a]
    assert policy.startswith("default-src 'none'")


def test_what_documents_say_is_shown_as_it_is(experiment):
    text = " ".join(Elements(render(gather(experiment))).text.split())
    assert f"{ATTACK} 000?" in text, "the question"
    assert f"Title 000: {ATTACK} document 000." in text, "the document"
    assert f"1 plain {ATTACK}" in text, "the system, in a drawing"


def test_it_says_what_was_found(experiment):
    page = gather(experiment)
    assert page.summary.startswith("Best by nDCG@10: better, 1.000")
    assert "more than chance" in page.summary
    assert (page.best, page.baseline) == ("better", f"plain {ATTACK}")
    assert page.meaning[0] == "better is shown to be different at 5%: nDCG@10 better."
    titles = [plot.title for plot in page.plots]
    assert titles == [
        "Quality against latency", "Recall by depth", "Question by question",
        "Where the time goes", "Risk by coverage",
    ]  # fmt: skip
    assert not page.missing
    assert [row.on_front for row in page.rows] == [True, True], "faster, and better"
    html = render(page)
    about = experiment.about()
    for told in (
        about["made_from"]["dataset"],
        about["versions"]["numpy"],
        about["machine"]["python"],
    ):
        assert told in html


def test_another_baseline(experiment):
    page = gather(experiment, "better")
    assert page.comparison is None
    assert "It is the baseline." in page.summary
    with pytest.raises(NotFound, match="no system 'none'"):
        gather(experiment, "none")


def test_what_is_not_at_hand_is_said(experiment, tmp_path):
    (tmp_path / "small").rename(tmp_path / "gone")
    page = gather(experiment)
    assert any("No plot of recall by depth: the dataset of" in one for one in page.missing)
    assert any("No texts" in note for note in page.notes)
    assert "No texts" in render(page)


def test_an_experiment_without_times_and_runs(tmp_path):
    """As one of answers may be: values alone."""
    made = begin("answers", "x", {}, tmp_path)
    made.keep_values({"one": {"correct": np.array([1.0, 0.0, 1.0])}}, ["a", "b", "c"])
    page = gather(made)
    assert page.rows[0].cells[0].mean == pytest.approx(2 / 3)
    assert not page.timed
    assert "No time was measured" in render(page)


def test_an_interrupted_experiment_has_no_report(tmp_path):
    with pytest.raises(InvalidInput, match="was interrupted"):
        gather(begin("retrieval", "x", {}, tmp_path))


def test_it_goes_where_it_is_told(experiment, tmp_path):
    home = tmp_path / "home"
    assert write(experiment.id, home=home) == experiment.folder / "report.html"
    assert write(experiment.id, tmp_path / "r.html", home=home).read_text().startswith("<!doctype")
    with pytest.raises(InvalidInput, match="cannot be written: No such file"):
        write(experiment.id, tmp_path / "none" / "r.html", home=home)


def test_recall_by_hand(tmp_path):
    """Two questions of two relevant documents: found at ranks 1 and 3, and at 2 alone."""
    dataset = small_dataset(tmp_path / "small", 4)
    qrels = {"q000": {"d000": 1, "d001": 1, "d002": 0}, "q001": {"d001": 2, "d003": 1}, "q002": {}}
    dataset = type(dataset)("x", {}, {}, {}, qrels)
    run = Run("x", {
        "q000": {"d000": 3.0, "d002": 2.0, "d001": 1.0}, "q001": {"d000": 2.0, "d001": 1.0},
    })  # fmt: skip
    assert recall_by_depth(run, dataset, 4).tolist() == [0.25, 0.5, 0.75, 0.75]


def test_tuning_has_a_report_too(tmp_path):
    """Its rows have titles, and their systems are objects."""
    made = begin("tune", "x", {}, tmp_path)
    values = {"present settings": [0.0, 1.0, 0.0], "chosen": [1.0, 1.0, 0.0]}
    made.keep_values({n: {"nDCG@10": np.array(v)} for n, v in values.items()}, ["a", "b", "c"])
    made.note(rows=[
        {"title": title, "system": {"name": "dbsf", "fusion": "dbsf"}, "ms": ms}
        for title, ms in (("present settings", 20.0), ("chosen", 10.0))
    ])  # fmt: skip
    page = gather(made, home=tmp_path)
    assert [(row.name, row.ms) for row in page.rows] == [
        ("present settings", 20.0),
        ("chosen", 10.0),
    ]
    assert page.best == "chosen"
    assert any("are too kind" in note for note in page.notes)


def test_rankings_that_were_not_kept_are_said_to_be_missing(tmp_path):
    dataset = small_dataset(tmp_path / "small", 3)
    made = begin("answers", "x", {"dataset": dataset.fingerprint()}, tmp_path)
    made.note(dataset=dict(dataset.opened))
    made.keep_values({"quote": {"holds": np.ones(3)}}, dataset.judged)
    assert "No plot of recall by depth: no rankings were kept." in gather(made).missing
