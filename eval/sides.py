"""The sides of a comparison: a system of an experiment, or a TREC run file of whatever made it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.datasets import Dataset, folded, open_judgements
from eval.experiments import HOME, Experiment, find
from eval.measures import STANDARD, parse_measures, per_question
from eval.runs import Run, read_run
from rag.errors import InvalidInput, NotFound, RagError

EXAMPLES = 3  # of what differs, in a message
BEGINNING = 160  # characters of a text that are shown


@dataclass(frozen=True, slots=True)
class Side:
    """Values per question, in the order of `questions`, and the run and dataset they are of.

    `run` is None where none was kept, `dataset` where it cannot be opened again; `notes` say why,
    and whatever else a reader has to know. `made_of` is the dataset's fingerprint.
    """

    name: str
    questions: list[str]
    values: Mapping[str, NDArray[np.float64]]
    run: Run | None = None
    dataset: Dataset | None = None
    made_of: str = ""
    notes: list[str] = field(default_factory=list)

    def of(self, measure: str) -> NDArray[np.float64]:
        """The values of a measure by its full name: those that were kept, else computed now.

        Raises InvalidInput for one that was not kept where run or dataset are not at hand.
        """
        if measure in self.values:
            return self.values[measure]
        (parsed,) = parse_measures([measure])
        if self.run is None or self.dataset is None:
            raise InvalidInput(
                f"{self.name} has no values of {measure}, and no run and dataset to compute them.",
                hint=f"It has: {', '.join(self.values)}.",
            )
        found = per_question(self.dataset.qrels, self.run, [parsed])[str(parsed)]
        rows = {query: row for row, query in enumerate(self.dataset.judged)}
        unjudged = [query for query in self.questions if query not in rows]
        if unjudged:
            raise InvalidInput(f"{self.name}: no judgement of {_counted(unjudged)}: no {measure}.")
        return found[[rows[query] for query in self.questions]]

    def beginning(self, document: str) -> str:
        """The first words of a document, its title before them; "" where it is not at hand."""
        if self.dataset is None or document not in self.dataset.texts:
            return ""
        title = self.dataset.titles.get(document, "")
        return one_line(
            f"{title}: {self.dataset.texts[document]}" if title else self.dataset.texts[document]
        )


def one_line(text: str, chars: int = BEGINNING) -> str:
    """The beginning of a text that anybody may have written, safe for a terminal."""
    visible = "".join(sign if sign.isprintable() else " " for sign in text[: 2 * chars])
    line = " ".join(visible.split())
    return line if len(line) <= chars and len(text) <= 2 * chars else f"{line[:chars].rstrip()}…"


def open_sides(
    a: str, b: str, dataset: Dataset | None = None, home: Path = HOME
) -> tuple[Side, Side]:
    """Both sides of a comparison, over the same questions.

    A run file is measured on `dataset`, or on that of the experiment on the other side. Raises
    InvalidInput where the questions differ, and NotFound.
    """
    opened = {text: _of_experiment(text, home) for text in (a, b) if not Path(text).is_file()}
    known = [side.dataset for side in opened.values() if side.dataset is not None]
    judged = dataset or (known[0] if known else None)
    one, other = (opened.get(text) or _of_run(Path(text), judged) for text in (a, b))
    check_pair(one, other)
    _note_depths(one, other)
    return one, other


def _note_depths(a: Side, b: Side) -> None:
    """Where one ranks more documents than the other, measures of all of them are no fair ones."""
    if a.run is None or b.run is None:
        return
    deepest = [max(map(len, side.run.rankings.values()), default=0) for side in (a, b) if side.run]
    if deepest[0] != deepest[1]:
        a.notes.append(
            f"A ranks at most {deepest[0]} documents of a question, B {deepest[1]}: measures that"
            " look further than the fewer of the two favour the other."
        )


def repeated(side: Side) -> int:
    """How many questions ask what another one of lower id asks, word for word."""
    return len(side.questions) - len(set(texts_of(side)))


def texts_of(side: Side) -> list[str]:
    """What each question asks, folded; the id where its text is not at hand."""
    queries = side.dataset.queries if side.dataset is not None else {}
    return [folded(queries.get(query, query)) for query in side.questions]


def per_text(values: NDArray[np.float64], texts: Sequence[str]) -> NDArray[np.float64]:
    """The mean of the values of each distinct text, float64 (texts,), in order of appearance.

    Tests take questions to be independent; those of one text move together.
    """
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    rows = np.array([numbers[text] for text in texts])
    sums: NDArray[np.float64] = np.bincount(rows, weights=values)
    return sums / np.bincount(rows)


def full_name(measure: str, known: Iterable[str]) -> str:
    """As the sides call it, whatever its case; else as ir-measures does. Raises InvalidInput."""
    names = {name.casefold(): name for name in known}
    return names.get(measure.strip().casefold()) or str(parse_measures([measure])[0])


def shared_measures(a: Side, b: Side) -> list[str]:
    """What both have values of; the standard ones where neither side names any."""
    if not a.values and not b.values:
        return list(STANDARD)
    if not a.values or not b.values:
        return list(a.values or b.values)
    shared = [measure for measure in a.values if measure in b.values]
    if not shared:
        raise InvalidInput(
            f"{a.name} and {b.name} have no measure in common.", hint="Name some with --measure."
        )
    return shared


def reopened(experiment: Experiment) -> tuple[Dataset | None, str]:
    """(the experiment's dataset, "") or (None, why it is not at hand)."""
    about = experiment.about()
    opened = about.get("dataset") or {}
    if "where" not in opened:
        return None, f"{experiment.id} does not say where its dataset is"
    try:
        found = open_judgements(opened["where"], opened.get("qrels", "test"))
    except RagError as error:
        return None, f"the dataset of {experiment.id} cannot be opened: {error.message}"
    if found.fingerprint() != about["made_from"]["dataset"]:
        return None, f"{opened['where']} has changed since {experiment.id} was made"
    return found, ""


def system_of(names: Iterable[str], wanted: str, experiment: str) -> str:
    """The system that is meant: the only one where none is named. Raises InvalidInput, NotFound."""
    there = list(names)
    listed = f"It has: {', '.join(there)}."
    if not wanted and len(there) == 1:
        return there[0]
    if not wanted:
        raise InvalidInput(
            f"{experiment} has {len(there)} systems.",
            hint=f'Pick one: "{experiment}:{there[0]}". {listed}',
        )
    if wanted not in there:
        raise NotFound(f"{experiment} has no system {wanted!r}.", hint=listed)
    return wanted


def check_pair(a: Side, b: Side) -> None:
    """Raise InvalidInput for sides that are not over the same questions, judged alike."""
    if set(a.questions) != set(b.questions):
        raise InvalidInput(
            f"The sides are over different questions:"
            f" {_only(a, b)} in A ({a.name}), {_only(b, a)} in B ({b.name}).",
            hint="Measure both with the same dataset and the same --qrels.",
        )
    if a.made_of == b.made_of:
        return
    if a.dataset is None or b.dataset is None:
        a.notes.append(
            "A and B were made of different datasets, which are not both at hand: questions of the"
            " same id are taken for the same."
        )
        return
    _check_datasets(a.dataset, b.dataset)
    a.notes.append("A and B were asked of different collections; questions and judgements agree.")


def _check_datasets(a: Dataset, b: Dataset) -> None:
    for what, of_a, of_b in (
        ("ask other texts under the same id", a.queries, b.queries),
        ("judge questions differently", a.qrels, b.qrels),
    ):
        differing = [query for query in a.judged if of_a.get(query) != of_b.get(query)]
        if differing:
            raise InvalidInput(
                f"The sides {what}: {_counted(differing)}.",
                hint="Measure both with the same dataset and the same --qrels.",
            )


def _only(one: Side, other: Side) -> str:
    return f"{_counted(sorted(set(one.questions) - set(other.questions)))} only"


def _counted(queries: list[str]) -> str:
    if not queries:
        return "0"
    more = ", ..." if len(queries) > EXAMPLES else ""
    return f"{len(queries)} ({', '.join(map(repr, queries[:EXAMPLES]))}{more})"


def _of_experiment(text: str, home: Path) -> Side:
    id_, _, wanted = text.partition(":")
    if text.endswith((".trec", ".run", ".txt")):  # nobody calls an experiment so
        raise InvalidInput(f"{text} cannot be read: there is no such file.")
    experiment = find(id_, home)
    experiment.check_values()
    questions, systems = experiment.values()
    system = system_of(systems, wanted, experiment.id)
    dataset, why = reopened(experiment)
    about = experiment.about()
    notes = [f"No texts of questions and documents: {why}."] if why else []
    if about["kind"] == "tune":
        notes.append(
            f"{experiment.id} chose among its systems by half of these questions: differences of"
            f" the chosen one are too kind. `rag eval show {experiment.id}` has those of the other"
            " half."
        )
    return Side(
        f"{experiment.id}:{system}",
        questions,
        systems[system],
        run_kept(experiment, system),
        dataset,
        str(about["made_from"].get("dataset", "")),
        notes,
    )


def run_kept(experiment: Experiment, system: str) -> Run | None:
    """What a system of an experiment ranked, which may be nothing; None where it was not kept."""
    path = experiment.run_path(system)
    if not path.exists():
        return None
    return read_run(path) if path.stat().st_size else Run(system, {})


def _of_run(path: Path, dataset: Dataset | None) -> Side:
    if dataset is None:
        raise InvalidInput(
            f"{path} is a run file: it takes a dataset to measure it.",
            hint="Name its folder with --dataset, and with --qrels which judgements.",
        )
    run = read_run(path)
    judged = set(dataset.qrels)
    answered = judged & set(run.rankings)
    if not answered:
        raise InvalidInput(f"{path} answers no question of {dataset.name}.")
    notes = []
    if missing := len(judged) - len(answered):
        notes.append(
            f"{path.name} does not answer {missing} of {len(judged)} questions: they count 0."
        )
    if strange := len(run.rankings) - len(answered):
        notes.append(f"{path.name} answers {strange} questions that {dataset.name} does not judge.")
    return Side(path.name, dataset.judged, {}, run, dataset, dataset.fingerprint(), notes)
