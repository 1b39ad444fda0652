"""A comparison end to end: figures, words, questions with their texts, and exit codes."""

import io
import math
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval.compare import compare_sides, described, show
from eval.datasets import load_dataset, write_judgements
from eval.gates import parse_gate
from eval.runs import write_run
from eval.sides import open_sides
from rag.errors import InvalidInput
from services.cli import app
from tests.small_experiment import ranked_at, small_dataset, small_experiment

SECOND = 1 / math.log2(3)  # nDCG of one relevant document at rank 2


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "small", 12)


@pytest.fixture
def experiment(tmp_path, dataset):
    """`better` wins q000 and q001 from the second rank, and loses q002 beyond the tenth."""
    first = dict.fromkeys(dataset.judged, 1)
    runs = [
        ranked_at(dataset, "plain", first | {"q000": 2, "q001": 2}),
        ranked_at(dataset, "better", first | {"q002": 12}),
    ]
    return small_experiment(tmp_path / "home", dataset, runs)


@pytest.fixture
def found(experiment):
    folder = experiment.folder
    return compare_sides(*open_sides(f"{folder}:plain", f"{folder}:better"))


def shown(found):
    console = Console(file=io.StringIO(), width=160)
    show(console, found)
    return console.file.getvalue()


def test_figures_by_hand(found):
    ndcg, recall = found.differences
    assert (ndcg.measure, recall.measure) == ("nDCG@10", "R@10")
    assert ndcg.interval.mean == pytest.approx((2 * (1 - SECOND) - 1) / 12)
    assert (ndcg.wins, ndcg.losses, ndcg.ties) == (2, 1, 9)
    assert (recall.wins, recall.losses, recall.ties) == (0, 1, 11)
    assert found.adjusted == [1.0, 1.0], "three questions prove nothing"


def test_the_questions_that_changed_most_come_with_their_texts(found):
    won, also, lost = found.moved
    assert (won.query, also.query, lost.query) == ("q000", "q001", "q002")
    assert won.question == "What is 000?"
    assert (won.a.first, won.a.rank, won.b.rank) == ("d001", 2, 1)
    assert won.a.first_text == "Title 001: The text of document 001."
    assert (lost.relevant, lost.a.rank, lost.b.rank) == ("d002", 1, 12)
    assert lost.relevant_text == "Title 002: The text of document 002."
    assert described(lost)[1:3] == [
        "        A 1.000: the relevant one first",
        "        B 0.000: the relevant one at 12, first d000: Title 000: The text of document 000.",
    ]


def test_only_what_is_shown_is_said(found, tmp_path):
    text = shown(found)
    assert (
        f"Not shown to be different: nDCG@10 ({found.differences[0].detectable:.4f}), R@10" in text
    )
    many = small_dataset(tmp_path / "many", 40)
    runs = [ranked_at(many, n, dict.fromkeys(many.judged, at)) for n, at in (("x", 5), ("y", 1))]
    folder = small_experiment(tmp_path / "home", many, runs).folder
    sure = compare_sides(*open_sides(f"{folder}:x", f"{folder}:y"))
    assert "B is shown to be different at 5%: nDCG@10 better." in shown(sure)
    assert "No question differs: R@10." in shown(sure), "it is 1 on both sides"
    assert "R@10 (0.0000)" not in shown(sure), "how little would be shown is not known then"


def test_values_are_paired_by_question_whatever_their_order(experiment):
    folder = experiment.folder
    a, b = open_sides(f"{folder}:plain", f"{folder}:better")
    straight = compare_sides(a, b).differences
    backwards = {name: values[::-1] for name, values in b.values.items()}
    turned = type(b)(b.name, b.questions[::-1], backwards, b.run, b.dataset, b.made_of)
    assert compare_sides(a, turned).differences == straight


def test_texts_of_documents_reach_a_terminal_as_text(tmp_path):
    dataset = small_dataset(tmp_path / "small", 3)
    hostile = tmp_path / "small" / "corpus.jsonl"
    hostile.write_text(hostile.read_text().replace("The text", "[red]\\u001b[2J text"))
    dataset = load_dataset(tmp_path / "small")
    runs = [
        ranked_at(dataset, n, dict.fromkeys(dataset.judged, r)) for n, r in (("x", 2), ("y", 1))
    ]
    folder = small_experiment(tmp_path / "home", dataset, runs).folder
    text = shown(compare_sides(*open_sides(f"{folder}:x", f"{folder}:y")))
    assert "\x1b" not in text
    assert "[red] [2J text of document" in text


def run_command(*arguments):
    return CliRunner().invoke(app, ["eval", "compare", *map(str, arguments)])


