"""How to search a collection: python -m eval.tune FOLDER, or rag eval tune COLLECTION FOLDER

Chooses fusion, the weight of the dense list, how many candidates are reranked and how much the
reranker's score counts, within a latency budget, on one half of the questions; then how much
context answers need, and when to abstain. What is chosen is only taken when the other half shows
that it is not worse than the present settings, nor than no reranking. See `eval.choose`.
"""

import argparse
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.agreement import LEAST_TAU, trustworthy
from eval.answering import BUDGETS, Answering, Budget, Threshold, choose_budget, fit_threshold
from eval.choose import DEPTHS, SIGNIFICANT, Gate, choose, distinct, gate, grid, named, tuning_half
from eval.collection import CACHE, Shelved, check_judged, indexed
from eval.contexts import span_recall
from eval.datasets import Dataset, load_dataset, load_judgements
from eval.experiments import HOME, Experiment, begin
from eval.measures import parse_measures
from eval.pool import LIMIT, Pool, Searchable
from eval.review import MADE, REVIEW, about_made
from eval.statistics import Interval, Values, detectable, interval
from eval.sweep import ms_of, scored, time_questions, values_of
from eval.systems import System
from eval.vectors import open_embedder
from rag.choices import Choices, choices
from rag.embed import load_embedder
from rag.errors import InvalidInput
from rag.orchestrator import Orchestrator
from rag.parts import engines_of
from rag.rerank import LateInteractionReranker, Reranker
from rag.settings import PROFILES, Settings, load_settings

MEASURE = "nDCG@10"
LEAST_EVER = 20  # questions: halves by hash of fewer may be next to nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """What tuning is held to.

    `margin` is what the chosen system may be worse by, on the held-out half, at the one-sided 95 %
    bound: 0.01 of nDCG@10 is what one question in 37 loses when its answer moves from the first
    place to the second (1 - 1 / log2 3 = 0.37). With `least` 100 questions a half is 50; paired
    differences of late interaction to no reranking had standard deviations of 0.05 to 0.1, so that
    a gain of 0.025 is proven four times in five ((1.645 + 0.842) * 0.1 / sqrt(50) - 0.01), which is
    about what reranking gives where it helps. Fewer questions could hardly prove anything.
    `timed` questions are asked one by one of models that have read nothing, to time a search.
    """

    budget_ms: float = 300.0
    percentile: float = 95.0
    margin: float = 0.01
    least: int = 100
    seed: int = 0
    timed: int = 60


AGREED = Terms()  # unless told otherwise


@dataclass(frozen=True, slots=True)
class Swept:
    """Every system on every question: `values` (systems, questions), `tuning` (questions,)."""

    systems: Sequence[System]
    questions: Sequence[str]
    values: NDArray[np.float64]
    tuning: NDArray[np.bool_]
    ms: Sequence[float]

    def row(self, title: str, at: int, seed: int) -> "Row":
        """One of them, to be shown."""
        mine, others = self.values[at][self.tuning], self.values[at][~self.tuning]
        halves = interval(mine, seed=seed), interval(others, seed=seed)
        return Row(title, self.systems[at], *halves, self.ms[at])

    def held_out(self, at: int) -> Values:
        """Its values on the half that it was not chosen on."""
        found: Values = self.values[at][~self.tuning]
        return found


@dataclass(frozen=True, slots=True)
class Row:
    """A system on both halves, and milliseconds of a question."""

    title: str
    system: System
    tuning: Interval
    held_out: Interval
    ms: float


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it. `settings` are those to write, none where a gate did not pass.

    `p` is that of reranking being no better than going without; `detectable` the difference to
    the present settings that the held-out half would find.
    """

    experiment: Experiment
    rows: Sequence[Row]
    gates: Sequence[Gate]
    chosen: System
    p: float
    detectable: float
    settings: Mapping[str, Any]
    budget: Budget | None = None
    threshold: Threshold | None = None
    note: str = ""  # that a reader has to know

    @property
    def passed(self) -> bool:
        """Whether what was chosen may be taken."""
        worse = self.budget is not None and self.budget.worse
        return all(gate.passed for gate in self.gates) and not worse


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dataset = load_dataset(options.folder, options.qrels)
    check_trustworthy(options.folder)
    embedder = open_embedder(options.model)
    late_interaction = LateInteractionReranker(embedder)
    # The other one computes the vectors of a text once, whatever it is timed for.
    plain = load_embedder(options.model, engines=engines_of(load_settings()))
    answering = Answering(
        options.model, late_interaction, lambda text: embedder.count_tokens([text])[0]
    )
    with indexed(dataset, embedder, late_interaction, cache=options.cache) as collection:
        tuned = tune(
            _first(dataset, options.questions),
            collection,
            defaults(late_interaction),
            _terms(options),
            answering=answering,
            timed=replace(collection, embedder=plain, reranker=LateInteractionReranker(plain)),
            home=options.out,
        )
    show(Console(highlight=False), tuned, dataset.name)


