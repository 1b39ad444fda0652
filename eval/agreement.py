"""Does a self-made set order systems as people's judgements do?

    python -m eval.agreement FOLDER[:QRELS] ... [--questions N] [--folder SETS]

For each judged collection it makes a set (`eval.make`), ranks by twenty systems (`eval.degraded`)
for the made questions and for the real ones, and prints Kendall's tau between the two orders with
its interval: over all systems, and over those alone that somebody might choose. The order of two
halves of the real questions, half as many each, says what could be hoped for.
"""

import argparse
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from eval.collection import CACHE, indexed
from eval.datasets import Dataset, load_dataset
from eval.degraded import ASKED, Asked, Contender, contenders, run_of
from eval.experiments import HOME, Experiment, begin
from eval.make import QUESTIONS, MadeSet, counted, make
from eval.makers import shelf_of_dataset
from eval.measures import Qrels, parse_measures, per_question
from eval.pool import LIMIT, Pool, Searchable
from eval.review import note, write_made
from eval.statistics import Interval, tau_interval
from eval.systems import Pooled
from eval.vectors import open_embedder
from rag.embed import Embedder
from rag.errors import InvalidInput
from rag.rerank import LateInteractionReranker
from rag.settings import PROFILES

LEAST_TAU = 0.6  # a set that orders systems less alike does not choose between them
MEASURE = "nDCG@10"
REAL = 300  # real questions that are asked, drawn at random

Pools = Mapping[Asked, Sequence[Pooled]]
Matrix = NDArray[np.float64]  # (systems, questions)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Kendall's tau over all systems, and over those that are choices; from how many questions."""

    every: Interval
    choices: Interval
    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Row:
    """What was found for one collection. `halves` is of the real questions with themselves."""

    name: str
    made: MadeSet
    seconds: float  # of making
    agreement: Agreement
    halves: Agreement


def trustworthy(tau: float) -> bool:
    """Whether a set orders systems well enough to choose among them by it."""
    return tau >= LEAST_TAU


def ask(
    source: Searchable,
    questions: Mapping[str, str],
    systems: Sequence[Contender],
    experiment: Experiment,
    *,
    show: bool = True,
) -> Pools:
    """The candidates of the questions in every way that some system asks them, kept on disk."""
    found: dict[Asked, list[Pooled]] = {}
    for asked, change in ASKED.items():
        pool = Pool(experiment.folder / f"pool-{asked}.jsonl")
        texts = {query: change(text) for query, text in questions.items()}
        pool.fill(source, texts, [s.system for s in systems if s.asked == asked], show=show)
        found[asked] = [one for one in pool if one.query in questions]
    return found


def values(pools: Pools, systems: Sequence[Contender], qrels: Qrels) -> Matrix:
    """nDCG@10, float64 (systems, questions), in the order of the sorted question ids."""
    measures = parse_measures([MEASURE])
    return np.array([
        per_question(qrels, run_of(pools[one.asked], one), measures)[MEASURE] for one in systems
    ])  # fmt: skip


def agree(a: Matrix, b: Matrix, systems: Sequence[Contender], seed: int = 0) -> Agreement:
    """How alike two sets of questions order the systems."""
    chosen = [not one.degraded for one in systems]
    return Agreement(
        tau_interval(a, b, seed=seed),
        tau_interval(a[chosen], b[chosen], seed=seed),
        a.shape[1],
        b.shape[1],
    )


def halves(real: Matrix, systems: Sequence[Contender], seed: int = 0) -> Agreement:
    """Two random halves of the same questions with each other. Raises InvalidInput for one."""
    if real.shape[1] < 2:
        raise InvalidInput("One question has no halves.", hint="Take more of --real questions.")
    order = np.random.default_rng(seed).permutation(real.shape[1])
    middle = len(order) // 2
    return agree(real[:, order[:middle]], real[:, order[middle:]], systems, seed)


def self_check(
    source: Searchable,
    made: MadeSet,
    blend: float,
    home: Path = HOME,
    *,
    seed: int = 0,
    show: bool = True,
) -> Agreement:
    """Whether the keyword queries of a set order systems as the rest of it does.

    For a collection without judgements. It shows a set too small or too noisy to order anything;
    that two kinds of made questions agree does not prove that people's would. Raises InvalidInput
    for a set of one kind.
    """
    systems = contenders(blend if source.reranker is not None else 1.0)
    if source.reranker is None:
        systems = [one for one in systems if not one.system.choices.rerank_limit]
    by_id = {one.id: one.how for one in made.questions}
    keywords = np.array([by_id[id_].startswith("keywords") for id_ in sorted(by_id)])
    if keywords.all() or not keywords.any():
        raise InvalidInput(
            f"A set of {len(by_id)} questions that are all"
            f" {'keywords' if keywords.all() else 'others than keywords'} cannot check itself.",
            hint="Make a larger set, with --questions.",
        )
    judged = made.dataset(source.name)
    experiment = _begin(source, judged.fingerprint(), systems, home)
    texts = {one.id: one.text for one in made.questions}
    pools = ask(source, texts, systems, experiment, show=show)
    found = values(pools, systems, judged.qrels)
    agreement = agree(found[:, keywords], found[:, ~keywords], systems, seed)
    means = zip(
        systems, found[:, keywords].mean(axis=1), found[:, ~keywords].mean(axis=1), strict=True
    )
    experiment.note(
        rows=[{"system": s.name, "keywords": float(a), "others": float(b)} for s, a, b in means],
        agreement=_as_dict(agreement),
    )
    return agreement


