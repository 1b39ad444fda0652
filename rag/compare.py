"""Two indexes of one collection, asked the same questions: what each finds, and how fast.

Questions come from a file, or are made of the collection (`rag.known_items`): what was made of a
document must find that document again (known-item search). Such questions share their words with
what they look for, which BM25 finds whatever the embedder is worth; so `dense` is reported beside
`hybrid`, and what dense search loses counts as well. Neither is reranked.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Literal

from rag import parsed
from rag.builds import Migration, Query
from rag.catalog import Collection
from rag.choices import choices
from rag.collection import index_of
from rag.errors import InvalidInput, ModelUnavailable, NotFound, PipelineMismatch
from rag.known_items import KINDS, Words, made_of, some_sentence
from rag.parts import Parts
from rag.retrieve import retrieve
from rag.types import Document, Scope
from rag.work import Priority, current_work, working

Mode = Literal["dense", "hybrid"]
MODES: tuple[Mode, ...] = ("dense", "hybrid")
DEPTH = 10
MOST_QUERIES = 10_000
ROUNDING = 1e-9  # 0.9 - 0.88 is a little more than 0.02


@dataclass(frozen=True, slots=True)
class Size:
    """What an index is made of. `vector_bytes` are those of its dense vectors in memory."""

    model: str
    chunks: int
    dim: int
    vector_bytes: int


@dataclass(frozen=True, slots=True)
class Found:
    """How often the document looked for is the first, or among the first ten, of those found.

    None where no question says which document it looks for. `p50_ms` counts embedding and
    searching, beside whatever else the machine does.
    """

    first: float | None
    among_ten: float | None
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Compared:
    """One way to search, in both indexes. `overlap` is the share of the ten best documents that
    both name; None, as `before`, where the old index cannot be asked any more.
    """

    before: Found | None
    after: Found
    overlap: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both indexes. `verdict` says why the new one is not put in place by itself, "" otherwise."""

    queries: int
    known: int  # queries that say which document they look for
    made: bool  # of the collection
    before: Size
    after: Size
    modes: Mapping[Mode, Compared]
    note: str = ""
    verdict: str = ""


def compare(parts: Parts, migration: Migration, tick: Callable[[], None]) -> Comparison:
    """Ask both indexes of a migration. `tick` is called between questions and may raise."""
    scope, old, new = migration.scope, *_fresh(parts, migration)
    given = migration.options.queries
    queries = given or tuple(made_queries(parts, scope, old))
    note = _unaskable(parts, old)
    with working(replace(current_work(), priority=Priority.BULK)):
        modes = {
            mode: _compared(parts, scope, old, new, queries, mode, note, tick) for mode in MODES
        }
    return Comparison(
        queries=len(queries),
        known=sum(bool(query.documents) for query in queries),
        made=not given,
        before=_size(old),
        after=_size(new),
        modes=modes,
        note=note,
    )


def is_worse(comparison: Comparison, most_loss: float) -> str:
    """Why the new index should not serve; "" when nothing speaks against it."""
    for mode, compared in comparison.modes.items():
        before = compared.before.among_ten if compared.before else None
        after = compared.after.among_ten
        if before is not None and after is not None and before - after > most_loss + ROUNDING:
            return (
                f"{mode} search finds the document that a question looks for among the first"
                f" {DEPTH} in {after:.1%} of cases, with the old index in {before:.1%}; a loss of"
                f" {most_loss:.1%} is allowed"
            )
    return ""


def read_queries(text: str) -> tuple[Query, ...]:
    """A question a line, or a JSON object a line: `{"text": ..., "documents": [ids]}`.

    BEIR's queries.jsonl is such a file; `documents` can be left out. Raises InvalidInput.
    """
    found = []
    for number, line in enumerate(text.split("\n"), start=1):  # not at a U+2028 inside a string
        line = line.strip()
        if not line:
            continue
        try:
            found.append(_query(json.loads(line)) if line.startswith("{") else Query(line))
        except ValueError as error:
            raise InvalidInput(
                f"Line {number} of the queries cannot be read: {error}.",
                hint='Write a question a line, or {"text": "...", "documents": ["id"]}.',
            ) from None
    if not 1 <= len(found) <= MOST_QUERIES:
        raise InvalidInput(f"A comparison takes 1 to {MOST_QUERIES} queries, not {len(found)}.")
    return tuple(found)


