"""Test collections in the BEIR layout: corpus.jsonl, queries.jsonl, qrels/*.tsv, answers.jsonl."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Dataset:
    """`qrels[query][document]` is the relevance; `answers[query]` the accepted answer texts."""

    name: str
    titles: dict[str, str]
    texts: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    answers: dict[str, list[str]]


def load_dataset(folder: Path, qrels: str = "test") -> Dataset:
    """Read a collection. Raises ValueError naming file and line of what is wrong."""
    corpus = _lines(folder / "corpus.jsonl")
    queries = _lines(folder / "queries.jsonl")
    answers = _lines(folder / "answers.jsonl") if (folder / "answers.jsonl").exists() else []
    return Dataset(
        name=folder.name,
        titles={row["_id"]: row.get("title", "") for row in corpus},
        texts={row["_id"]: row["text"] for row in corpus},
        queries={row["_id"]: row["text"] for row in queries},
        qrels=_qrels(folder / "qrels" / f"{qrels}.tsv"),
        answers={row["_id"]: row["answers"] for row in answers},
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf8") as file:  # splitlines would split at a U+2028 inside a string
        for number, line in enumerate(file, start=1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from error
    return rows


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: defaultdict[str, dict[str, int]] = defaultdict(dict)
    header, *lines = path.read_text(encoding="utf8").splitlines()
    if header.split("\t") != ["query-id", "corpus-id", "score"]:
        raise ValueError(f"{path}:1: the header must be query-id, corpus-id, score, tab separated")
    for number, line in enumerate(lines, start=2):
        try:
            query, document, score = line.split("\t")
            qrels[query][document] = int(score)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
    return dict(qrels)
