"""Quality of answers: python -m eval.answers FOLDER, or rag eval answers COLLECTION FOLDER

Questions are asked as a user asks them. Half of them are answerable; of the others the relevant
documents are held out. An interrupted run goes on behind the last whole row of answers.jsonl.

Over the answerable questions, an abstention counting 0:

    EM, F1             the answer without its markers, by SQuAD's rules
    holds              the words of an accepted answer stand in it
    context            they stand in a passage that the generator read
    citation recall    the share of the relevant documents that is cited
    proof              a citation of a relevant document quotes an accepted answer
    judged             the judge's grade, where it could be read

Over those among them that were answered:

    citation precision the share of the citations that are of a relevant document; none counts 0

Over all questions that were answered:

    supported          the share of the answer's sentences that carry a citation

Abstention: `answered` is the share of the answerable questions that were answered, `abstention
recall` the share of the unanswerable ones that were not, `abstention precision` the share of the
unanswerable ones among all that were not.

Risk and coverage: the questions in the order of their support. An answer is right when `holds` is
(the judge's grade where there is one); every answer to an unanswerable question is wrong.
"""

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.abstention import Curve, area, risk_coverage
from eval.asking import UNREAD, Asked, Question, check_there, pick, put
from eval.collection import CACHE, Shelved
from eval.datasets import Dataset, open_dataset
from eval.experiments import HOME, Experiment, begin
from eval.ingested import COLLECTION, ingested, smaller
from eval.judge import JUDGE_KEY, Judge, judging
from eval.lines import append, take_up
from eval.squad import exact_match, f1, holds
from eval.statistics import Interval, interval
from rag.choices import choices
from rag.orchestrator import Orchestrator
from rag.settings import PROFILES

Values = Mapping[str, NDArray[np.float64]]


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dataset = open_dataset(options.dataset, options.qrels)
    if options.documents:
        relevant = {d for judged in dataset.qrels.values() for d in judged}
        dataset = smaller(dataset, relevant, options.documents, options.seed)
    asked = pick(dataset, options.questions, options.seed)
    own = {"profile": options.profile, "generator": options.generator, "embedder": options.model}
    with (
        judging(options.judge_model, options.judge_url, os.environ.get(JUDGE_KEY, "")) as judge,
        ingested(dataset, cache=options.cache, **own) as rag,
    ):
        experiment = evaluate(rag, COLLECTION, dataset, asked, options.out, judge=judge)
    show(Console(), experiment, f"{dataset.name}, {len(asked)} questions")


