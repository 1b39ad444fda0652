"""Measures of answers by hand, and a whole evaluation on the real starter profile."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval import answers
from eval.answers import counts_of, curve_of, evaluate, intervals, show, values_of
from eval.asking import UNREAD, Asked, Cited, Question, put
from eval.datasets import Dataset, write_dataset
from eval.experiments import every, find
from services.cli import app

EMPTY = {
    "abstained": False, "support": 0.5, "how": "", "in_context": False, "cited": (),
    "sentences": 1, "marked": 1, "seconds": {"embed": 0.01}, "context_tokens": 10,
    "prompt_tokens": 0, "completion_tokens": 0,
}  # fmt: skip


def row(question, text="", *, answerable=True, **more):
    asked = {**EMPTY, "relevant": ("d1", "d2"), "accepted": ("whale oil",), **more}
    return Asked(question=question, answerable=answerable, text=text, **asked)


ROWS = [
    row(
        "q1",
        "The whale oil.",
        in_context=True,
        support=0.9,
        cited=(Cited("d1", "It burned whale oil."), Cited("d9", "whale oil")),
    ),
    row(
        "q2", "Of whale oil.", in_context=True, support=0.7, sentences=2, cited=(Cited("d9", "x"),)
    ),
    row("q3", "I don't know.", abstained=True, in_context=True, support=0.2, forced="Whale oil!"),
    row("q4", "gas", support=0.8),
    row("q5", "gas", answerable=False, support=0.6, cited=(Cited("d9", "gas"),)),
    row("q6", "I don't know.", answerable=False, abstained=True, support=0.1),
]


def test_measures_by_hand():
    found = {measure: values.tolist() for measure, values in values_of(ROWS).items()}
    assert found["EM"] == [1, 0, 0, 0]
    assert found["F1"] == pytest.approx([1, 2 * 2 / (3 + 2), 0, 0])
    assert found["holds"] == [1, 1, 0, 0]  # an abstention counts 0, whatever it would have said
    assert found["context"] == [1, 1, 1, 0]
    assert found["citation recall"] == [0.5, 0, 0, 0]  # d1 of d1 and d2
    assert found["proof"] == [1, 0, 0, 0]
    assert found["citation precision"] == [0.5, 0, 0]  # q1, q2, q4; q3 was not answered
    assert found["supported"] == [1, 0.5, 1, 1]  # q1, q2, q4, q5
    assert found["answered"] == [1, 1, 0, 1]
    assert found["abstention recall"] == [0, 1]  # q5, q6
    assert found["abstention precision"] == [0, 1]  # q3, q6
    assert "judged" not in found


def test_a_quote_of_another_document_proves_nothing():
    only_d9 = row("q", "whale oil", cited=(Cited("d9", "It burned whale oil."),))
    assert values_of([only_d9])["proof"].tolist() == [0]


def test_a_measure_that_no_question_counts_in_is_absent():
    assert "abstention recall" not in intervals(values_of(ROWS[:1]))


def test_the_curve_by_hand():
    """In the order of support: q1 right, q4 wrong, q2 right, q5 wrong, q3 right if it spoke, q6."""
    assert curve_of(ROWS) == [
        (1 / 6, 0), (2 / 6, 1 / 2), (3 / 6, 1 / 3), (4 / 6, 2 / 4), (5 / 6, 2 / 5), (1, 3 / 6),
    ]  # fmt: skip


def test_no_curve_where_nothing_judged_the_support():
    assert curve_of([*ROWS, row("q7", "gas", support=None)]) == []
    without_passages = row("q7", abstained=True, support=None, context_tokens=0, forced="")
    assert len(curve_of([*ROWS, without_passages])) == 7


def test_grades_count_where_they_could_be_read():
    rows = [
        row("q1", "gas", grade=1),
        row("q2", "whale oil", grade=0),
        row("q3", "whale oil", grade=UNREAD),
        row("q4", "I don't know.", abstained=True),
    ]
    assert values_of(rows)["judged"].tolist() == [1, 0, 0]
    assert counts_of(rows)["unread grades"] == 1
    assert counts_of(rows)["graded"] == 2
    assert curve_of(rows) == [(1, 2 / 4)]  # q1 by its grade, q3 by its words


LIGHTS = Dataset(
    "lights",
    {},
    {},
    {
        "q1": "How far was the Cape Hatteras Lighthouse moved in 1999?",
        "q2": "How tall is the Jeddah Light in Saudi Arabia?",
        "q3": "When was Boston Light first lit?",
        "q4": "When was Grace Darling born?",
    },
    {
        "q1": {"american-lighthouses.md": 1},
        "q2": {"lighthouse-records.xlsx": 1},
        "q3": {"american-lighthouses.md": 1},
        "q4": {"grace-darling.txt": 1},
    },
    {"q1": ["2,900 feet"], "q2": ["133"], "q3": ["14 September 1716"], "q4": ["24 November 1815"]},
)


ASKED = [
    Question(query, text, tuple(LIGHTS.qrels[query]) if query in ("q2", "q4") else ())
    for query, text in LIGHTS.queries.items()
]


@pytest.fixture(scope="module")
def experiment(lighthouse, tmp_path_factory):
    home = tmp_path_factory.mktemp("experiments")
    return evaluate(lighthouse, "lighthouse", LIGHTS, ASKED, home, progress=False)


def test_a_whole_evaluation(experiment):
    about = experiment.about()
    (found,) = about["rows"]
    assert found["system"] == "quote"
    for measure in ("holds", "context", "proof", "supported", "answered", "abstention recall"):
        assert found["quality"][measure][0] == 1, measure
    assert about["kind"] == "answers"
    assert about["counts"]["answerable"] == about["counts"]["unanswerable"] == 2
    assert about["risk_coverage"][-1] == [1.0, 0.5]  # the two that nothing answers
    assert about["area_under_risk_coverage"] == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    assert set(found["stages_ms"]) >= {"embed", "retrieve", "rerank", "support", "cite"}
    p50, p95 = about["percentiles_ms"]["rerank"]
    assert 0 < p50 <= p95
    questions, values = experiment.values()
    assert len(questions) == len(values["quote"]["F1"]) == 2


def test_a_killed_run_goes_on_where_it_was(experiment, lighthouse, monkeypatch):
    path = experiment.folder / "answers.jsonl"
    whole = path.read_text("utf8").splitlines()
    path.write_text("\n".join(whole[:3]) + "\n" + whole[3][:40], "utf8")
    asked = []
    monkeypatch.setattr(answers, "put", lambda *given: asked.append(given[3].id) or put(*given))
    again = evaluate(
        lighthouse, "lighthouse", LIGHTS, ASKED, experiment.folder.parent, progress=False
    )  # fmt: skip
    assert again.folder == experiment.folder
    assert asked == [json.loads(whole[3])["question"]]
    rows = path.read_text("utf8").splitlines()
    assert [json.loads(line)["text"] for line in rows] == [json.loads(w)["text"] for w in whole]


def test_what_is_found_is_shown(experiment):
    console = Console(record=True, width=120)
    show(console, experiment, "lights")
    text = console.export_text()
    for part in (
        "citation precision",
        "1.000 to 1.000",
        "rerank",
        "risk at coverage: 0.000 at 10%",
    ):
        assert part in text


def test_the_command_reads_a_users_own_collection(tmp_path, lighthouse, monkeypatch):
    """Through the command line, with the models that are loaded already."""
    folder = tmp_path / "lights"
    write_dataset(folder, LIGHTS)
    (folder / "corpus.jsonl").unlink()
    opened = []

    class Opened:
        @staticmethod
        def open(data, **settings):
            opened.append((str(data), settings))
            return Kept(lighthouse.parts, lighthouse.scope)

    class Kept(type(lighthouse)):
        def __exit__(self, *_):
            """The session's own is not closed."""

    monkeypatch.setattr("rag.orchestrator.Orchestrator", Opened)
    home = tmp_path / "out"
    arguments = ["lighthouse", str(folder), "--questions", "2", "--seed", "3", "--out", str(home)]
    done = CliRunner().invoke(app, ["eval", "answers", *arguments, "--generator", "quote"])
    assert done.exit_code == 0, done.output
    assert opened == [("None", {"profile": None, "generator": "quote"})]
    (kept,) = every(home)
    assert find("answers-lights", home) == kept
    assert kept.about()["counts"]["answerable"] == 1
