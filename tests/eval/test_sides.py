"""What may stand on either side of a comparison, and what may not be compared."""

import numpy as np
import pytest

from eval.datasets import load_dataset, write_dataset
from eval.experiments import begin
from eval.runs import Run, write_run
from eval.sides import full_name, one_line, open_sides, per_text, reopened
from rag.errors import InvalidInput, NotFound
from tests.small_experiment import ranked_at, small_dataset, small_experiment


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "small")


@pytest.fixture
def experiment(tmp_path, dataset):
    first = dict.fromkeys(dataset.judged, 1)
    runs = [
        ranked_at(dataset, "bm25", first | {"q000": 2}),
        ranked_at(dataset, "hybrid dbsf", first),
    ]
    return small_experiment(tmp_path / "home", dataset, runs)


def test_systems_of_experiments_and_run_files(tmp_path, dataset, experiment):
    write_run(tmp_path / "other.trec", ranked_at(dataset, "x", dict.fromkeys(dataset.judged, 3)))
    for other in (tmp_path / "other.trec", experiment.run_path("bm25")):
        home = tmp_path / "home"
        a, b = open_sides(f"{experiment.id}:hybrid dbsf", str(other), home=home)
        assert a.name == f"{experiment.id}:hybrid dbsf"
        assert a.questions == b.questions == dataset.judged
        assert a.of("nDCG@10").tolist() == [1, 1, 1, 1]
        assert b.of("R@10").tolist() == [1, 1, 1, 1]
        assert a.notes == b.notes == []


def test_a_measure_that_was_not_kept_is_computed(experiment):
    a, _ = open_sides(*[f"{experiment.folder}:bm25"] * 2)
    assert a.of("RR").tolist() == [0.5, 1, 1, 1]
    (experiment.run_path("bm25")).unlink()
    a, _ = open_sides(*[f"{experiment.folder}:bm25"] * 2)
    assert a.of("R@10").tolist() == [1, 1, 1, 1]
    with pytest.raises(InvalidInput, match="has no values of RR"):
        a.of("RR")


def test_two_run_files_on_a_dataset(tmp_path, dataset):
    paths = [tmp_path / "a.trec", tmp_path / "b.trec"]
    write_run(paths[0], ranked_at(dataset, "x", {"q000": 1, "q001": 1}))
    strange = ranked_at(dataset, "y", dict.fromkeys(dataset.judged, 1)).rankings
    write_run(paths[1], Run("y", {**strange, "q999": {"d000": 1.0}}))
    a, b = open_sides(*map(str, paths), dataset)
    assert a.of("R@10").tolist() == [1, 1, 0, 0]
    assert a.notes == ["a.trec does not answer 2 of 4 questions: they count 0."]
    assert b.notes == ["b.trec answers 1 questions that small does not judge."]


def test_run_files_take_a_dataset_that_they_are_about(tmp_path, dataset):
    path = tmp_path / "a.trec"
    write_run(path, Run("x", {"else": {"d": 1.0}}))
    with pytest.raises(InvalidInput, match="takes a dataset") as found:
        open_sides(str(path), str(path))
    assert "--dataset" in found.value.hint
    with pytest.raises(InvalidInput, match="answers no question of small"):
        open_sides(str(path), str(path), dataset)
    with pytest.raises(InvalidInput, match=r"missing.trec cannot be read"):
        open_sides(str(path), str(tmp_path / "missing.trec"), dataset)


def test_a_system_is_named_where_there_are_several(tmp_path, experiment):
    home = tmp_path / "home"
    with pytest.raises(InvalidInput, match="has 2 systems") as found:
        open_sides(experiment.id, experiment.id, home=home)
    assert f'"{experiment.id}:bm25"' in found.value.hint
    with pytest.raises(NotFound, match="no system 'dense'") as missing:
        open_sides(f"{experiment.id}:dense", experiment.id, home=home)
    assert "bm25, hybrid dbsf" in missing.value.hint
    with pytest.raises(NotFound, match="no experiment 'nothing'"):
        open_sides("nothing", experiment.id, home=home)


def test_an_interrupted_experiment_is_said_to_be_one(tmp_path):
    experiment = begin("retrieval", "small", {"dataset": "x"}, tmp_path)
    with pytest.raises(InvalidInput, match="was interrupted"):
        open_sides(experiment.id, experiment.id, home=tmp_path)


def test_other_questions_are_refused_and_named(tmp_path, experiment):
    larger = small_dataset(tmp_path / "larger", 9)
    run = ranked_at(larger, "x", dict.fromkeys(larger.judged, 1))
    path = tmp_path / "x.trec"
    write_run(path, run)
    with pytest.raises(InvalidInput) as found:
        open_sides(f"{experiment.folder}:bm25", str(path), larger)
    assert "0 only in A" in found.value.message
    assert "5 ('q004', 'q005', 'q006', ...) only in B (x.trec)" in found.value.message
    assert "--qrels" in found.value.hint


