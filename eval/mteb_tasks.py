"""Tasks of MTEB: by their names there, or from a folder of one's own. Needs the extra `mteb`.

A folder in the BEIR layout is a retrieval task. With candidates.jsonl, a line per question
({"_id": question, "candidates": [document, ...]}), it is a reranking task. With pairs.jsonl alone
({"sentence1": ..., "sentence2": ..., "score": ...}) it is one of semantic similarity.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import mteb
from datasets import Dataset as Table
from datasets import DatasetDict
from mteb.abstasks import AbsTask, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata, TaskType

from eval.datasets import Dataset, load_dataset
from rag.errors import InvalidInput

CANDIDATES, PAIRS = "candidates.jsonl", "pairs.jsonl"
ENGLISH = "eng-Latn"


def open_task(name: str, language: str = ENGLISH) -> AbsTask:
    """A task by its name at MTEB, or of a folder, in a language as `cmn-Hans`.

    Raises InvalidInput.
    """
    folder = Path(name)
    if folder.is_dir():
        return _local(folder, language)
    try:
        (task,) = mteb.get_tasks(tasks=[name])
    except (KeyError, ValueError) as error:
        raise InvalidInput(
            f"{name!r} is neither a folder nor a task of MTEB: {error}",
            hint="`mteb available-tasks` lists those.",
        ) from None
    return task


def _local(folder: Path, language: str) -> AbsTask:
    if (folder / PAIRS).exists() and not (folder / "corpus.jsonl").exists():
        return _similarity(folder, language)
    dataset = load_dataset(folder)
    if not (folder / CANDIDATES).exists():
        return _retrieval(folder, dataset, language, None)
    candidates = {row["_id"]: row["candidates"] for row in _rows(folder / CANDIDATES, "candidates")}
    for query in dataset.judged:
        unknown = [d for d in candidates.get(query, ()) if d not in dataset.texts]
        if unknown or not candidates.get(query):
            what = f"document {unknown[0]!r} of" if unknown else "no candidates for"
            raise InvalidInput(f"{folder / CANDIDATES}: {what} question {query!r}.")
    return _retrieval(folder, dataset, language, candidates)


def _retrieval(
    folder: Path, dataset: Dataset, language: str, candidates: dict[str, list[str]] | None
) -> AbsTask:
    kind = "Retrieval" if candidates is None else "Reranking"
    main_score = "ndcg_at_10" if candidates is None else "map_at_1000"
    made_from = dataset.fingerprint() + json.dumps(candidates, sort_keys=True)
    documents = [
        {"id": id_, "title": dataset.titles[id_], "text": text}
        for id_, text in dataset.texts.items()
    ]
    queries = [{"id": query, "text": dataset.queries[query]} for query in dataset.judged]
    split = {
        "corpus": Table.from_list(documents),
        "queries": Table.from_list(queries),
        "relevant_docs": {query: dict(judged) for query, judged in dataset.qrels.items()},
        "top_ranked": candidates,
    }

    class Local(AbsTaskRetrieval):  # type: ignore[misc, unused-ignore]  # MTEB may be absent
        metadata = _metadata(folder, kind, main_score, language, made_from)

        def load_data(self, **_: Any) -> None:  # noqa: ANN401 - MTEB's signature
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return Local()


def _similarity(folder: Path, language: str) -> AbsTask:
    rows = _rows(folder / PAIRS, "sentence1", "sentence2", "score")
    scores = [row["score"] for row in rows]

    class Local(AbsTaskSTS):  # type: ignore[misc, unused-ignore]  # MTEB may be absent
        metadata = _metadata(folder, "STS", "cosine_spearman", language, json.dumps(rows))
        min_score, max_score = min(scores), max(scores)

        def load_data(self, **_: Any) -> None:  # noqa: ANN401 - MTEB's signature
            self.dataset = DatasetDict({"test": Table.from_list(rows)})
            self.data_loaded = True

    return Local()


def _metadata(
    folder: Path,
    kind: TaskType,
    main_score: str,
    language: str,
    made_from: str,
) -> TaskMetadata:
    revision = hashlib.sha256(made_from.encode()).hexdigest()[:12]
    return TaskMetadata(
        name=f"{folder.name}-{revision}",
        description=f"{kind} from {folder}",
        type=kind,
        main_score=main_score,
        dataset={"path": str(folder), "revision": revision},
        eval_splits=["test"],
        eval_langs=[_language(language)],
    )


def _language(code: str) -> str:
    from mteb.languages import check_language_code

    try:
        check_language_code(code)
    except ValueError as error:
        raise InvalidInput(
            f"{code!r} is no language: {error}", hint="As eng-Latn or cmn-Hans."
        ) from None
    return code


def _rows(path: Path, *wanted: str) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text("utf8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            rows.append({name: row[name] for name in ("_id", *wanted) if name in (*wanted, *row)})
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path}:{number}: a line is an object with {', '.join(wanted)}."
            ) from error
    if not rows:
        raise InvalidInput(f"{path} holds no line.")
    return rows