def tune(
    judged: Dataset,
    source: Searchable,
    present: Choices,
    terms: Terms,
    *,
    answering: Answering | None = None,
    timed: Searchable | None = None,
    home: Path = HOME,
    progress: bool = True,
) -> Tuned:
    """Choose, prove, and keep it all as an experiment. Writes no settings.

    `present` is how the collection is searched now; `timed` is asked to time a question where
    `source` remembers more than a collection in use would. Raises InvalidInput for too few
    questions and for a budget that not even a search without reranking keeps.
    """
    judged = distinct(judged)
    check_enough(judged, terms.least)
    fixed = System("fixed defaults", defaults(source.reranker))
    now = System("present settings", _resolved(present, source.reranker))
    experiment = begin("tune", judged.name, _made_from(judged, source, now, terms), home)
    timings = _timings(judged, timed or source, terms, home, progress)
    offered = affordable(timings, source.reranker, terms)
    pool, swept = _sweep(judged, source, [*offered, fixed, now], timings, terms, home, progress)
    at_fixed, at_now = len(offered), len(offered) + 1
    on_tuning = swept.values[:at_fixed, swept.tuning]
    choice = choose(offered, on_tuning, fixed.choices, seed=terms.seed)
    found = swept.held_out(choice.chosen)
    gates = [
        gate(title, found, swept.held_out(at), terms.margin, seed=terms.seed)
        for title, at in (("the present settings", at_now), ("no reranking", choice.plain))
    ]
    titled = {
        fixed.name: at_fixed,
        now.name: at_now,
        "no reranking": choice.plain,
        "chosen": choice.chosen,
    }
    _keep(experiment, swept, titled)
    tuned = Tuned(
        experiment,
        [swept.row(title, at, terms.seed) for title, at in titled.items()],
        gates,
        offered[choice.chosen],
        choice.p,
        detectable(found - swept.held_out(at_now)),
        {},
    )
    if tuned.passed:
        tuned = _with_answering(tuned, judged, source, pool, answering, now, terms, progress)
    experiment.note(**_as_dict(tuned))
    return tuned


def tune_collection(
    rag: Orchestrator,
    name: str,
    folder: Path,
    terms: Terms,
    *,
    qrels: str = "test",
    home: Path = HOME,
    progress: bool = True,
) -> Tuned:
    """The same for a collection in Ragstone and a folder of judged questions. Writes nothing."""
    check_trustworthy(folder)
    judged = load_judgements(folder, qrels)
    check_enough(distinct(judged), terms.least)
    found = rag.parts.catalog.collection(rag.scope, name)
    note = check_judged(rag, name, judged)
    tuned = tune(
        judged,
        Shelved(rag, name),
        choices(found, rag.parts.settings),
        terms,
        answering=answering_of(rag, name),
        home=home,
        progress=progress,
    )
    return replace(tuned, note=note)


def _timings(judged: Dataset, timed: Searchable, terms: Terms, home: Path, progress: bool) -> Pool:
    """A sample of the questions, timed by themselves: `ranking` costs next to nothing."""
    made_from = {"source": timed.fingerprint(), "seed": terms.seed, "timed": terms.timed}
    pool = _pool("timing", made_from, judged, home)
    return time_questions(pool, timed, _asked(judged), terms.timed, seed=terms.seed, show=progress)


