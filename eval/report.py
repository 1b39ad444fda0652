"""An experiment as one page: python -m eval.report EXPERIMENT [-o FILE], or rag eval report

The file holds everything: no script, nothing is fetched. What came from documents and questions
is escaped; they are other people's text.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from eval.compare import ALPHA, Comparison, compare_sides, meaning, notes_of
from eval.datasets import Dataset
from eval.experiments import HOME, Experiment, find
from eval.report_plots import (
    Point,
    deltas,
    pareto,
    quality_and_latency,
    recall_at_depth,
    risk_and_coverage,
    waterfall,
)
from eval.runs import Run
from eval.sides import open_sides, reopened, repeated, run_kept, system_of
from eval.statistics import Interval, interval
from rag.errors import InvalidInput

DEPTH = 50  # of the recall plot
ROWS = 10  # systems in a plot that has a row or a line for each
LINES = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean with its interval, and whether no system has a higher one."""

    mean: float
    low: float
    high: float
    best: bool


@dataclass(frozen=True, slots=True)
class Row:
    """A system in the table; `ms` and `tokens` are None where they were not measured."""

    number: int
    name: str
    cells: list[Cell]
    ms: float | None
    tokens: float | None
    on_front: bool


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and what it shows. `svg` was drawn here; matplotlib escapes what it writes."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows."""

    title: str
    kind: str
    id: str
    begun: str
    questions: int
    summary: str
    notes: list[str]
    measures: list[str]
    rows: list[Row]
    timed: bool
    plots: list[Plot]
    missing: list[str]
    baseline: str
    best: str
    comparison: Comparison | None
    meaning: list[str]
    made: list[tuple[str, list[tuple[str, str]]]]


def main() -> None:
    options = _options()
    print(write(options.experiment, options.output, options.baseline, options.out))


def write(
    experiment_id: str, output: Path | None = None, baseline: str = "", home: Path = HOME
) -> Path:
    """Write the page; where nothing else is said, into the experiment's folder.

    Raises NotFound, InvalidInput.
    """
    experiment = find(experiment_id, home)
    path = output or experiment.folder / "report.html"
    html = render(gather(experiment, baseline, home))
    try:
        path.write_text(html, "utf8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}.") from error
    return path


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(page=page)


def gather(experiment: Experiment, baseline: str = "", home: Path = HOME) -> Page:
    """Everything that the page shows. `baseline` is a system's name, else the first.

    Raises InvalidInput for an experiment without values per question, NotFound for an unknown
    system.
    """
    experiment.check_values()
    about = experiment.about()
    questions, values = experiment.values()
    names, measures = list(values), list(next(iter(values.values())))
    first = system_of(values, baseline or names[0], experiment.id)
    quality = _quality(about, values)
    best = max(names, key=lambda name: quality[name][measures[0]].mean)
    points = list(_points(about, names, quality, measures[0]))
    comparison = _compared(experiment, first, best, home) if best != first else None
    plots, missing = _plots(experiment, points, comparison, measures[0], (first, best))
    return Page(
        title=str(about["name"]),
        kind=str(about["kind"]),
        id=experiment.id,
        begun=str(about["begun"])[:16].replace("T", " "),
        questions=len(questions),
        summary=_summary(quality, measures[0], first, best, comparison),
        notes=notes_of(comparison) if comparison else [],
        measures=measures,
        rows=list(_rows(about, names, quality, measures, points)),
        timed=bool(points),
        plots=plots,
        missing=missing,
        baseline=first,
        best=best,
        comparison=comparison,
        meaning=[line.replace("B is", f"{best} is") for line in meaning(comparison)]
        if comparison
        else [],
        made=list(_made(about)),
    )


Quality = Mapping[str, Mapping[str, Interval]]


def _quality(
    about: Mapping[str, Any], values: Mapping[str, Mapping[str, NDArray[np.float64]]]
) -> Quality:
    """Intervals as they were kept; computed where an experiment kept values alone."""
    kept = {name: row.get("quality", {}) for name, row in _kept(about).items()}
    return {
        name: {
            measure: Interval(*kept[name][measure])
            if measure in kept.get(name, {})
            else interval(found)
            for measure, found in of.items()
        }
        for name, of in values.items()
    }


