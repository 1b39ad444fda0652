"""Runs: what a system ranked for each question; in and out as TREC run files.

query-id Q0 document-id rank score tag

Fields are parted by spaces, and Ragstone's ids may hold some: they are written as ␠.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from eval.datasets import decoded
from rag.errors import InvalidInput

SPACE = "␠"  # stands for a space in an id

Ranking = Mapping[str, float]
"""Document id -> score; the higher, the better."""


@dataclass(frozen=True, slots=True)
class Run:
    """A system's name and its ranking for each question that it answered."""

    name: str
    rankings: Mapping[str, Ranking]

    def ordered(self, query: str) -> list[str]:
        """Document ids, best first; ties as trec_eval breaks them, by id backwards."""
        ranking = self.rankings.get(query, {})
        return sorted(sorted(ranking, reverse=True), key=lambda document: -ranking[document])


def read_run(path: Path) -> Run:
    """A TREC run file. Its name is its tag. Raises InvalidInput with the line that is wrong.

    Ranks are not looked at: trec_eval orders by score as well.
    """
    rankings: dict[str, dict[str, float]] = {}
    tag = path.stem
    with _opened(path) as lines:
        for number, line in enumerate(decoded(lines, path), start=1):
            if not line.strip():
                continue
            fields = line.split()
            if len(fields) != 6:
                raise InvalidInput(
                    f"{path}:{number}: a line of a run has six fields, this one has {len(fields)}.",
                    hint="They are: query-id Q0 document-id rank score tag.",
                )
            query, _, document, _, score, tag = fields
            query, document = query.replace(SPACE, " "), document.replace(SPACE, " ")
            ranking = rankings.setdefault(query, {})
            if document in ranking:
                raise InvalidInput(
                    f"{path}:{number}: document {document!r} comes twice for query {query!r}."
                )
            ranking[document] = _number(score, path, number)
    if not rankings:
        raise InvalidInput(f"{path} holds no line of a run.")
    return Run(tag, rankings)


def write_run(path: Path, run: Run) -> None:
    """As a TREC run file. Raises InvalidInput for ids that its format cannot hold."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half_written = path.with_name(f"{path.name}.part")
    with half_written.open("w", encoding="utf8") as file:
        file.writelines(lines_of(run))
    half_written.replace(path)


def lines_of(run: Run) -> Iterator[str]:
    """The lines of a run file, best first within a question."""
    tag = "-".join(run.name.split())
    for query in run.rankings:
        for rank, document in enumerate(run.ordered(query), start=1):
            check_ids((query, document))
            score = run.rankings[query][document]
            one, other = query.replace(" ", SPACE), document.replace(" ", SPACE)
            yield f"{one} Q0 {other} {rank} {score!r} {tag}\n"


def check_ids(ids: Iterable[str]) -> None:
    """Raise InvalidInput for an id that a run file cannot hold."""
    for id_ in ids:
        written = id_.replace(" ", SPACE)
        if written.split() != [written] or SPACE in id_:
            raise InvalidInput(
                f"A run file cannot hold the id {id_!r}.",
                hint=f"Ids have no tabs, line breaks and {SPACE}, and one character at least.",
            )


def by_rank(documents: Iterator[str] | list[str]) -> dict[str, float]:
    """Scores that keep an order exactly, whatever made it: minus the rank.

    A repeated id counts once: a document ranks where the best of its chunks does.
    """
    scores: dict[str, float] = {}
    for document in documents:
        scores.setdefault(document, -float(len(scores) + 1))
    return scores


def _number(text: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{path}:{line}: {text!r} is no score.")
    return value


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