def made_queries(parts: Parts, scope: Scope, collection: Collection) -> Iterator[Query]:
    """Known-item questions out of documents that lie evenly spread over the collection, by id.

    The same collection gives the same questions.
    """
    ids = parts.builds.ids(collection)
    most = min(parts.settings.compare_queries, len(ids))
    picked = [ids[number * len(ids) // most] for number in range(most)]
    read = partial(_document, parts, scope, collection)
    counted = Words()
    for found in filter(None, map(read, picked)):
        counted.add(found.text)
    for number, document_id in enumerate(picked):  # read again: they may not fit into memory
        document = read(document_id)
        if document is not None and (text := question_of(document, counted, number)):
            yield Query(text[: parts.settings.max_question_chars], (document_id,))


def question_of(document: Document, collection: Words, number: int) -> str:
    """A question by rules, of another kind for the next number; a sentence where none makes one."""
    made = made_of(document, collection, str(number))
    kind = KINDS[number % len(KINDS)]
    found = [one.text for one in made if one.kind == kind] or [one.text for one in made]
    return found[0] if found else some_sentence(document, number)


def _compared(
    parts: Parts,
    scope: Scope,
    old: Collection,
    new: Collection,
    queries: Sequence[Query],
    mode: Mode,
    note: str,
    tick: Callable[[], None],
) -> Compared:
    answers: dict[bool, list[tuple[list[str], float]]] = {False: [], True: []}
    for query in queries:
        tick()
        # In turn, so that what else the machine does meets both alike.
        for is_new, index in ((False, old), (True, new)):
            if is_new or not note:
                answers[is_new].append(_ask(parts, scope, index, query.text, mode))
    after = _found(queries, answers[True])
    if note:
        return Compared(None, after, None)
    pairs = zip(answers[False], answers[True], strict=True)
    overlaps = [_overlap(before, now) for (before, _), (now, _) in pairs]
    overlap = sum(overlaps) / len(overlaps) if overlaps else None
    return Compared(_found(queries, answers[False]), after, overlap)


def _ask(
    parts: Parts, scope: Scope, index: Collection, text: str, mode: Mode
) -> tuple[list[str], float]:
    """The first ten documents, and the seconds that they took."""
    began = time.perf_counter()
    hits, _ = retrieve(
        parts.store,
        scope,
        index_of(index),
        question=text,
        vector=parts.embedder_for(index).embed_queries([text])[0],
        mode=mode,
        choices=choices(index, parts.settings),
        conditions=(),
        limit=parts.settings.retrieve_limit,
        live=parts.live_generations(scope, index),
    )
    seconds = time.perf_counter() - began
    return list(dict.fromkeys(hit.chunk.document_id for hit in hits))[:DEPTH], seconds


def _found(queries: Sequence[Query], answers: Sequence[tuple[list[str], float]]) -> Found:
    first, among_ten = [], []
    for query, (documents, _) in zip(queries, answers, strict=True):
        if query.documents:
            first.append(bool({*documents[:1]} & {*query.documents}))
            among_ten.append(bool({*documents} & {*query.documents}))
    return Found(
        first=sum(first) / len(first) if first else None,
        among_ten=sum(among_ten) / len(among_ten) if among_ten else None,
        p50_ms=1000 * median(seconds for _, seconds in answers) if answers else 0.0,
    )


def _overlap(before: Sequence[str], after: Sequence[str]) -> float:
    longest = max(len(before), len(after))
    return len({*before} & {*after}) / longest if longest else 1.0


def _fresh(parts: Parts, migration: Migration) -> tuple[Collection, Collection]:
    """Both as they are by now: their counters have moved since the migration was read."""
    found = (migration.collection, migration.build)
    old, new = (parts.catalog.collection(migration.scope, one) for one in found)
    return old, new


def _unaskable(parts: Parts, old: Collection) -> str:
    """Why the old index cannot be asked, which may be what the migration is for; else ""."""
    try:
        parts.embedder_for(old)
    except (PipelineMismatch, ModelUnavailable) as error:
        return f"the old index cannot be asked: {error.message}"
    return ""


def _size(collection: Collection) -> Size:
    dim = int(collection.pipeline["dim"])
    model = str(collection.pipeline["embedder"]["id"])
    return Size(model, collection.chunks, dim, 4 * dim * collection.chunks)


def _document(
    parts: Parts, scope: Scope, collection: Collection, document_id: str
) -> Document | None:
    try:
        record = parts.catalog.document(scope, collection, document_id)
        return parsed.stored(parts.objects, record)
    except NotFound:  # deleted since its id was read
        return None


def _query(row: object) -> Query:
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"].strip():
        raise ValueError("it has no text")
    documents = row.get("documents", [])
    if not isinstance(documents, list) or not all(isinstance(one, str) for one in documents):
        raise ValueError("documents is not a list of ids")
    return Query(row["text"], tuple(documents))