def evaluate(
    rag: Orchestrator,
    collection: str,
    dataset: Dataset,
    asked: Sequence[Question],
    home: Path = HOME,
    *,
    judge: Judge | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Experiment:
    """Ask what was not asked yet, and keep it with its measures. Raises InvalidInput."""
    check_there(rag, collection, dataset, asked)
    experiment = begin(
        "answers", dataset.name, _made_from(rag, collection, dataset, asked, judge, seed), home
    )
    experiment.note(dataset=dict(dataset.opened))
    path = experiment.folder / "answers.jsonl"
    known = {row["question"] for row in take_up(path)}
    missing = [question for question in asked if question.id not in known]
    if missing:
        rag.ask(missing[0].text, collection=collection)  # loads the models, and counts for nothing
    for question in track(missing, f"{dataset.name}: asking", disable=not (progress and missing)):
        append(path, put(rag, collection, dataset, question, judge).as_dict())
    _keep(experiment, rag.parts.generator.id, [Asked.of(row) for row in take_up(path)], seed)
    return experiment


def _made_from(
    rag: Orchestrator,
    collection: str,
    dataset: Dataset,
    asked: Sequence[Question],
    judge: Judge | None,
    seed: int,
) -> dict[str, Any]:
    found = rag.parts.catalog.collection(rag.scope, collection)
    chosen = choices(found, rag.parts.settings)
    return {
        "dataset": dataset.fingerprint(),
        "source": Shelved(rag, collection).fingerprint(),
        "generator": rag.parts.generator_for(found).id,
        "choices": {name: getattr(chosen, name) for name in chosen.__slots__},
        "system_prompt": found.system_prompt,
        "questions": [[question.id, question.answerable] for question in asked],
        "judge": judge.model.id if judge is not None else None,
        "seed": seed,
    }


def _keep(experiment: Experiment, generator: str, rows: Sequence[Asked], seed: int) -> None:
    """The measures into experiment.json, the values of the answerable questions beside it."""
    found = values_of(rows)
    answerable = [row for row in rows if row.answerable]
    paired = {measure: found[measure] for measure in (*IN_THE_ANSWER, "context")}
    experiment.keep_values({generator: paired}, [row.question for row in answerable])
    curve = curve_of(rows)
    experiment.note(
        rows=[
            {
                "system": generator,
                "quality": {
                    measure: [i.mean, i.low, i.high]
                    for measure, i in intervals(found, seed).items()
                },
                "ms": fmean(sum(row.seconds.values()) for row in rows) * 1000,
                "stages_ms": {s: fmean(v) for s, v in stages_of(rows).items()},
                "tokens": fmean(row.context_tokens for row in rows),
            }
        ],
        percentiles_ms={
            stage: [float(at) for at in np.percentile(ms, [50, 95])]
            for stage, ms in stages_of(rows).items()
        },
        generator_tokens={
            "prompt": fmean(row.prompt_tokens for row in rows),
            "completion": fmean(row.completion_tokens for row in rows),
        },
        counts=counts_of(rows),
        risk_coverage=curve,
        area_under_risk_coverage=area(curve) if curve else None,
    )


def _cited(row: Asked) -> list[bool]:
    return [one.document in row.relevant for one in row.cited]


def _citation_precision(row: Asked) -> float:
    return fmean(_cited(row)) if row.cited else 0.0


def _citation_recall(row: Asked) -> float:
    cited = {one.document for one in row.cited}
    return len(cited.intersection(row.relevant)) / len(row.relevant)


def _proof(row: Asked) -> float:
    proofs = [one.quote for one in row.cited if one.document in row.relevant]
    return float(any(holds(quote, row.accepted) for quote in proofs))


IN_THE_ANSWER: Mapping[str, Callable[[Asked], float]] = {
    "EM": lambda row: exact_match(row.text, row.accepted),
    "F1": lambda row: f1(row.text, row.accepted),
    "holds": lambda row: float(holds(row.text, row.accepted)),
    "citation recall": _citation_recall,
    "proof": _proof,
}


def values_of(rows: Sequence[Asked]) -> dict[str, NDArray[np.float64]]:
    """A value per question that a measure counts, in the order of the rows; see the module."""
    answerable = [row for row in rows if row.answerable]
    unanswerable = [row for row in rows if not row.answerable]
    answered = [row for row in rows if not row.abstained]
    abstained = [row for row in rows if row.abstained]
    found = {
        measure: [0.0 if row.abstained else value(row) for row in answerable]
        for measure, value in IN_THE_ANSWER.items()
    } | {
        "context": [float(row.in_context) for row in answerable],
        "citation precision": [_citation_precision(row) for row in answered if row.answerable],
        "supported": [row.marked / max(1, row.sentences) for row in answered],
        "answered": [float(not row.abstained) for row in answerable],
        "abstention recall": [float(row.abstained) for row in unanswerable],
        "abstention precision": [float(not row.answerable) for row in abstained],
    }
    if any(row.grade is not None for row in rows):
        read = [row for row in answerable if row.grade != UNREAD]
        found["judged"] = [float(row.grade or 0) for row in read]
    return {measure: np.array(values, dtype=np.float64) for measure, values in found.items()}


def intervals(values: Values, seed: int = 0) -> dict[str, Interval]:
    """The mean of each measure that some question counts in, with its interval."""
    return {measure: interval(v, seed=seed) for measure, v in values.items() if len(v)}


def curve_of(rows: Sequence[Asked]) -> Curve:
    """Risk against coverage; empty where nothing judged the support of some question.

    A question without any passage is answered last.
    """
    known = [row for row in rows if row.support is not None or row.context_tokens == 0]
    if len(known) < len(rows):
        return []
    return risk_coverage(
        [-1.0 if row.support is None else row.support for row in rows], [_right(r) for r in rows]
    )


def _right(row: Asked) -> bool:
    if not row.answerable:
        return False
    if row.grade is not None and row.grade != UNREAD:
        return row.grade == 1
    return holds(row.text if row.forced is None else row.forced, row.accepted)


def stages_of(rows: Sequence[Asked]) -> dict[str, list[float]]:
    """What each stage took, in ms, of the questions that came to it."""
    names = dict.fromkeys(stage for row in rows for stage in row.seconds)
    return {
        stage: [1000 * row.seconds[stage] for row in rows if stage in row.seconds]
        for stage in names
    }


def counts_of(rows: Sequence[Asked]) -> dict[str, int]:
    """How many questions there are of each kind, and replies of the judge that were no grade."""
    return {
        "answerable": sum(row.answerable for row in rows),
        "unanswerable": sum(not row.answerable for row in rows),
        "abstained": sum(row.abstained for row in rows),
        "graded": sum(row.grade in (0, 1) for row in rows),
        "unread grades": sum(row.grade == UNREAD for row in rows),
    }


def show(console: Console, experiment: Experiment, title: str) -> None:
    """What an experiment found, as tables."""
    about = experiment.about()
    (row,) = about["rows"]
    table = Table("", row["system"], "95 %", title=title, title_justify="left")
    for measure, (mean, low, high) in row["quality"].items():
        table.add_row(measure, f"{mean:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)
    stages = Table("ms", "mean", "p50", "p95")
    for stage, (p50, p95) in about["percentiles_ms"].items():
        stages.add_row(stage, f"{row['stages_ms'][stage]:.1f}", f"{p50:.1f}", f"{p95:.1f}")
    console.print(stages)
    counts = ", ".join(f"{count} {what}" for what, count in about["counts"].items())
    tokens = about["generator_tokens"]
    console.print(
        f"{counts}; {row['tokens']:.0f} tokens of context a question, the generator read"
        f" {tokens['prompt']:.0f} and wrote {tokens['completion']:.0f}"
    )
    curve: Curve = about["risk_coverage"]
    if curve:
        console.print(
            f"risk at coverage: {_at(curve)}; area {about['area_under_risk_coverage']:.3f}"
        )
    else:
        console.print("no curve of risk and coverage: nothing judges the support with these models")
    console.print(f"kept as {experiment.folder}", markup=False, soft_wrap=True)


def _at(curve: Curve, coverages: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)) -> str:
    """The risk at the first threshold that reaches each coverage."""
    found = [(at, next(risk for coverage, risk in curve if coverage >= at)) for at in coverages]
    return ", ".join(f"{risk:.3f} at {at:.0%}" for at, risk in found)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="a folder in the BEIR layout with answers.jsonl")
    parser.add_argument("--qrels", default="test", help="which file of qrels/")
    parser.add_argument("--profile", default="starter", choices=list(PROFILES))
    parser.add_argument("--generator", help="quote, or a model; default: the profile's")
    parser.add_argument("--model", help="the embedder; default: the profile's")
    parser.add_argument("--questions", type=int, help="half of them answerable; default: all")
    parser.add_argument("--seed", type=int, default=0, help="which questions")
    parser.add_argument("--documents", type=int, help="all relevant ones and others up to so many")
    parser.add_argument("--judge-url", default=os.environ.get("RAG_JUDGE_URL"), help=_JUDGE)
    parser.add_argument("--judge-model", default=os.environ.get("RAG_JUDGE_MODEL"))
    parser.add_argument("--out", type=Path, default=HOME, help="where the experiment is kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the collection is kept")
    return parser.parse_args()


_JUDGE = f"openai+https://host/v1 of a model that grades; its key in {JUDGE_KEY}"

if __name__ == "__main__":
    from services.cli import told

    told(main)
