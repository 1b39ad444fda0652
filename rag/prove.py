"""A deletion that is proved: what there is of a document, counted in the places themselves, before
and after.

It goes further than a deletion: it waits until points and objects are gone, forgets the document's
lines in the journal, and what models keep in the memory of this process. Interrupted, it is
repeated: every step takes what is left.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import sqlalchemy as sa

from rag import access
from rag import ingest as steps
from rag.catalog import Collection
from rag.collection import index_of
from rag.errors import NotFound, RagError
from rag.parts import Parts
from rag.sources import check_id
from rag.tables import (
    collections,
    documents,
    generations,
    jobs,
    tasks,
    trace_documents,
    traces,
)
from rag.types import Scope

WAIT_SECONDS = 30.0  # for whoever is just ingesting the document to let go of it
_LOOK_SECONDS = 0.1
_OBJECTS = {"content_hash": "original", "text_hash": "text", "parsed_hash": "structure"}


@dataclass(frozen=True, slots=True)
class Place:
    """What one place holds of a document. None: it could not be asked.

    `why` says why something is left, or could not be counted; with `shared` it is left because it
    is another document's as well.
    """

    what: str
    before: int | None
    after: int | None
    why: str = ""
    shared: bool = False

    @property
    def gone(self) -> bool:
        """Whether nothing is left that is this document's alone."""
        return self.after == 0 or self.shared


@dataclass(frozen=True, slots=True)
class Proof:
    """What there was of a document, and what there is."""

    document_id: str
    collection: str
    places: tuple[Place, ...]

    @property
    def gone(self) -> bool:
        """Whether nothing of the document is left."""
        return all(place.gone for place in self.places)


@dataclass(frozen=True, slots=True)
class _Counts:
    """What the places hold. Points are by generation, None where the store does not answer."""

    rows: dict[str, int]
    points: dict[int, int] | None
    objects: dict[str, str]  # digest -> what it is
    there: frozenset[str]  # those of the objects that are kept
    jobs: frozenset[str]
    unreachable: str = ""
    users: dict[str, str] = field(default_factory=dict)  # digest -> who else uses it


def delete_proved(
    parts: Parts, scope: Scope, collection: str, document_id: str, *, wait: float = WAIT_SECONDS
) -> Proof:
    """Delete a document with all that is known of it, and count what is left.

    Raises NotFound when there is nothing of it anywhere.
    """
    check_id(document_id)
    indexes = parts.catalog.indexes(scope, collection)  # one that is built aside holds it as well
    with parts.database.read() as connection:
        parts.journal.check_known(connection, scope, indexes[0], document_id)
    before = _count(parts, scope, indexes, document_id)
    kept = sum(reranker.kept() for reranker in parts.loaded_rerankers())
    if not any(before.rows.values()) and not before.points:
        parts.catalog.document(scope, collection, document_id)  # says that there is none
    with suppress(NotFound):  # an earlier deletion took the document, and could not take the rest
        parts.journal.delete_document(scope, collection, document_id)
    _purge(parts, scope, indexes, document_id, wait)
    places = _places(before, _count(parts, scope, indexes, document_id, before))
    answers = Place("cached answers, of all documents", parts.answers.forget(), len(parts.answers))
    cached = [answers] if parts.settings.answer_cache else []
    return Proof(document_id, collection, (*places, *_forget_scores(parts, kept), *cached))


def _purge(
    parts: Parts, scope: Scope, indexes: Sequence[Collection], document_id: str, wait: float
) -> None:
    """Purge and forget; whoever works on the document notices at its next step, and lets go."""
    until = time.monotonic() + wait
    while True:
        steps.purge(parts, scope, indexes[0], document_id)
        for found in indexes:
            _drop_strays(parts, scope, found, document_id)
        let_go = parts.journal.forget_document(scope, indexes[0].name, document_id)
        if let_go or time.monotonic() > until:
            return
        time.sleep(_LOOK_SECONDS)


def _drop_strays(parts: Parts, scope: Scope, found: Collection, document_id: str) -> None:
    """Delete points of generations that the catalog knows nothing of."""
    query = sa.select(generations.c.id).where(*_of(generations, [found], document_id))
    try:
        there = parts.store.inventory(scope, index_of(found), document_id)
        with parts.database.read() as connection:
            known = set(connection.execute(query).scalars())
        if strays := sorted({generation for _, generation in there} - known):
            parts.store.delete(scope, index_of(found), document_id, strays)
            parts.store.flush(index_of(found))
    except RagError:
        return  # the count that comes after says so


def _forget_scores(parts: Parts, kept: int) -> Iterator[Place]:
    """All of them: they are kept by digests, or by texts, and not by documents."""
    rerankers = parts.loaded_rerankers()
    for reranker in rerankers:
        reranker.forget()
    if rerankers:
        left = sum(reranker.kept() for reranker in rerankers)
        yield Place("cached scores, of all documents", kept, left)


