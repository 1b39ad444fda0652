"""A dataset of a few questions and an experiment over it, made without a model."""

from collections.abc import Mapping
from pathlib import Path

from eval.datasets import Dataset, load_dataset, write_dataset
from eval.experiments import Experiment, begin
from eval.measures import parse_measures, per_question
from eval.runs import Run, by_rank, write_run
from eval.statistics import interval

MEASURES = ("nDCG@10", "R@10")


def small_dataset(folder: Path, questions: int = 4, *, qrels: str = "test") -> Dataset:
    """Question n is answered by document n alone; ids sort as they count."""
    ids = [f"{n:03}" for n in range(questions)]
    made = Dataset(
        folder.name,
        {f"d{id_}": f"Title {id_}" for id_ in ids},
        {f"d{id_}": f"The text of document {id_}." for id_ in ids},
        {f"q{id_}": f"What is {id_}?" for id_ in ids},
        {f"q{id_}": {f"d{id_}": 1} for id_ in ids},
    )
    write_dataset(folder, made, qrels)
    return load_dataset(folder, qrels)


def ranking(dataset: Dataset, query: str, at: int) -> dict[str, float]:
    """All documents, the relevant one at rank `at` from 1."""
    (relevant,) = dataset.qrels[query]
    others = [document for document in sorted(dataset.texts) if document != relevant]
    return by_rank([*others[: at - 1], relevant, *others[at - 1 :]])


def ranked_at(dataset: Dataset, name: str, ranks: Mapping[str, int]) -> Run:
    """A run with the relevant document of each question at a rank."""
    return Run(name, {query: ranking(dataset, query, at) for query, at in ranks.items()})


def small_experiment(home: Path, dataset: Dataset, runs: list[Run], **noted: object) -> Experiment:
    """As `eval.retrieval.evaluate` keeps one, with times that are made up."""
    made_from = {
        "dataset": dataset.fingerprint(),
        "systems": [{"name": run.name, "fusion": "dbsf"} for run in runs],
    }
    experiment = begin("retrieval", dataset.name, made_from, home)
    experiment.note(dataset=dict(dataset.opened))
    measures = parse_measures(MEASURES)
    values = {run.name: per_question(dataset.qrels, run, measures) for run in runs}
    for run in runs:
        write_run(experiment.run_path(run.name), run)
    experiment.keep_values(values, dataset.judged)
    rows = []
    for n, run in enumerate(runs, start=1):
        found = {m: interval(v) for m, v in values[run.name].items()}
        rows.append({
            "system": run.name, "ms": 10.0 * n, "tokens": 100 * n,
            "stages_ms": {"embed": 4.0 * n, "search": 6.0 * n},
            "quality": {m: [i.mean, i.low, i.high] for m, i in found.items()},
        })  # fmt: skip
    experiment.note(rows=rows, **noted)
    return experiment
