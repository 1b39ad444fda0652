"""Quality of retrieval: python -m eval.retrieval FOLDER, or rag eval retrieval COLLECTION FOLDER

Ranks by dense vectors, BM25, their fusions and reranking at several depths, from one pass of the
models. Prints nDCG@10, recall, MRR and MAP with intervals beside what each way takes, and keeps
runs and values as an experiment (`rag eval ls`).
"""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ir_measures import Measure
from rich.console import Console
from rich.table import Table

from eval.collection import CACHE, indexed
from eval.datasets import Dataset, open_dataset
from eval.experiments import HOME, Experiment, Values, begin
from eval.measures import STANDARD, parse_measures, per_question
from eval.pool import LIMIT, Pool, Searchable
from eval.runs import check_ids, write_run
from eval.statistics import Interval, interval
from eval.systems import System, run_of, seconds_of, standard
from eval.vectors import open_embedder
from rag.rerank import LateInteractionReranker
from rag.settings import PROFILES

DEPTHS = (5, 10, 20)


@dataclass(frozen=True, slots=True)
class Row:
    """A system's quality, and what it takes."""

    system: str
    quality: dict[str, Interval]
    ms: float  # of a question, on average
    stages: dict[str, float]  # ms
    tokens: float  # that the reranker reads for a question


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console = Console()
    dataset = open_dataset(options.dataset, options.qrels)
    embedder = open_embedder(options.model)
    late_interaction = LateInteractionReranker(embedder)
    with indexed(dataset, embedder, late_interaction, cache=options.cache) as collection:
        experiment, rows = evaluate(
            dataset,
            collection,
            standard(late_interaction.blend, options.depth),
            parse_measures(options.measure),
            options.out,
        )
    show(console, experiment, rows, f"{dataset.name}, {len(dataset.qrels)} questions")


def evaluate(
    dataset: Dataset,
    source: Searchable,
    systems: Sequence[System],
    measures: Sequence[Measure],
    home: Path = HOME,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Experiment, list[Row]]:
    """Ask every judged question, rank by every system, and keep it all.

    Raises InvalidInput for ids of questions that a run file cannot hold.
    """
    check_ids(dataset.judged)  # before anything is asked
    made_from: dict[str, Any] = {
        "dataset": dataset.fingerprint(),
        "source": source.fingerprint(),
        "systems": [system.as_dict() for system in systems],
        "measures": [str(measure) for measure in measures],
        "limit": LIMIT,
        "seed": seed,
    }
    experiment = begin("retrieval", dataset.name, made_from, home)
    experiment.note(dataset=dict(dataset.opened))  # beside the key: a folder may be moved
    pool = Pool(experiment.pool)
    pool.fill(source, {q: dataset.queries[q] for q in dataset.judged}, systems, show=progress)
    values: dict[str, Values] = {}
    for system in systems:
        run = run_of(pool, system)
        write_run(experiment.run_path(system.name), run)
        values[system.name] = per_question(dataset.qrels, run, measures)
    experiment.keep_values(values, dataset.judged)
    rows = [_row(pool, system, values[system.name], seed) for system in systems]
    experiment.note(rows=[_as_dict(row) for row in rows])
    return experiment, rows


def _row(pool: Pool, system: System, values: Values, seed: int) -> Row:
    seconds = [seconds_of(one, system) for one in pool]
    stages = {stage: 1000 * fmean(s[stage] for s in seconds) for stage in seconds[0]}
    read = system.choices.rerank_limit
    return Row(
        system.name,
        {measure: interval(found, seed=seed) for measure, found in values.items()},
        sum(stages.values()),
        stages,
        fmean(one.tokens * min(read, len(one.documents)) for one in pool),
    )


def _as_dict(row: Row) -> dict[str, Any]:
    return {
        "system": row.system,
        "ms": row.ms,
        "stages_ms": row.stages,
        "tokens": row.tokens,
        "quality": {m: [i.mean, i.low, i.high] for m, i in row.quality.items()},
    }


def show(console: Console, experiment: Experiment, rows: Sequence[Row], title: str) -> None:
    """A table: the measures with intervals, and what a question takes."""
    measures = list(rows[0].quality)
    table = Table("", *measures, "ms", "tokens", title=title, title_justify="left")
    for row in rows:
        cells = [str(row.quality[measure]) for measure in measures]
        table.add_row(row.system, *cells, f"{row.ms:.1f}", f"{row.tokens:.0f}")
    console.print(table)
    console.print(f"kept as {experiment.folder}", markup=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a folder in the BEIR layout, or ir_datasets:ID")
    parser.add_argument("--qrels", default="test", help="which file of qrels/")
    parser.add_argument("--model", default=PROFILES["starter"].embedder, help="the embedder")
    parser.add_argument(
        "--depth", type=int, nargs="+", default=DEPTHS, help="how many candidates are reranked"
    )
    parser.add_argument("--measure", nargs="+", default=STANDARD, help="as nDCG@10, R@50, AP")
    parser.add_argument("--out", type=Path, default=HOME, help="where the experiment is kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="indexes and vectors")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
