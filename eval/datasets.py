"""Test collections: passages, questions, which passages answer which question.

The BEIR layout: corpus.jsonl, queries.jsonl, qrels/*.tsv, and answers.jsonl where there are some.
`ir_datasets:ID` names one of that package's, where it is installed and can reach its data.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rag.errors import InvalidInput, MissingExtra

IR_DATASETS = "ir_datasets:"
_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True, slots=True)
class Dataset:
    """`qrels[query][document]` is the relevance; `answers[query]` the accepted answer texts.

    Questions without a judgement are in `queries` and in no measure. `opened` says where it can be
    opened again, as `open_dataset` takes it; it is no part of what the dataset is.
    """

    name: str
    titles: Mapping[str, str]
    texts: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    answers: Mapping[str, list[str]] = field(default_factory=dict)
    opened: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def judged(self) -> list[str]:
        """The ids of the questions that count, in order."""
        return sorted(self.qrels)

    def relevant(self, query: str) -> tuple[str, ...]:
        """The documents that a question is judged to be answered by, in order."""
        return tuple(sorted(d for d, score in self.qrels.get(query, {}).items() if score > 0))

    def fingerprint(self) -> str:
        """Of everything in it: the same again gives the same measures."""
        found = hashlib.sha256()
        for part in (self.titles, self.texts, self.queries, self.qrels, self.answers):
            found.update(json.dumps(part, sort_keys=True).encode())
        return found.hexdigest()[:16]

    def without(self, documents: set[str], name: str) -> "Dataset":
        """The same with some documents held out; questions that nothing answers then stay."""
        qrels = {
            query: {d: score for d, score in judged.items() if d not in documents}
            for query, judged in self.qrels.items()
        }
        return Dataset(
            name,
            {d: title for d, title in self.titles.items() if d not in documents},
            {d: text for d, text in self.texts.items() if d not in documents},
            self.queries,
            qrels,
            self.answers,
        )


def open_dataset(where: str, qrels: str = "test") -> Dataset:
    """A folder, or `ir_datasets:ID`. Raises InvalidInput, MissingExtra."""
    if where.startswith(IR_DATASETS):
        return _from_ir_datasets(where.removeprefix(IR_DATASETS))
    return load_dataset(Path(where), qrels)


def open_judgements(where: str, qrels: str = "test") -> Dataset:
    """The same, where documents may be elsewhere: see `load_judgements`."""
    if where.startswith(IR_DATASETS):
        return open_dataset(where)
    return load_judgements(Path(where), qrels)


def folded(text: str) -> str:
    """A question's words: two that differ in case or white space alone ask the same."""
    return " ".join(text.split()).casefold()


def load_dataset(folder: Path, qrels: str = "test") -> Dataset:
    """Read a collection. Raises InvalidInput naming file and line of what is wrong."""
    corpus = list(_lines(folder / "corpus.jsonl", "text"))
    found = Dataset(
        name=folder.name,
        titles={row["_id"]: row.get("title") or "" for row in corpus},
        texts={row["_id"]: row["text"] for row in corpus},
        queries=_queries(folder),
        qrels=_qrels(folder / "qrels" / f"{qrels}.tsv"),
        answers=_answers(folder),
        opened=_opened(folder, qrels),
    )
    _check_questions(found, folder)
    return _checked(found, folder)


def load_judgements(folder: Path, qrels: str = "test") -> Dataset:
    """Questions about a collection that is elsewhere: a folder without corpus.jsonl.

    Judgements are then of the ids that documents have there. Raises InvalidInput.
    """
    if (folder / "corpus.jsonl").exists():
        return load_dataset(folder, qrels)
    queries, judged = _queries(folder), _qrels(folder / "qrels" / f"{qrels}.tsv")
    found = Dataset(folder.name, {}, {}, queries, judged, _answers(folder), _opened(folder, qrels))
    _check_questions(found, folder)
    return found


def _queries(folder: Path) -> dict[str, str]:
    return {row["_id"]: row["text"] for row in _lines(folder / "queries.jsonl", "text")}


def _answers(folder: Path) -> dict[str, list[str]]:
    path = folder / "answers.jsonl"
    if not path.exists():
        return {}
    return {row["_id"]: row["answers"] for row in _lines(path, "answers")}


def _opened(folder: Path, qrels: str) -> dict[str, str]:
    return {"where": str(folder.resolve()), "qrels": qrels}