def _sweep(
    judged: Dataset,
    source: Searchable,
    systems: Sequence[System],
    timings: Pool,
    terms: Terms,
    home: Path,
    progress: bool,
) -> tuple[Pool, Swept]:
    asked = _asked(judged)
    made_from = {"source": source.fingerprint(), "scored": scored(systems), "limit": LIMIT}
    pool = _pool("pool", made_from, judged, home)
    pool.fill(source, asked, systems, show=progress)
    seen = track(pool, "ranking", total=len(asked), disable=not progress)
    (measure,) = parse_measures([MEASURE])
    questions, values = values_of(seen, systems, judged.qrels, measure)
    mine = tuning_half(asked, terms.seed)
    tuning = np.array([query in mine for query in questions])
    return pool, Swept(
        systems, questions, values, tuning, ms_of(timings, systems, terms.percentile)
    )


def _pool(kind: str, made_from: Mapping[str, Any], judged: Dataset, home: Path) -> Pool:
    """Kept beside the experiments: other budgets and seeds ask the models nothing again."""
    text = json.dumps([judged.fingerprint(), made_from], sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Pool(home / "pools" / f"{kind}-{key}.jsonl")


def _asked(judged: Dataset) -> dict[str, str]:
    return {query: judged.queries[query] for query in judged.judged}


def _made_from(judged: Dataset, source: Searchable, now: System, terms: Terms) -> dict[str, Any]:
    return {
        "dataset": judged.fingerprint(),
        "questions": len(judged.qrels),
        "source": source.fingerprint(),
        "present": now.as_dict(),
        "terms": asdict(terms),
        "measure": MEASURE,
        "limit": LIMIT,
    }


def defaults(reranker: Reranker | None) -> Choices:
    """What a collection is searched by when nothing was ever set."""
    shipped = {name: Settings.model_fields[name].default for name in _CONFIGURED}
    return _resolved(Choices(**shipped), reranker)


_CONFIGURED = ("fusion", "rerank_limit", "context_tokens")


def _resolved(made: Choices, reranker: Reranker | None) -> Choices:
    """The same with the reranker's own blend where there is none; no depth without a reranker."""
    if reranker is None:
        return replace(made, rerank_limit=0)
    blend = reranker.blend if made.rerank_blend is None else made.rerank_blend
    return replace(made, rerank_blend=blend)


def check_enough(judged: Dataset, least: int) -> None:
    """Raise InvalidInput for a set that could prove nothing."""
    if least < LEAST_EVER:
        raise InvalidInput(
            f"Tuning on fewer than {LEAST_EVER} questions is chance: --least {least}."
        )
    if len(judged.qrels) < least:
        raise InvalidInput(
            f"{judged.name} has {len(judged.qrels)} different questions, tuning needs {least}:"
            " on fewer it would choose by luck.",
            hint="Add questions, or lower --least and look at what the set can detect.",
        )


def check_trustworthy(folder: Path) -> None:
    """Raise InvalidInput for a set made by a machine that does not order systems as people do.

    made.json says so in `tau`, Kendall's with the order by real questions. A set of a collection
    without real questions has a `self_check` in its place, whose `tau` is that of its own parts.
    """
    path = folder / MADE
    if not path.exists():
        return
    try:
        about = about_made(folder)
        tau = float(about["tau"] if "tau" in about else about["self_check"]["tau"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{path} does not say in `tau` how far the set can be trusted.",
            hint=f"rag eval make COLLECTION --reviewed {folder / REVIEW} --check finds it out."
            f" Remove {MADE} where people wrote the questions.",
        ) from error
    if not trustworthy(tau):
        raise InvalidInput(
            f"{folder} was made by a machine and is not to be trusted to choose by: its order of"
            f" systems has a tau of {tau:.2f} only, tuning needs {LEAST_TAU}.",
            hint="Tune on questions that people asked.",
        )


def affordable(timings: Pool, reranker: Reranker | None, terms: Terms) -> list[System]:
    """The systems that keep the budget. Raises InvalidInput when there are none."""
    depths = (0, *DEPTHS) if reranker is not None else (0,)
    offered = [System(str(depth), Choices("dbsf", rerank_limit=depth)) for depth in depths]
    took = dict(zip(depths, ms_of(timings, offered, terms.percentile), strict=True))
    if took[0] > terms.budget_ms:
        raise InvalidInput(
            f"{terms.percentile:g} of 100 questions take up to {took[0]:.0f} ms without any"
            f" reranking, the budget is {terms.budget_ms:g} ms.",
            hint="Raise --budget-ms.",
        )
    return grid([depth for depth in DEPTHS if took.get(depth, np.inf) <= terms.budget_ms])


def _with_answering(
    tuned: Tuned,
    judged: Dataset,
    source: Searchable,
    pool: Pool,
    answering: Answering | None,
    now: System,
    terms: Terms,
    progress: bool,
) -> Tuned:
    """What is to be written, with the context and the threshold that fit the chosen system."""
    settings = written(tuned.chosen.choices)
    if answering is None:
        return replace(tuned, settings=settings)
    mine = tuning_half(_asked(judged), terms.seed)
    tokens = now.choices.context_tokens
    own = replace(
        tuned.chosen.choices, context_tokens=tokens, least_support=now.choices.least_support
    )
    budget = _budget(own, judged, source, pool, answering, now, terms, progress)
    if budget.worse:
        return replace(tuned, budget=budget)
    if budget.tokens is not None:
        settings["context_tokens"] = budget.tokens
        own = replace(own, context_tokens=budget.tokens)
    threshold = fit_threshold(
        pool, source, answering, replace(tuned.chosen, choices=own), judged, mine,
        seed=terms.seed, show=progress,
    )  # fmt: skip
    if threshold.least_support is not None:
        settings["least_support"] = threshold.least_support
    return replace(tuned, settings=settings, budget=budget, threshold=threshold)


def _budget(
    own: Choices,
    judged: Dataset,
    source: Searchable,
    pool: Pool,
    answering: Answering,
    now: System,
    terms: Terms,
    progress: bool,
) -> Budget:
    if not judged.answers:
        return Budget(None, "the set has no answers.jsonl")
    ways = [System(str(tokens), replace(own, context_tokens=tokens)) for tokens in BUDGETS]
    seen = track(pool, "reading", total=len(judged.qrels), disable=not progress)
    recall = span_recall(seen, source, [*ways, now], judged, answering.count_tokens)
    mine = tuning_half(_asked(judged), terms.seed)
    return choose_budget(recall, BUDGETS, mine, seed=terms.seed)


def written(made: Choices) -> dict[str, Any]:
    """Choices as a collection's settings: those that matter."""
    settings: dict[str, Any] = {"fusion": made.fusion, "rerank_limit": made.rerank_limit}
    if made.fusion == "weighted":
        settings["dense_weight"] = made.dense_weight
    if made.rerank_limit:
        settings["rerank_blend"] = made.rerank_blend
    return settings


def answering_of(rag: Orchestrator, name: str) -> Answering:
    """As a collection is answered from in Ragstone."""
    found = rag.parts.catalog.collection(rag.scope, name)
    return Answering(
        found.pipeline["embedder"]["id"],
        rag.parts.late_interaction_for(found),
        rag.parts.generator_for(found).count_tokens,
    )


def _keep(experiment: Experiment, swept: Swept, titled: Mapping[str, int]) -> None:
    """The whole grid's means on the tuning half; of the compared ones the value per question."""
    lines = [
        json.dumps({
            **swept.systems[at].as_dict(),
            MEASURE: float(swept.values[at][swept.tuning].mean()),
            "ms": swept.ms[at],
        })
        for at in range(len(swept.systems))
    ]  # fmt: skip
    (experiment.folder / "grid.jsonl").write_text("\n".join(lines) + "\n", "utf8")
    values = {title: {MEASURE: swept.values[at]} for title, at in titled.items()}
    experiment.keep_values(values, swept.questions)


def _as_dict(tuned: Tuned) -> dict[str, Any]:
    return {
        "rows": [{**asdict(row), "system": row.system.as_dict()} for row in tuned.rows],
        "gates": [{**asdict(one), "passed": one.passed} for one in tuned.gates],
        "reranking_p": tuned.p,
        "detectable": tuned.detectable,
        "settings": dict(tuned.settings),
        "budget": asdict(tuned.budget) if tuned.budget else None,
        "threshold": tuned.threshold.as_dict() if tuned.threshold else None,
    }


def show(console: Console, tuned: Tuned, title: str) -> None:
    """The compared systems on both halves, the gates, and what would be written."""
    table = Table("", "system", f"{MEASURE}, tuning half", "held-out half", "ms", title=title)
    for row in tuned.rows:
        table.add_row(
            row.title,
            named(row.system.choices),
            str(row.tuning),
            str(row.held_out),
            f"{row.ms:.0f}",
        )
    console.print(table)
    lines = [
        *([f"note: {tuned.note}"] if tuned.note else []),
        _of_reranking(tuned.p),
        *map(str, tuned.gates),
    ]
    if tuned.detectable:  # 0: it is what is there now
        lines.append(f"a difference that the held-out half would find: {tuned.detectable:.3f}")
    if tuned.budget is not None:
        lines.append(f"context: {tuned.budget.why}")
    if tuned.budget is not None and tuned.budget.held_out:
        shares = (f"{tokens}: {share:.3f}" for tokens, share in tuned.budget.held_out.items())
        lines.append(f"  answers in it by tokens, held-out half: {', '.join(shares)}")
        lines.append(f"  with the present settings: {tuned.budget.now:.3f}")
    if tuned.threshold is not None:
        lines.append(f"abstention: {tuned.threshold.why}")
        known = {"fitted": tuned.threshold.fitted, "before": tuned.threshold.before}
        lines += [f"  {when}: {found}" for when, found in known.items() if found]
    lines.append(_verdict(tuned))
    lines.append(f"kept as {tuned.experiment.folder}")
    console.print("\n".join(lines), markup=False, soft_wrap=True)


def _verdict(tuned: Tuned) -> str:
    if tuned.passed:
        return f"settings: {json.dumps(tuned.settings)}"
    why = " and ".join(one.against for one in tuned.gates if not one.passed)
    if not why:
        return "nothing changes: its contexts hold the answers less often than those of now"
    return f"nothing changes: the held-out half does not rule out that it is worse than {why}"


def _first(judged: Dataset, most: int | None) -> Dataset:
    kept = judged.judged[:most]
    return replace(judged, qrels={query: judged.qrels[query] for query in kept})


def _terms(options: argparse.Namespace) -> Terms:
    return Terms(
        options.budget_ms,
        options.percentile,
        options.margin,
        options.least,
        options.seed,
        options.timed,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a test collection in the BEIR layout")
    parser.add_argument("--qrels", default="test", help="which file of qrels/")
    parser.add_argument("--model", default=PROFILES["starter"].embedder, help="the embedder")
    parser.add_argument("--budget-ms", type=float, default=AGREED.budget_ms)
    parser.add_argument("--percentile", type=float, default=AGREED.percentile)
    parser.add_argument("--margin", type=float, default=AGREED.margin)
    parser.add_argument("--least", type=int, default=AGREED.least, help="questions, or refuse")
    parser.add_argument("--seed", type=int, default=0, help="of the halves, and of every draw")
    parser.add_argument("--timed", type=int, default=AGREED.timed, help="questions to time")
    parser.add_argument("--questions", type=int, help="at most so many, the first by id")
    parser.add_argument("--out", type=Path, default=HOME, help="where the experiment is kept")
    parser.add_argument("--cache", type=Path, default=CACHE, help="indexes and vectors")
    return parser.parse_args()


def _of_reranking(p: float) -> str:
    shown = "better" if p <= SIGNIFICANT else "not shown to be better"
    return f"reranking is {shown} than going without: p = {p:.4f}, on the tuning half"


if __name__ == "__main__":
    from services.cli import told

    told(main)