def _places(before: _Counts, after: _Counts) -> Iterator[Place]:
    for what, count in before.rows.items():
        left = after.rows[what]
        yield Place(what, count, left, "it is still being worked on, or came again" if left else "")
    if before.points is None or after.points is None:
        why = f"{after.unreachable or before.unreachable} Points are invisible since the deletion,"
        why += " and are deleted when the store answers again."
        had = None if before.points is None else sum(before.points.values())
        has = None if after.points is None else sum(after.points.values())
        yield Place("points", had, has, why)
    else:
        for generation in sorted({*before.points, *after.points}):
            had, has = before.points.get(generation, 0), after.points.get(generation, 0)
            why = "they are invisible, and deleted by the next sweep" if has else ""
            yield Place(f"points of generation {generation}", had, has, why)
    for name, what in sorted(before.objects.items(), key=lambda item: (item[1], item[0])):
        user = after.users.get(name)
        # Nobody is told by this that somebody else has a document of the same content.
        left = int(name in after.there and user != "")
        why = f"kept, because also used by {user}" if user else "it will be dropped later"
        yield Place(
            f"{what} {name[:12]}", int(name in before.there), left, why if left else "", bool(user)
        )


def _count(
    parts: Parts,
    scope: Scope,
    indexes: Sequence[Collection],
    document_id: str,
    earlier: _Counts | None = None,
) -> _Counts:
    with parts.database.read() as connection:
        of_tasks = *_of(tasks, indexes, document_id), access.document_rows(scope, tasks.c.acl)
        job_ids = set(connection.execute(sa.select(tasks.c.job_id).where(*of_tasks)).scalars())
        if earlier is not None:
            job_ids |= earlier.jobs
        rows = {
            "document, title and metadata": _rows(
                connection, *_of(documents, indexes, document_id)
            ),
            "generations": _rows(connection, *_of(generations, indexes, document_id)),
            "job records": _rows(connection, *of_tasks),
            "jobs of this document alone": _own_jobs(connection, indexes, document_id, job_ids),
            "traces of answers": _shown(connection, indexes, document_id),
        }
        objects = _objects(connection, indexes, document_id) | (earlier.objects if earlier else {})
        users = _other_users(connection, scope, indexes, document_id, objects) if earlier else {}
    there = frozenset(name for name in objects if parts.objects.has(name))
    points: dict[int, int] = {}
    try:
        for found in indexes:
            inventory = parts.store.inventory(scope, index_of(found), document_id)
            points |= {generation: count for (_, generation), count in inventory.items()}
    except RagError as error:
        return _Counts(rows, None, objects, there, frozenset(job_ids), error.message, users)
    return _Counts(rows, points, objects, there, frozenset(job_ids), "", users)


def _of(
    table: sa.Table, indexes: Sequence[Collection], document_id: str
) -> Sequence[sa.ColumnElement[bool]]:
    ids = [found.id for found in indexes]
    return table.c.collection_id.in_(ids), table.c.document_id == document_id


def _rows(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> int:
    query = sa.select(sa.func.count()).where(*which)
    return int(connection.execute(query).scalar_one())


def _own_jobs(
    connection: sa.Connection, indexes: Sequence[Collection], document_id: str, job_ids: set[str]
) -> int:
    """How many of the jobs are there that hold no other document."""
    other = sa.exists().where(
        tasks.c.job_id == jobs.c.id,
        ~sa.and_(*_of(tasks, indexes, document_id)),
    )
    return _rows(connection, jobs.c.id.in_(job_ids), ~other)


def _shown(connection: sa.Connection, indexes: Sequence[Collection], document_id: str) -> int:
    """How many traces hold something of it."""
    here = traces.c.collection_id.in_([found.id for found in indexes])
    return _rows(
        connection,
        traces.c.id == trace_documents.c.trace_id,
        trace_documents.c.document_id == document_id,
        here,
    )


def _objects(
    connection: sa.Connection, indexes: Sequence[Collection], document_id: str
) -> dict[str, str]:
    """digest -> what it is, of everything that the document refers to."""
    columns = [generations.c[column] for column in _OBJECTS]
    query = sa.select(*columns).where(*_of(generations, indexes, document_id))
    rows = connection.execute(query).all()
    objects = {
        name: what for row in rows for name, what in zip(row, _OBJECTS.values(), strict=True)
    }
    sent = sa.select(tasks.c.content_hash).where(*_of(tasks, indexes, document_id))
    for name in connection.execute(sent).scalars():
        objects.setdefault(name, "original")
    objects.pop("", None)
    return objects


def _other_users(
    connection: sa.Connection,
    scope: Scope,
    indexes: Sequence[Collection],
    document_id: str,
    objects: dict[str, str],
) -> dict[str, str]:
    """digest -> a document that uses it as well, empty for one that the scope may not know of."""
    users: dict[str, str] = {}
    everyone = sa.true() if scope.groups is None else sa.false()
    mine = sa.and_(access.collection_rows(scope), everyone).label("own")
    for table, names in ((generations, tuple(_OBJECTS)), (tasks, ("content_hash",))):
        for name in names:
            query = (
                sa.select(table.c[name], table.c.document_id, collections.c.name, mine)
                .join(collections, collections.c.id == table.c.collection_id)
                .where(table.c[name].in_(sorted(objects)))
                .where(~sa.and_(*_of(table, indexes, document_id)))
            )
            for digest, other, collection, own in connection.execute(query):
                user = f"{other!r} in {collection!r}" if own else ""
                users[digest] = users.get(digest) or user
    return users