def write_dataset(folder: Path, dataset: Dataset, qrels: str = "test") -> None:
    """In the BEIR layout, for `load_dataset` and everybody else."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", (
        {"_id": id_, "title": dataset.titles[id_], "text": text}
        for id_, text in dataset.texts.items()
    ))  # fmt: skip
    write_judgements(folder, dataset, qrels)


def write_judgements(folder: Path, dataset: Dataset, qrels: str = "test") -> None:
    """Without the corpus, for `load_judgements`. Raises InvalidInput for ids that do not fit."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(
        folder / "queries.jsonl", ({"_id": id_, "text": t} for id_, t in dataset.queries.items())
    )
    if dataset.answers:
        _write(
            folder / "answers.jsonl",
            ({"_id": id_, "answers": found} for id_, found in dataset.answers.items()),
        )
    rows = ["\t".join(_HEADER)]
    rows += [
        f"{_cell(query)}\t{_cell(document)}\t{score}"
        for query, judged in dataset.qrels.items()
        for document, score in judged.items()
    ]
    (folder / "qrels" / f"{qrels}.tsv").write_text("\n".join(rows) + "\n", "utf8")


def _cell(id_: str) -> str:
    if id_.splitlines() != [id_] or "\t" in id_:
        raise InvalidInput(f"A judgement cannot hold the id {id_!r}: it has tabs or line breaks.")
    return id_


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _lines(path: Path, wanted: str) -> Iterator[dict[str, Any]]:
    """Objects with an `_id` of their own and what is wanted: `text`, or a list of `answers`."""
    seen: set[str] = set()
    try:
        file = path.open(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}.",
            hint="A test collection has corpus.jsonl, queries.jsonl and qrels/test.tsv.",
        ) from error
    with file:  # splitlines would split at a U+2028 inside a string
        for number, line in enumerate(decoded(file, path), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{path}:{number}: this is no JSON: {error}.") from error
            if not isinstance(row, dict) or not {"_id", wanted} <= set(row):
                raise InvalidInput(f"{path}:{number}: a line needs `_id` and `{wanted}`.")
            if wanted == "text" and not isinstance(row["text"], str):
                raise InvalidInput(f"{path}:{number}: `text` is no string.")
            if wanted == "answers" and not _is_texts(row["answers"]):
                raise InvalidInput(f"{path}:{number}: `answers` is no list of strings.")
            row["_id"] = str(row["_id"])
            if row["_id"] in seen:
                raise InvalidInput(f"{path}:{number}: {row['_id']!r} is there twice.")
            seen.add(row["_id"])
            yield row


def decoded(file: TextIO, path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8. Raises InvalidInput where it is in another encoding."""
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not encoded in UTF-8: {error}.") from error


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: defaultdict[str, dict[str, int]] = defaultdict(dict)
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not encoded in UTF-8: {error}.") from error
    except OSError as error:
        there = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv")))
        raise InvalidInput(
            f"{path} cannot be read: {error.strerror}.",
            hint=f"There are: {there}." if there else "",
        ) from error
    if header.split("\t") != _HEADER:
        raise InvalidInput(f"{path}:1: the header must be {', '.join(_HEADER)}, tab separated.")
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        try:
            query, document, score = line.split("\t")
            qrels[query][document] = int(score)
        except ValueError as error:
            raise InvalidInput(
                f"{path}:{number}: a line is query, document and a whole number, tab separated."
            ) from error
    return dict(qrels)


def _check_questions(dataset: Dataset, folder: Path) -> None:
    """Raise InvalidInput for judgements of no question, or of one that is not there."""
    if not dataset.qrels:
        raise InvalidInput(f"{folder} judges no question.")
    for query in dataset.qrels:
        if query not in dataset.queries:
            raise InvalidInput(f"{folder}: question {query!r} is judged and not in queries.jsonl.")


def _checked(dataset: Dataset, folder: Path) -> Dataset:
    """Raise InvalidInput for judgements of documents that are not there."""
    for query, judged in dataset.qrels.items():
        for document in judged:
            if document not in dataset.texts:
                raise InvalidInput(
                    f"{folder}: {document!r}, judged for question {query!r}, is not in"
                    " corpus.jsonl."
                )
    return dataset


def _from_ir_datasets(name: str) -> Dataset:
    try:
        import ir_datasets  # type: ignore[import-not-found]  # an extra of the user's own
    except ImportError:
        raise MissingExtra(
            "The package ir_datasets is not installed.", hint="Run: pip install ir-datasets"
        ) from None
    try:
        source = ir_datasets.load(name)
        documents = {doc.doc_id: doc for doc in source.docs_iter()}
        qrels: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for judged in source.qrels_iter():
            qrels[judged.query_id][judged.doc_id] = int(judged.relevance)
        queries = {query.query_id: query.default_text() for query in source.queries_iter()}
    except Exception as error:  # every data set has parsers and errors of its own
        raise InvalidInput(f"ir_datasets does not give {name!r}: {error}") from error
    return Dataset(
        name=name.replace("/", "-"),
        titles={id_: getattr(doc, "title", "") or "" for id_, doc in documents.items()},
        texts={
            id_: getattr(doc, "text", "") or doc.default_text() for id_, doc in documents.items()
        },
        queries=queries,
        qrels=dict(qrels),
        opened={"where": f"{IR_DATASETS}{name}"},
    )
