"""Does a gate catch what it should, and let pass what it should? python -m eval.gate_power A B

A and B are sides of a comparison that differ and are equally good, as one embedder in f32 and in
bf16. Three things are put to the gate, each under every seed:

  equal      B as it is
  worse      B after a loss of --points was planted
  noisy      --other after the same: another system, whose rankings differ everywhere

A loss is planted in a run, not in its values. Questions are taken in random order, and in each the
relevant document that is ranked best is moved behind rank 10, all others moving up, until the mean
over all questions is --points below A's. So a few questions lose a lot, as when a model forgets a
subject, and what the gate reads is what ir-measures makes of rankings. `noisy` loses as much as
puts it --points below A, whatever its own mean: wins and losses are then mixed, the hard case.

A seed also draws the questions: as many as there are, with replacement, the same ones for both
sides. That is another set of such questions, of which the gate has to judge. With --distinct it
draws texts of questions, as questions of one text move together. Beside the counts
stands what theory says: the chance to pass, by the spread of the differences over all questions.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ir_measures import Measure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.datasets import open_judgements
from eval.experiments import HOME
from eval.gates import Gate, chance_to_pass, judge, parse_gate
from eval.measures import Qrels, parse_measures, per_question
from eval.runs import Run, by_rank
from eval.sides import Side, open_sides, per_text, texts_of
from eval.statistics import LEVEL, POWER, Values
from rag.errors import InvalidInput

CUTOFF = 10  # a document is moved behind this rank


@dataclass(frozen=True, slots=True)
class Trial:
    """What was put to the gate under each seed, and how often it should pass and did."""

    name: str
    differences: list[float]  # B - A over all questions, by seed
    chance: float
    passed: int
    seeds: int


def main() -> None:
    options = _options()
    trials = list(_run(options))
    show(Console(highlight=False), trials, parse_gate(options.gate))


def _run(options: argparse.Namespace) -> Iterator[Trial]:
    gate = parse_gate(options.gate)
    (measure,) = parse_measures([gate.measure])
    dataset = open_judgements(options.dataset, options.qrels) if options.dataset else None
    a, b = open_sides(options.a, options.b, dataset, options.out)
    of_a = a.of(str(measure))
    texts = texts_of(a) if options.distinct else a.questions
    yield trial("equal", gate, of_a, [b.of(str(measure))] * options.seeds, texts)
    others = {"worse": b}
    if options.other:
        others["noisy"] = open_sides(options.a, options.other, dataset, options.out)[1]
    for name, side in others.items():
        seeds = track(range(options.seeds), f"planting: {name}")
        target = float(of_a.mean()) - options.points / 100
        planted = [planted_values(side, measure, target, seed) for seed in seeds]
        yield trial(name, gate, of_a, planted, texts)


def trial(
    name: str, gate: Gate, questions: Values, planted: Sequence[Values], texts: Sequence[str]
) -> Trial:
    """The gate on a set of texts of its own for each seed; each text counts once."""
    a, changed = per_text(questions, texts), [per_text(values, texts) for values in planted]
    passed = 0
    for seed, b in enumerate(changed):
        drawn = np.random.default_rng(seed).integers(0, len(a), len(a))
        passed += judge(gate, a[drawn], b[drawn], seed=seed).passed
    margin = gate.absolute(float(a.mean()))
    chances = [chance_to_pass(b - a, margin) for b in changed]
    apart = [float((b - a).mean()) for b in changed]
    return Trial(name, apart, float(np.mean(chances)), passed, len(planted))


def planted_values(side: Side, measure: Measure, target: float, seed: int) -> Values:
    """The side's values after its run lost as many relevant documents as lower its mean to target.

    Raises InvalidInput where run or judgements are missing, or there is not that much to lose.
    """
    if side.run is None or side.dataset is None:
        raise InvalidInput(f"{side.name} has no run or no dataset at hand: nothing can be planted.")
    qrels = side.dataset.qrels
    run = planted(side.run, qrels, measure, target, seed)
    return per_question(qrels, run, [measure])[str(measure)]


def planted(run: Run, qrels: Qrels, measure: Measure, target: float, seed: int) -> Run:
    """The run with the best relevant document demoted, in as few questions as the loss takes.

    The mean ends within one question's share of the target. Raises InvalidInput.
    """
    demoted = Run(run.name, {query: demote(run, query, qrels[query]) for query in sorted(qrels)})
    before, after = (per_question(qrels, one, [measure])[str(measure)] for one in (run, demoted))
    order = np.random.default_rng(seed).permutation(len(before))
    losses = np.cumsum((before - after)[order]) / len(before)
    wanted = float(before.mean()) - target
    if wanted < 0 or wanted > losses[-1]:
        raise InvalidInput(
            f"{run.name} has a mean of {before.mean():.4f} and cannot be lowered to {target:.4f}.",
            hint="Take fewer --points, or another system.",
        )
    taken = {sorted(qrels)[at] for at in order[: int(np.searchsorted(losses, wanted))]}
    rankings = {
        query: (demoted if query in taken else run).rankings.get(query, {}) for query in qrels
    }
    return Run(run.name, rankings)


def demote(run: Run, query: str, judged: Mapping[str, int]) -> dict[str, float]:
    """The question's ranking with its first relevant document moved behind rank `CUTOFF`."""
    ranked = run.ordered(query)
    relevant = [document for document in ranked if judged.get(document, 0) > 0]
    if not relevant or ranked.index(relevant[0]) >= CUTOFF:
        return by_rank(ranked)
    ranked.remove(relevant[0])
    ranked.insert(CUTOFF, relevant[0])
    return by_rank(ranked)


def show(console: Console, trials: Sequence[Trial], gate: Gate) -> None:
    """How often each passed, beside how often it should."""
    table = Table("", "B - A", "passed", "theory", title=f"gate {gate}", title_justify="left")
    for one in trials:
        apart = f"{np.mean(one.differences):+.4f}"
        table.add_row(one.name, apart, f"{one.passed} of {one.seeds}", f"{one.chance:.1%}")
    console.print(table)
    console.print(
        f"A side at the margin itself passes about {1 - LEVEL:.0%} of times: that is the gate's"
        f" level. `detects` of a comparison is stated for a power of {POWER:.0%}."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="a side of a comparison")
    parser.add_argument("b", help="one that differs and is as good")
    parser.add_argument("--other", help="a third, which ranks otherwise")
    parser.add_argument("--gate", default="ndcg@10 >= -0.5%")
    parser.add_argument("--points", type=float, default=2, help="of the measure, in percent")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dataset", help="for sides that are run files")
    parser.add_argument("--qrels", default="test")
    parser.add_argument(
        "--distinct", action="store_true", help="count questions of the same text once"
    )
    parser.add_argument("--out", type=Path, default=HOME, help="where experiments are kept")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