def test_gates_decide_the_exit_code(experiment):
    sides = (f"{experiment.folder}:plain", f"{experiment.folder}:better")
    passed = run_command(*sides, "--gate", "ndcg@10 >= -0.9", "--gate", "RR >= -90%")
    assert passed.exit_code == 0, passed.output
    assert passed.output.count("PASS") == 2
    failed = run_command(*sides, "--gate", "ndcg@10 >= -0.9", "--gate", "recall@10 >= -0.5%")
    assert failed.exit_code == 1
    assert failed.output.count("PASS") == 1
    assert failed.output.count("FAIL") == 1
    assert run_command(*sides).exit_code == 0, "a difference alone fails nothing"


@pytest.mark.parametrize("gate", ["ndcg@10", "beauty@10 >= 0"])
def test_wrong_gates_are_errors(experiment, gate):
    sides = (f"{experiment.folder}:plain", f"{experiment.folder}:better")
    found = run_command(*sides, "--gate", gate)
    assert isinstance(found.exception, InvalidInput)


def test_a_run_file_of_another_system(tmp_path, dataset, experiment):
    write_run(tmp_path / "x.trec", ranked_at(dataset, "x", dict.fromkeys(dataset.judged, 1)))
    given = ("--dataset", tmp_path / "small", "--measure", "RR", "--questions", 1)
    found = run_command(tmp_path / "x.trec", f"{experiment.folder}:plain", *given)
    assert found.exit_code == 0, found.output
    assert "RR" in found.output
    assert "nDCG" not in found.output
    assert found.output.count("What is") == 1


def test_repeated_questions_are_noted_and_may_count_once(tmp_path):
    """q001 asks what q000 does: 3 texts, and the two that moved alike are one of them."""
    small_dataset(tmp_path / "small", 4)
    path = tmp_path / "small" / "queries.jsonl"
    path.write_text(path.read_text().replace("What is 001?", "what  IS 000?"))
    dataset = load_dataset(tmp_path / "small")
    first = dict.fromkeys(dataset.judged, 1)
    runs = [
        ranked_at(dataset, "x", first | {"q000": 12, "q001": 12}), ranked_at(dataset, "y", first)
    ]  # fmt: skip
    sides = [f"{small_experiment(tmp_path / 'home', dataset, runs).folder}:{n}" for n in "xy"]
    plain = run_command(*sides)
    assert "1 of 4 questions repeat the text of another" in plain.output
    once = run_command(*sides, "--distinct")
    assert "4 questions, 3 of them counted" in once.output
    assert "repeat the text" not in once.output
    found = compare_sides(*open_sides(*sides), distinct=True).differences[0]
    assert (found.wins, found.ties) == (1, 2)
    assert found.interval.mean == pytest.approx((1 - found.a * 3 + 2) / 3)


def test_no_measure_in_common(experiment):
    a, b = open_sides(*[f"{experiment.folder}:plain"] * 2)
    other = type(b)(b.name, b.questions, {"correct": b.of("R@10")})
    with pytest.raises(InvalidInput, match="no measure in common"):
        compare_sides(a, other)


def test_gates_of_one_comparison_add_their_measures(experiment):
    sides = open_sides(*[f"{experiment.folder}:plain"] * 2)
    found = compare_sides(*sides, ["R@10"], [parse_gate("AP >= 0")])
    assert [one.measure for one in found.differences] == ["R@10", "AP"]
    assert found.passed


def test_run_files_are_measured_on_judgements_of_documents_elsewhere(tmp_path, dataset):
    """A set that `rag eval make` wrote has no corpus.jsonl."""
    write_judgements(tmp_path / "made", dataset)
    for name, at in (("x", 5), ("y", 1)):
        run = ranked_at(dataset, name, dict.fromkeys(dataset.judged, at))
        write_run(tmp_path / f"{name}.trec", run)
    files = [str(tmp_path / f"{name}.trec") for name in "xy"]
    done = CliRunner().invoke(app, ["eval", "compare", *files, "--dataset", str(tmp_path / "made")])
    assert done.exit_code == 0, done.output
    assert "What is 000?" in done.output
    assert "first d001\n" in done.output, "no colon where no text is at hand"


@pytest.mark.parametrize("module", ["compare", "report"])
def test_a_module_errs_in_a_line_as_the_command_does(tmp_path, module):
    sides = ["nothing"] * (2 if module == "compare" else 1)
    done = subprocess.run(
        [sys.executable, "-m", f"eval.{module}", *sides, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, "as for whatever is not found"
    assert "Traceback" not in done.stderr
    assert "Error: There is no experiment 'nothing'" in done.stderr
    assert "`rag eval ls` lists" in done.stderr


def test_as_a_module_it_says_what_the_command_says(experiment):
    """A name of the module's own must not be taken by what runs it."""
    sides = [f"{experiment.folder}:plain", f"{experiment.folder}:better"]
    done = subprocess.run(
        [sys.executable, "-m", "eval.compare", *sides], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "What is 000?" in done.stdout