def _kept(about: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows by what their values are called: tuning gives its systems titles."""
    return {str(row.get("title", row.get("system"))): row for row in about.get("rows", [])}


def _points(
    about: Mapping[str, Any], names: Sequence[str], quality: Quality, measure: str
) -> Iterator[Point]:
    """The systems whose time was measured, numbered as the table numbers them."""
    kept = _kept(about)
    for number, name in enumerate(names, start=1):
        row, found = kept.get(name, {}), quality[name][measure]
        if "ms" in row:
            stages = row.get("stages_ms", {})
            yield Point(number, name, found.mean, found.low, found.high, row["ms"], stages)


def _rows(
    about: Mapping[str, Any],
    names: Sequence[str],
    quality: Quality,
    measures: Sequence[str],
    points: Sequence[Point],
) -> Iterator[Row]:
    kept = _kept(about)
    front = {points[at].name for at in pareto([(point.ms, point.mean) for point in points])}
    highest = {m: max(quality[name][m].mean for name in names) for m in measures}
    for number, name in enumerate(names, start=1):
        found = [quality[name][measure] for measure in measures]
        cells = [
            Cell(one.mean, one.low, one.high, one.mean == highest[measure])
            for measure, one in zip(measures, found, strict=True)
        ]
        row = kept.get(name, {})
        yield Row(number, name, cells, row.get("ms"), row.get("tokens"), name in front)


def _compared(experiment: Experiment, baseline: str, best: str, home: Path) -> Comparison:
    folder = str(experiment.folder)
    sides = open_sides(f"{folder}:{baseline}", f"{folder}:{best}", home=home)
    return compare_sides(*sides, distinct=repeated(sides[0]) > 0)


def _summary(
    quality: Quality, measure: str, baseline: str, best: str, found: Comparison | None
) -> str:
    at = quality[best][measure]
    text = f"Best by {measure}: {best}, {at.mean:.3f} ({at.low:.3f} to {at.high:.3f})."
    if found is None:
        return f"{text} It is the baseline." if len(quality) > 1 else text
    one, p = found.differences[0], found.adjusted[0]
    against = f"{baseline} by distinct text" if len(found.a.questions) > found.counted else baseline
    sure = "more than chance" if p < ALPHA else "which may be chance"
    return (
        f"{text} Against {against} that is {one.interval.mean:+.3f}"
        f" ({one.interval.low:+.3f} to {one.interval.high:+.3f}), {sure} (p = {p:.4f})."
    )


def _plots(
    experiment: Experiment,
    points: list[Point],
    found: Comparison | None,
    measure: str,
    wanted: tuple[str, str],
) -> tuple[list[Plot], list[str]]:
    """(what can be drawn, a sentence for each plot that cannot)."""
    plots, missing = [], []
    if points:
        plots.append(Plot(
            "Quality against latency",
            "Numbers are those of the table; lines are 95 % intervals; up and left is better.",
            Markup(quality_and_latency(points, measure)),
        ))  # fmt: skip
    else:
        missing.append("No time was measured, so there is no plot of quality against latency.")
    chosen = _chosen(points, wanted)
    dataset, why = reopened(experiment)
    if dataset is None:
        missing.append(f"No plot of recall by depth: {why}.")
    elif lines := _recall(experiment, dataset, chosen or list(dict.fromkeys(wanted))):
        plots.append(Plot(
            "Recall by depth",
            "Share of the relevant documents among the first of the ranking.",
            Markup(recall_at_depth(lines)),
        ))  # fmt: skip
    else:
        missing.append("No plot of recall by depth: no rankings were kept.")
    if found is not None:
        change = found.b.of(measure) - found.a.of(measure)
        won, lost = int((change > 0).sum()), int((change < 0).sum())
        tied = len(change) - won - lost
        caption = f"{wanted[1]} against {wanted[0]}: {won} won, {lost} lost, {tied} tied."
        plots.append(Plot("Question by question", caption, Markup(deltas(change, measure))))
    if rows := [point for point in points if point.stages]:
        shown = [point for point in rows if point.name in _chosen(rows, wanted, ROWS)]
        plots.append(
            Plot("Where the time goes", _left_out(len(shown), len(rows)), Markup(waterfall(shown)))
        )
    if curve := experiment.about().get("risk_coverage"):
        caption = "How often an answer is wrong when only the surest are given."
        plots.append(Plot("Risk by coverage", caption, Markup(risk_and_coverage(curve))))
    return plots, missing


def _chosen(points: Sequence[Point], wanted: Sequence[str], most: int = LINES) -> list[str]:
    """Names for a plot that has no room for hundreds: baseline, best, the front, then the rest."""
    front = [points[at].name for at in pareto([(point.ms, point.mean) for point in points])]
    order = dict.fromkeys([*wanted, *reversed(front), *(point.name for point in points)])
    return list(order)[:most]


def _left_out(shown: int, there: int) -> str:
    stages = "One stage after another, on average over the questions."
    if shown == there:
        return stages
    return f"{stages} {shown} of {there} systems: baseline, best, those that none beats, the first."


def _recall(
    experiment: Experiment, dataset: Dataset, names: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    runs = {name: run_kept(experiment, name) for name in names}
    return {
        name: recall_by_depth(run, dataset, DEPTH) for name, run in runs.items() if run is not None
    }


def recall_by_depth(run: Run, dataset: Dataset, depth: int) -> NDArray[np.float64]:
    """Mean recall among the first 1, 2, ... `depth` documents, float64 (depth,)."""
    total, counted = np.zeros(depth), 0
    for query in dataset.qrels:
        relevant = set(dataset.relevant(query))
        if not relevant:
            continue
        counted += 1
        hits = np.array([document in relevant for document in run.ordered(query)[:depth]])
        total[: len(hits)] += np.cumsum(hits) / len(relevant)
        total[len(hits) :] += hits.sum() / len(relevant)
    return total / max(counted, 1)


def _made(about: Mapping[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """What it was made from, in sections of (name, value)."""
    made_from = dict(about["made_from"])
    systems = made_from.pop("systems", [])
    dataset = {"opened from": about["dataset"]} if about.get("dataset") else {}
    yield "Inputs and fingerprints", list(_flat(made_from | dataset))
    if systems:
        yield "Settings of the systems", [(str(s.get("name")), _settings(s)) for s in systems]
    yield "Versions", list(_flat(about["versions"]))
    yield "Machine", list(_flat(about["machine"]))


def _settings(system: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in system.items() if key != "name")


def _flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name} ")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{above}{name}".replace("_", " "), told


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", help="its id, or the beginning of it")
    parser.add_argument("-o", "--output", type=Path, help="the file; else in its folder")
    parser.add_argument("--baseline", default="", help="a system; the first unless given")
    parser.add_argument("--out", type=Path, default=HOME, help="where experiments are kept")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
