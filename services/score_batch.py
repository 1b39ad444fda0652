"""`rag score-batch IN OUT`: a folder of CSV files with a column `input_string`, scored row by row.

What is done is written down after each mini batch, so that a run that was killed goes on where it
was. `predictions.csv` and `errors.csv` appear at the end, whole: each row is in one of them, once.
"""

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rag.errors import Conflict, InvalidInput, NotFound, Overloaded, RagError, StoreUnreachable
from rag.scoring import Scoring
from services.scorers import Scorer, TookTooLong

COLUMN = "input_string"
HEALS = (Overloaded, StoreUnreachable, TookTooLong)  # what another attempt may not meet
PROGRESS = ".progress.jsonl"
PREDICTIONS, ERRORS = "predictions.csv", "errors.csv"

csv.field_size_limit(2**27)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file; `number` counts from 0 behind the header."""

    file: str
    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a row."""

    file: str
    row: int
    prediction: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Batching:
    """How rows are scored. More errors than `error_threshold` end the run; -1: none does.

    An attempt at a mini batch may take `timeout` seconds, None: any time.
    """

    mini_batch: int = 10
    retries: int = 3
    error_threshold: int = -1
    timeout: float | None = None
    output: str = PREDICTIONS
    wait: Callable[[float], None] = time.sleep


Told = Callable[[int, int], None]
"""Called with (rows done, rows that failed) as it gets on."""


def score_folder(
    scorer: Scorer, source: Path, target: Path, how: Scoring, batching: Batching, told: Told
) -> tuple[int, int]:
    """Score every row that is not done yet. Returns (rows, rows that failed).

    Raises InvalidInput for what is no such folder, Conflict when what was begun in `target` was
    begun with other inputs or parameters, and RagError when too many rows fail.
    """
    files = csv_files(source)
    scorer.validate(how)
    target.mkdir(parents=True, exist_ok=True)
    done = _begun(target / PROGRESS, _made_from(source, files, how))
    failed = sum(one.error is not None for one in done.values())
    told(len(done), failed)
    rows = (row for row in rows_of(source, files) if (row.file, row.number) not in done)
    with (target / PROGRESS).open("a", encoding="utf8") as progress:
        while part := list(islice(rows, batching.mini_batch)):
            for one in _score_part(scorer, part, how, batching):
                done[one.file, one.row] = one
                failed += one.error is not None
                progress.write(json.dumps(asdict(one)) + "\n")
            progress.flush()
            os.fsync(progress.fileno())
            told(len(done), failed)
            if 0 <= batching.error_threshold < failed:
                raise RagError(
                    f"{failed} rows failed, the limit is {batching.error_threshold}.",
                    hint=f"{target / PROGRESS} says why; the same command goes on behind them.",
                )
    _write_results(target, done, batching.output)
    return len(done), failed


def csv_files(source: Path) -> list[Path]:
    """The CSV files of a folder, by name. Raises NotFound, InvalidInput."""
    if not source.is_dir():
        raise NotFound(f"There is no folder {source}.")
    files = sorted(source.rglob("*.csv"))
    if not files:
        raise InvalidInput(f"{source} holds no .csv file.")
    return files


def rows_of(source: Path, files: Sequence[Path]) -> Iterator[Row]:
    """Every row of a folder's files, in order. Raises InvalidInput for one without the column."""
    for file in files:
        name = file.relative_to(source).as_posix()
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            if COLUMN not in (reader.fieldnames or ()):
                raise InvalidInput(
                    f"{file} has no column {COLUMN!r}.",
                    hint=f"It has: {', '.join(reader.fieldnames or ['nothing'])}.",
                )
            for number, row in enumerate(reader):
                yield Row(name, number, row[COLUMN] or "")


def _score_part(
    scorer: Scorer, part: Sequence[Row], how: Scoring, batching: Batching
) -> Iterator[Done]:
    """The rows of a mini batch, those again that may heal."""
    left = list(part)
    for attempt in range(batching.retries + 1):
        made = scorer.score([row.text for row in left], how, batching.timeout)
        again: list[Row] = []
        for row, one in zip(left, made, strict=True):
            if isinstance(one, HEALS) and attempt < batching.retries:
                again.append(row)
            elif isinstance(one, RagError):
                yield Done(row.file, row.number, error=str(one))
            else:
                yield Done(row.file, row.number, prediction=one)
        if not again:
            return
        left = again
        batching.wait(2.0**attempt)


def _made_from(source: Path, files: Sequence[Path], how: Scoring) -> dict[str, Any]:
    contents = {file.relative_to(source).as_posix(): _digest(file) for file in files}
    return {"files": contents, "scoring": asdict(how)}


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _begun(path: Path, made_from: dict[str, Any]) -> dict[tuple[str, int], Done]:
    """What a run before this one has done; what a kill left of a line is cut off."""
    head = json.dumps(made_from, sort_keys=True)
    whole = path.read_bytes() if path.exists() else b""
    whole = whole[: whole.rfind(b"\n") + 1]
    first, *lines = whole.decode("utf8").split("\n")[:-1] or [""]
    if not whole:
        path.write_text(head + "\n", "utf8")
        return {}
    if json.loads(first) != json.loads(head):
        raise Conflict(
            f"{path.parent} holds a run over other files or with other parameters.",
            hint="Give another folder for the results, or empty this one.",
        )
    os.truncate(path, len(whole))
    found = (Done(**json.loads(line)) for line in lines)
    return {(one.file, one.row): one for one in found}


def _write_results(target: Path, done: dict[tuple[str, int], Done], output: str) -> None:
    ordered = [done[key] for key in sorted(done)]
    made = [(one.row, one.prediction, one.file) for one in ordered if one.error is None]
    failed = [(one.row, one.error, one.file) for one in ordered if one.error is not None]
    _write(target / output, ("row", "prediction", "file"), made)
    _write(target / ERRORS, ("row", "error", "file"), failed)


def _write(path: Path, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    half_written = path.with_name(f"{path.name}.part")
    with half_written.open("w", encoding="utf8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)
    half_written.replace(path)