def against_judgements(
    dataset: Dataset,
    embedder: Embedder,
    *,
    questions: int = QUESTIONS,
    real: int = REAL,
    seed: int = 0,
    in_balance: bool = True,
    home: Path = HOME,
    cache: Path = CACHE,
    show: bool = True,
) -> tuple[Row, Experiment]:
    """Make a set of a judged collection without its judgements, then compare with them."""
    reranker = LateInteractionReranker(embedder)
    systems = contenders(reranker.blend)
    with indexed(dataset, embedder, reranker, cache=cache, show=show) as source:
        start = time.perf_counter()
        made = make(
            source,
            shelf_of_dataset(dataset),
            embedder,
            questions=questions,
            seed=seed,
            in_balance=in_balance,
            show=show,
        )
        seconds = time.perf_counter() - start
        drawn = random.Random(seed).sample(dataset.judged, min(real, len(dataset.judged)))
        asked = {query: dataset.queries[query] for query in drawn}
        about = dataset.fingerprint() + ("" if in_balance else ", as made")
        experiment = _begin(source, about, systems, home)
        pools = ask(
            source, asked | {q.id: q.text for q in made.questions}, systems, experiment, show=show
        )
    by_people = values(pools, systems, {query: dataset.qrels[query] for query in drawn})
    by_itself = values(pools, systems, made.dataset(dataset.name).qrels)
    row = Row(
        dataset.name,
        made,
        seconds,
        agree(by_itself, by_people, systems, seed),
        halves(by_people, systems, seed),
    )
    experiment.note(
        rows=_systems(systems, by_itself, by_people),
        agreement=_as_dict(row.agreement),
        drawn={"questions": questions, "real": real, "seed": seed},  # pools are shared by all
    )
    return row, experiment


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    console, rows = Console(), []
    for where in options.folders:
        folder, _, qrels = where.partition(":")
        embedder = open_embedder(options.model)
        row, experiment = against_judgements(
            load_dataset(Path(folder), qrels or "test"),
            embedder,
            questions=options.questions,
            real=options.real,
            seed=options.seed,
            in_balance=not options.as_made,
            home=options.out,
            cache=options.cache,
        )
        rows.append(row)
        if options.folder is not None:
            _write(options.folder / row.name, row, options.seed)
        console.print(f"{row.name}: left out were {counted(row.made.left_out)}", markup=False)
        console.print(_by_system(experiment), f"kept as {experiment.folder}", soft_wrap=True)
    console.print(_table(rows))


def _begin(source: Searchable, about: str, systems: Sequence[Contender], home: Path) -> Experiment:
    made_from: dict[str, Any] = {
        "dataset": about,
        "source": source.fingerprint(),
        "systems": [one.name for one in systems],
        "limit": LIMIT,
    }
    return begin("agreement", source.name, made_from, home)


def _write(folder: Path, row: Row, seed: int) -> None:
    write_made(folder, row.made, {"made_from": row.name, "seed": seed, "seconds": row.seconds})
    note(folder, tau=row.agreement.every.mean, agreement=_as_dict(row.agreement))


def _as_dict(agreement: Agreement) -> dict[str, Any]:
    return asdict(agreement) | {"measure": MEASURE}


def _systems(systems: Sequence[Contender], made: Matrix, real: Matrix) -> list[dict[str, Any]]:
    means = zip(systems, made.mean(axis=1), real.mean(axis=1), strict=True)
    return [
        {"system": one.name, "degraded": one.degraded, "made": float(a), "real": float(b)}
        for one, a, b in means
    ]


def _by_system(experiment: Experiment) -> Table:
    table = Table("system", f"{MEASURE}, made", "real")
    for row in experiment.about()["rows"]:
        table.add_row(row["system"], f"{row['made']:.3f}", f"{row['real']:.3f}")
    return table


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        "set", "made", "real", "seconds", "tau", "tau of choices", "real halves", "of choices", "",
        title="Made questions against judgements", title_justify="left",
    )  # fmt: skip
    for row in rows:
        found, ceiling = row.agreement, row.halves
        table.add_row(
            row.name,
            str(found.a),
            str(found.b),
            f"{row.seconds:.0f}",
            _shown(found.every),
            _shown(found.choices),
            f"{ceiling.every.mean:.2f}",
            f"{ceiling.choices.mean:.2f}",
            "" if trustworthy(found.every.mean) else "not to be trusted",
        )
    return table


def _shown(found: Interval) -> str:
    return f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="in the BEIR layout; :NAME for another qrels")
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="that are made")
    parser.add_argument("--real", type=int, default=REAL, help="real ones, drawn at random")
    parser.add_argument(
        "--as-made", action="store_true", help="take candidates as they come, not in balance"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the questions, and every draw")
    parser.add_argument("--model", default=PROFILES["starter"].embedder, help="the embedder")
    parser.add_argument("--folder", type=Path, help="keep the made sets there, with their tau")
    parser.add_argument("--out", type=Path, default=HOME, help="where experiments are kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="indexes and vectors")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
