"""Is B better than A, and how sure is that? python -m eval.compare A B, or rag eval compare A B

A side is an experiment's id, with the system where it has several ("retrieval-docs-1a2b3c4d:bm25"),
or a TREC run file, which is measured on --dataset. Exits with 1 when a --gate is not passed.

    python -m eval.compare "retrieval-docs-1a2b3c4d:hybrid dbsf" other.trec --gate "ndcg@10 >= -1%"
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.datasets import Dataset, open_judgements
from eval.experiments import HOME
from eval.gates import Gate, Verdict, judge, parse_gate
from eval.sides import (
    Side,
    full_name,
    one_line,
    open_sides,
    per_text,
    repeated,
    shared_measures,
    texts_of,
)
from eval.statistics import POWER, Difference, holm
from eval.statistics import compare as compared

QUESTIONS = 3  # that won and lost most, of each
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side made of a question: what it ranked first, and the relevant document where."""

    value: float
    first: str = ""
    first_text: str = ""
    rank: int | None = None  # of the relevant document, from 1; None: it was not found


@dataclass(frozen=True, slots=True)
class Moved:
    """A question that B won or lost. Texts are "" where the dataset is not at hand."""

    query: str
    question: str
    a: Seen
    b: Seen
    relevant: str = ""
    relevant_text: str = ""

    @property
    def change(self) -> float:
        """B minus A."""
        return self.b.value - self.a.value


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A. `adjusted` are the p-values of `differences` after Holm, in their order.

    `moved` are the questions that changed most by the first measure, wins first.
    """

    a: Side
    b: Side
    differences: list[Difference]
    adjusted: list[float]
    verdicts: list[Verdict]
    moved: list[Moved]
    counted: int  # questions, or texts of questions

    @property
    def passed(self) -> bool:
        """Whether every gate is."""
        return all(verdict.passed for verdict in self.verdicts)


def main() -> None:
    options = _options()
    gates = [parse_gate(text) for text in options.gate]
    dataset = open_judgements(options.dataset, options.qrels) if options.dataset else None
    a, b = open_sides(options.a, options.b, dataset, options.out)
    found = compare_sides(
        a,
        b,
        options.measure,
        gates,
        options.questions,
        distinct=options.distinct,
        seed=options.seed,
    )
    show(Console(highlight=False), found)
    sys.exit(0 if found.passed else 1)


def compare_sides(
    a: Side,
    b: Side,
    measures: Sequence[str] = (),
    gates: Sequence[Gate] = (),
    questions: int = QUESTIONS,
    *,
    distinct: bool = False,
    seed: int = 0,
) -> Comparison:
    """Compare what `open_sides` gave. Raises InvalidInput for a measure that cannot be had.

    The measures are those given, else those that both sides have, and those of the gates. Tests
    are adjusted for all of them. With `distinct`, questions of the same text count once, by their
    mean.
    """
    known = [*a.values, *b.values]
    wanted = [full_name(name, known) for name in measures or shared_measures(a, b)]
    names = list(dict.fromkeys([*wanted, *(full_name(gate.measure, known) for gate in gates)]))
    places = {query: at for at, query in enumerate(b.questions)}
    order = [places[query] for query in a.questions]
    pairs = {name: (a.of(name), b.of(name)[order]) for name in names}
    texts = texts_of(a)
    tested = {
        name: (per_text(of_a, texts), per_text(of_b, texts)) if distinct else (of_a, of_b)
        for name, (of_a, of_b) in pairs.items()
    }
    differences = [compared(name, *pair, seed=seed) for name, pair in tested.items()]
    verdicts = [judge(gate, *tested[full_name(gate.measure, known)], seed=seed) for gate in gates]
    return Comparison(
        a,
        b,
        differences,
        holm([one.p for one in differences]),
        verdicts,
        most_moved(a, b, *pairs[names[0]], questions),
        len(set(texts)) if distinct else len(texts),
    )


def most_moved(
    a: Side, b: Side, of_a: NDArray[np.float64], of_b: NDArray[np.float64], count: int
) -> list[Moved]:
    """The `count` questions that B won by most, then the `count` that it lost by most."""
    change = of_b - of_a
    order = np.argsort(-change, kind="stable")
    won = [at for at in order[:count] if change[at] > 0]
    lost = [at for at in order[::-1][:count] if change[at] < 0]
    return [_moved(a, b, a.questions[at], of_a[at], of_b[at]) for at in (*won, *lost)]


def _moved(a: Side, b: Side, query: str, of_a: float, of_b: float) -> Moved:
    dataset = a.dataset or b.dataset
    question = one_line(dataset.queries.get(query, "")) if dataset else ""
    rankings = [side.run.ordered(query) if side.run else [] for side in (a, b)]
    relevant = _relevant(dataset, query, rankings[int(of_b > of_a)])
    seen = [
        Seen(
            float(value),
            ranking[0] if ranking else "",
            side.beginning(ranking[0]) if ranking else "",
            ranking.index(relevant) + 1 if relevant in ranking else None,
        )
        for side, value, ranking in zip((a, b), (of_a, of_b), rankings, strict=True)
    ]
    text = a.beginning(relevant) or b.beginning(relevant)
    return Moved(query, question, seen[0], seen[1], relevant, text)


def _relevant(dataset: Dataset | None, query: str, winner: Sequence[str]) -> str:
    """The relevant document that the side that won ranked best; else any of the most relevant."""
    judged = dict(dataset.qrels.get(query, {})) if dataset else {}
    relevant = dataset.relevant(query) if dataset else ()
    found = [document for document in winner if document in relevant]
    return found[0] if found else max(relevant, key=lambda d: judged[d], default="")


def show(console: Console, found: Comparison) -> None:
    """The table, what it means, the gates, and the questions that changed most."""
    a, b = found.a, found.b
    console.print(f"A: {escape(a.name)}\nB: {escape(b.name)}", soft_wrap=True)
    console.print(f"{len(a.questions):,} questions, {found.counted:,} of them counted")
    for note in notes_of(found):
        console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
    console.print(_table(found))
    for line in meaning(found):
        console.print(escape(line), soft_wrap=True)
    for verdict in found.verdicts:
        style = "green" if verdict.passed else "red"
        console.print(f"[{style}]gate[/] {escape(str(verdict))}", soft_wrap=True)
    _show_moved(console, found)


def notes_of(found: Comparison) -> list[str]:
    """What a reader has to know about the sides."""
    again = repeated(found.a)
    notes = [*dict.fromkeys([*found.a.notes, *found.b.notes])]
    if again and found.counted == len(found.a.questions):
        notes.append(
            f"{again:,} of {found.counted:,} questions repeat the text of another. They are no"
            " independent evidence: intervals are too narrow. Use --distinct to count texts."
        )
    return notes


def meaning(found: Comparison) -> list[str]:
    """What may be said, in words: only what the adjusted tests show."""
    shown = [
        f"{one.measure} {'better' if one.b > one.a else 'worse'}"
        for one, p in zip(found.differences, found.adjusted, strict=True)
        if p < ALPHA
    ]
    unsure = [
        f"{one.measure} ({one.detectable:.4f})"
        for one, p in zip(found.differences, found.adjusted, strict=True)
        if p >= ALPHA and one.wins + one.losses
    ]
    tied = [one.measure for one in found.differences if not one.wins + one.losses]
    lines = [f"B is shown to be different at {ALPHA:.0%}: {', '.join(shown)}."] if shown else []
    if unsure:
        lines.append(
            f"Not shown to be different: {', '.join(unsure)}."
            f" In brackets: the true difference that would be shown, {POWER:.0%} of times."
        )
    if tied:  # without any difference, nothing tells how far differences vary
        lines.append(f"No question differs: {', '.join(tied)}.")
    return lines


def _table(found: Comparison) -> Table:
    table = Table(
        "", "A", "B", "B - A", "95 % interval", "p", "p, Holm", "won/lost/tied", "detects"
    )
    for one, adjusted in zip(found.differences, found.adjusted, strict=True):
        table.add_row(
            one.measure,
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.b - one.a:+.4f}",
            f"{one.interval.low:+.4f} to {one.interval.high:+.4f}",
            f"{one.p:.4f}",
            f"{adjusted:.4f}",
            f"{one.wins}/{one.losses}/{one.ties}",
            f"{one.detectable:.4f}" if one.wins + one.losses else "",
        )
    return table


def _show_moved(console: Console, found: Comparison) -> None:
    measure = found.differences[0].measure
    for title, moved in (
        ("B won most", [one for one in found.moved if one.change > 0]),
        ("B lost most", [one for one in found.moved if one.change < 0]),
    ):
        if moved:
            console.print(f"\n[bold]{title}[/], by {measure}")
        for one in moved:
            for line in described(one):
                console.print(escape(line), soft_wrap=True)


def described(one: Moved) -> list[str]:
    """A question that changed, line by line."""
    lines = [f"{one.change:+.3f}  {_with_text(one.query, one.question)}"]
    for side, seen in (("A", one.a), ("B", one.b)):
        if seen.first == one.relevant and seen.first:
            lines.append(f"        {side} {seen.value:.3f}: the relevant one first")
        elif seen.first:
            where = (
                f"the relevant one at {seen.rank}" if seen.rank else "the relevant one not found"
            )
            first = _with_text(seen.first, seen.first_text)
            lines.append(f"        {side} {seen.value:.3f}: {where}, first {first}")
        else:
            lines.append(f"        {side} {seen.value:.3f}")
    if one.relevant:
        lines.append(f"        relevant {_with_text(one.relevant, one.relevant_text)}")
    return lines


def _with_text(id_: str, text: str) -> str:
    return f"{id_}: {text}" if text else id_


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", help="an experiment's id, ID:SYSTEM, or a TREC run file")
    parser.add_argument("b", help="the same, for what is to take A's place")
    parser.add_argument("--dataset", help="what run files are measured on, in the BEIR layout")
    parser.add_argument("--qrels", default="test", help="which file of its qrels/")
    parser.add_argument("--measure", nargs="+", default=[], help="as nDCG@10; the first ranks wins")
    parser.add_argument(
        "--gate", action="append", default=[], help='as "ndcg@10 >= -0.5%%"; repeatable'
    )
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="won and lost, shown")
    parser.add_argument(
        "--distinct", action="store_true", help="count questions of the same text once"
    )
    parser.add_argument("--out", type=Path, default=HOME, help="where experiments are kept")
    parser.add_argument("--seed", type=int, default=0, help="of every draw")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
