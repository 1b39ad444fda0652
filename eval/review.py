"""A made set on disk, and a person's decisions about it.

queries.jsonl, qrels/test.tsv    the questions and judgements, as BEIR has them
held_out.jsonl                   questions to ask with the documents `without` held out
review.tsv                       a line per question, to be edited: keep or drop, other words
made.json                        what it was made from, what was left out, how far to trust it
"""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval.datasets import decoded, write_judgements
from eval.make import MadeSet
from eval.makers import Question, question_id
from rag.errors import InvalidInput

REVIEW, HELD_OUT, MADE = "review.tsv", "held_out.jsonl", "made.json"
OUTDATED = ("tau", "agreement", "self_check")  # by a review
COLUMNS = ("keep", "question", "document", "also relevant", "evidence", "how", "id")
DECISIONS = ("keep", "drop")


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What a person left of a set."""

    questions: list[Question]
    ids: Mapping[str, str]  # of each question now -> as the set had it
    dropped: int

    @property
    def reworded(self) -> int:
        """How many questions have other words now."""
        return sum(now != before for now, before in self.ids.items())


def write_made(folder: Path, made: MadeSet, about: Mapping[str, Any]) -> None:
    """All files of a set. Raises InvalidInput for document ids that no such file can hold."""
    _write_set(folder, made)
    with (folder / REVIEW).open("w", encoding="utf8", newline="") as file:
        table = csv.writer(file, "excel-tab", lineterminator="\n")
        table.writerows([COLUMNS, *map(_cells, made.questions)])
    _keep(folder, {**about, **_counts(made), "left_out": dict(made.left_out)})


def _write_set(folder: Path, made: MadeSet) -> None:
    write_judgements(folder, made.dataset(folder.name))
    held_out = set(made.held_out)
    rows = [
        {"_id": one.id, "text": one.text, "without": list(one.relevant)}
        for one in made.questions
        if one.id in held_out
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / HELD_OUT).write_text("".join(lines), "utf8")


def _counts(made: MadeSet) -> dict[str, Any]:
    how = Counter(one.how for one in made.questions)
    return {
        "questions": len(made.questions),
        "held_out": len(made.held_out),
        "how": dict(sorted(how.items())),
    }


def about_made(folder: Path) -> dict[str, Any]:
    """All of made.json; empty for a set that was not made. `tau`: see `eval.agreement`."""
    path = folder / MADE
    found: dict[str, Any] = json.loads(path.read_text("utf8")) if path.exists() else {}
    return found


def note(folder: Path, **more: object) -> None:
    """Add to made.json."""
    _keep(folder, about_made(folder) | more)


def read_review(path: Path) -> Reviewed:
    """The questions that are kept. Raises InvalidInput with the line that is wrong."""
    kept: dict[str, Question] = {}
    ids: dict[str, str] = {}
    dropped = 0
    for number, cells in _rows(path):
        decision, question = _decided(cells, f"{path}:{number}")
        if decision == "drop":
            dropped += 1
            continue
        now = question_id(question.text, question.document)
        if now in kept:
            raise InvalidInput(f"{path}:{number}: this question is kept twice.")
        kept[now], ids[now] = replace(question, id=now), question.id
    if not kept:
        raise InvalidInput(f"{path} keeps no question.")
    return Reviewed(list(kept.values()), ids, dropped)


def apply_review(path: Path, folder: Path) -> Reviewed:
    """Write the set that a review leaves; the review itself stays as it is.

    How far the set was to be trusted is no longer known: made.json says nothing of it any more.
    """
    reviewed = read_review(path)
    held_out = _held_out(path.parent)
    made = MadeSet(
        reviewed.questions,
        [now for now, before in reviewed.ids.items() if {now, before} & held_out],
        {},
    )
    was = {k: v for k, v in about_made(path.parent).items() if k not in OUTDATED}
    _write_set(folder, made)
    if path.resolve() != (folder / REVIEW).resolve():
        shutil.copyfile(path, folder / REVIEW)
    changes = {"dropped": reviewed.dropped, "reworded": reviewed.reworded}
    _keep(folder, {**was, **_counts(made), "reviewed": changes})
    return reviewed


def _held_out(folder: Path) -> set[str]:
    path = folder / HELD_OUT
    lines = path.read_text("utf8").split("\n") if path.exists() else []
    return {json.loads(line)["_id"] for line in lines if line}


def _cells(one: Question) -> list[str]:
    also = json.dumps(list(one.relevant[1:]), ensure_ascii=False) if one.relevant[1:] else ""
    text, evidence = (" ".join(cell.split()) for cell in (one.text, one.evidence))
    return ["keep", text, one.document, also, evidence, one.how, one.id]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) below the header. Spreadsheets put a mark before it, and quote cells."""
    try:
        file = path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        table = csv.reader(decoded(file, path), "excel-tab")
        if tuple(next(table, ())) != COLUMNS:
            raise InvalidInput(
                f"{path}:1: the columns must be {', '.join(COLUMNS)}, tab separated.",
                hint="Save the file as tab separated text, with its first line.",
            )
        for cells in table:
            if any(cells):
                yield table.line_num, [cell.strip() for cell in cells]


def _decided(cells: Sequence[str], where: str) -> tuple[str, Question]:
    if len(cells) != len(COLUMNS):
        raise InvalidInput(
            f"{where}: a line has {len(COLUMNS)} columns, this one has {len(cells)}."
        )
    decision, text, document, also, evidence, how, id_ = cells
    if decision.casefold() not in DECISIONS:
        raise InvalidInput(f"{where}: the first column is keep or drop, not {decision!r}.")
    if not text or not document:
        raise InvalidInput(f"{where}: the question or its document is missing.")
    relevant = (document, *_also(also, where))
    return decision.casefold(), Question(id_, text, how, document, evidence, relevant)


def _also(cell: str, where: str) -> list[str]:
    try:
        found = json.loads(cell) if cell else []
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise InvalidInput(
            f"{where}: `also relevant` is not a list of document ids.",
            hint='Leave it empty, or write ["id", "another id"].',
        )
    return found


def _keep(folder: Path, about: Mapping[str, Any]) -> None:
    (folder / MADE).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf8")