def test_other_judgements_are_refused(tmp_path, dataset, experiment):
    other = load_dataset(tmp_path / "small")
    other.qrels["q001"]["d002"] = 1
    write_dataset(tmp_path / "other", other)
    changed = load_dataset(tmp_path / "other")
    path = tmp_path / "x.trec"
    write_run(path, ranked_at(dataset, "x", dict.fromkeys(dataset.judged, 1)))
    with pytest.raises(InvalidInput, match=r"judge questions differently: 1 \('q001'\)"):
        open_sides(f"{experiment.folder}:bm25", str(path), changed)


def test_another_collection_with_the_same_questions_is_compared_and_told(tmp_path, experiment):
    other = load_dataset(tmp_path / "small")
    write_dataset(tmp_path / "more", other.without(set(), "more"))
    with (tmp_path / "more" / "corpus.jsonl").open("a") as file:
        file.write('{"_id": "d999", "title": "", "text": "One more."}\n')
    more = load_dataset(tmp_path / "more")
    path = tmp_path / "x.trec"
    write_run(path, ranked_at(more, "x", dict.fromkeys(more.judged, 1)))
    a, _ = open_sides(f"{experiment.folder}:bm25", str(path), more)
    assert any("different collections" in note for note in a.notes)


def test_a_dataset_that_moved_or_changed_costs_the_texts_and_says_so(tmp_path, experiment):
    (tmp_path / "small").rename(tmp_path / "moved")
    found, why = reopened(experiment)
    assert found is None
    assert "cannot be opened" in why
    a, _ = open_sides(*[f"{experiment.folder}:bm25"] * 2)
    assert a.of("R@10").tolist() == [1, 1, 1, 1]
    assert any("No texts" in note for note in a.notes)
    (tmp_path / "moved").rename(tmp_path / "small")
    with (tmp_path / "small" / "queries.jsonl").open("a") as file:
        file.write('{"_id": "new", "text": "?"}\n')
    found, why = reopened(experiment)
    assert found is None
    assert "has changed since" in why


def test_where_a_dataset_was_is_no_part_of_what_it_is(tmp_path, dataset):
    again = small_dataset(tmp_path / "elsewhere" / "small")
    assert again.opened != dataset.opened
    assert again.fingerprint() == dataset.fingerprint()
    assert again == dataset


def test_questions_of_one_text_count_once():
    values = np.array([1.0, 0.0, 0.4, 0.8])
    assert per_text(values, ["b", "a", "b", "c"]).tolist() == [0.7, 0.0, 0.8]
    assert per_text(values, list("dcba")).tolist() == values.tolist()


def test_a_deeper_run_is_noted(tmp_path, dataset, experiment):
    path = tmp_path / "x.trec"
    write_run(path, Run("x", {query: {"d000": 1.0} for query in dataset.judged}))
    a, _ = open_sides(f"{experiment.folder}:bm25", str(path))
    assert any("at most 4 documents of a question, B 1" in note for note in a.notes)


def test_measures_have_one_name():
    assert full_name("ndcg@10", ["nDCG@10"]) == "nDCG@10"
    assert full_name("recall@5", []) == "R@5"
    assert full_name("Correct", ["correct"]) == "correct", "an experiment's own measure"
    with pytest.raises(InvalidInput, match="no measure 'beauty'"):
        full_name("beauty", ["nDCG@10"])


def test_a_line_holds_nothing_that_moves_a_cursor():
    assert one_line("a\x1b[2Jb\n\tc\u202ed") == "a [2Jb c d"
    assert one_line("word " * 99, 12) == "word word wo…"
    assert one_line("x" * 12, 12) == "x" * 12


def test_an_experiment_without_values_is_not_called_interrupted(tmp_path):
    """As those of `rag eval make --check` and of MTEB."""
    experiment = begin("agreement", "small", {"dataset": "x"}, tmp_path)
    experiment.note(rows=[])
    with pytest.raises(InvalidInput, match="keeps no values per question") as found:
        open_sides(experiment.id, experiment.id, home=tmp_path)
    assert found.value.hint == f"`rag eval show {experiment.id}` prints what it found."


def test_a_system_that_found_nothing_is_compared_as_any_other(tmp_path, dataset):
    nothing = Run("nothing", {query: {} for query in dataset.judged})
    right = ranked_at(dataset, "right", dict.fromkeys(dataset.judged, 1))
    folder = small_experiment(tmp_path / "home", dataset, [nothing, right]).folder
    a, b = open_sides(f"{folder}:nothing", f"{folder}:right")
    assert (a.run.rankings, a.of("AP").sum(), b.of("AP").mean()) == ({}, 0.0, 1.0)


def test_what_tuning_chose_is_said_to_be_chosen_on_half_of_the_questions(tmp_path):
    experiment = begin("tune", "small", {}, tmp_path)
    experiment.keep_values({"now": {"AP": np.ones(2)}, "chosen": {"AP": np.ones(2)}}, ["a", "b"])
    a, _ = open_sides(f"{experiment.id}:now", f"{experiment.id}:chosen", home=tmp_path)
    assert any("are too kind" in note for note in a.notes)
