"""Traces as they are kept, and the feedback that is tied to them.

A trace goes with any document whose text it holds: the passages that the generator read, and what
it wrote of them. Of a document that was only found and not read it loses the candidate.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from pydantic import TypeAdapter

from rag import access
from rag.catalog import Catalog
from rag.database import Database, utc
from rag.errors import InvalidInput, NotFound
from rag.tables import collections, documents, feedback, trace_documents, traces
from rag.trace import Candidate, Feedback, Rating, Trace
from rag.types import Scope

MAX_FEEDBACK_CHARS = 20_000
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A trace in a list of them; `rating` is the latest one given, None where there is none."""

    id: str
    collection: str
    created_at: datetime
    question: str
    rating: Rating | None


class Traces:
    """Thread-safe."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    def keep(self, scope: Scope, trace: Trace) -> bool:
        """Write it down; False where a document that was read has been deleted meanwhile.

        Raises NotFound when the collection has, StoreUnreachable, StorageFull.
        """
        body = _packed(trace)
        shown: dict[str, list[Candidate]] = {}
        for one in trace.candidates:
            shown.setdefault(one.document_id, []).append(one)
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, trace.asked.collection, shared=True)
            query = sa.select(documents.c.document_id, documents.c.acl).where(
                documents.c.collection_id == found.id,
                documents.c.document_id.in_(sorted(shown)),
            )
            there = {row.document_id: row.acl for row in connection.execute(query)}
            if any(one.passage and one.document_id not in there for one in trace.candidates):
                return False
            connection.execute(
                traces.insert().values(
                    id=trace.id,
                    collection_id=found.id,
                    created_at=trace.created_at,
                    question=trace.asked.question,
                    body=body,
                    caller=scope.caller or "",
                )
            )
            rows = [
                {
                    "trace_id": trace.id,
                    "document_id": document_id,
                    "read": any(one.passage is not None for one in some),
                    "acl": there[document_id],
                    "body": _packed_candidates(some),
                }
                for document_id, some in shown.items()
                if document_id in there
            ]
            if rows:
                connection.execute(trace_documents.insert(), rows)
        return True

    def trace(self, scope: Scope, trace_id: str) -> Trace:
        """One with its candidates and feedback. Raises NotFound."""
        with self._database.read() as connection:
            return self._whole(connection, self._row(connection, scope, trace_id))

    def rows(
        self, scope: Scope, *, collection: str | None = None, before: str = "", limit: int = 100
    ) -> list[TraceRow]:
        """Traces of the scope, newest first, from the one before trace `before` on."""
        query = _of(scope, sa.select(traces.c.id, traces.c.created_at, traces.c.question))
        query = query.order_by(traces.c.created_at.desc(), traces.c.id.desc()).limit(limit)
        if collection is not None:
            query = query.where(collections.c.name == collection)
        with self._database.read() as connection:
            if before:
                at = self._row(connection, scope, before)["created_at"]
                query = query.where(
                    sa.tuple_(traces.c.created_at, traces.c.id) < sa.tuple_(sa.literal(at), before)
                )
            found = [utc(row) for row in connection.execute(query).mappings()]
            said = self._ratings(connection, [row["id"] for row in found])
        return [
            TraceRow(
                row["id"], row["name"], row["created_at"], row["question"], said.get(row["id"])
            )
            for row in found
        ]

    def delete(self, scope: Scope, trace_id: str) -> None:
        """Forget a trace with its feedback. Raises NotFound."""
        with self._database.write() as connection:
            self._row(connection, scope, trace_id)
            connection.execute(traces.delete().where(traces.c.id == trace_id))

    def say(
        self,
        scope: Scope,
        trace_id: str,
        rating: Rating,
        *,
        correction: str = "",
        comment: str = "",
    ) -> Feedback:
        """Keep what a reader said of an answer. Raises NotFound, InvalidInput."""
        for name, text in (("correction", correction), ("comment", comment)):
            if len(text) > MAX_FEEDBACK_CHARS:
                raise InvalidInput(
                    f"The {name} has {len(text)} characters, the limit is {MAX_FEEDBACK_CHARS}."
                )
        said = Feedback(uuid4().hex, trace_id, rating, correction, comment, datetime.now(UTC))
        with self._database.write() as connection:
            self._row(connection, scope, trace_id)
            connection.execute(
                feedback.insert().values(
                    id=said.id,
                    trace_id=trace_id,
                    rating=rating,
                    correction=correction,
                    comment=comment,
                    created_at=said.created_at,
                )
            )
        return said

    def rated(self, scope: Scope, collection: str) -> Iterator[Trace]:
        """Those of a collection that have feedback, oldest first."""
        rated = sa.exists().where(feedback.c.trace_id == traces.c.id)
        query = _of(scope, sa.select(traces)).where(collections.c.name == collection, rated)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(traces.c.created_at, traces.c.id)).mappings()
            for row in rows.all():
                yield self._whole(connection, row)

    def forget(self, before: datetime, rated_before: datetime) -> int:
        """Forget what is older; what has feedback by a time of its own. Returns how many.

        A few hundred in a transaction, so that nobody waits for it long.
        """
        rated = sa.exists().where(feedback.c.trace_id == traces.c.id)
        old = sa.or_(
            sa.and_(traces.c.created_at < before, ~rated), traces.c.created_at < rated_before
        )
        some = sa.select(traces.c.id).where(old).limit(_AT_ONCE)
        count = 0
        while True:
            with self._database.write() as connection:
                ids = list(connection.execute(some).scalars())
                connection.execute(traces.delete().where(traces.c.id.in_(ids)))
            count += len(ids)
            if len(ids) < _AT_ONCE:
                return count

    def _row(self, connection: sa.Connection, scope: Scope, trace_id: str) -> Mapping[Any, Any]:
        query = _of(scope, sa.select(traces)).where(traces.c.id == trace_id)
        row = connection.execute(query).mappings().one_or_none()
        if row is None:
            raise _no_trace(trace_id)
        return row

    def _whole(self, connection: sa.Connection, row: Mapping[Any, Any]) -> Trace:
        bodies = sa.select(trace_documents.c.body).where(trace_documents.c.trace_id == row["id"])
        found = (
            candidate
            for body in connection.execute(bodies).scalars()
            for candidate in _unpacked_candidates(body)
        )
        said = feedback.select().where(feedback.c.trace_id == row["id"])
        return replace(
            _unpacked(row["body"]),
            candidates=tuple(sorted(found, key=lambda one: one.rank)),
            feedback=tuple(
                Feedback(**utc(one))
                for one in connection.execute(said.order_by(feedback.c.created_at)).mappings()
            ),
        )

    def _ratings(self, connection: sa.Connection, ids: Sequence[str]) -> dict[str, Rating]:
        query = sa.select(feedback.c.trace_id, feedback.c.rating)
        query = query.where(feedback.c.trace_id.in_(ids)).order_by(feedback.c.created_at)
        return {row.trace_id: row.rating for row in connection.execute(query)}


def _of(scope: Scope, query: sa.Select[Any]) -> sa.Select[Any]:
    """Only what the scope reaches, with the name of the collection.

    No trace that shows a document which the scope does not see, now or when it was asked.
    """
    query = query.add_columns(collections.c.name).join(
        collections, collections.c.id == traces.c.collection_id
    )
    query = query.where(access.collection_rows(scope))
    if scope.caller is not None:
        query = query.where(traces.c.caller == scope.caller)
    if scope.groups is None:
        return query
    now = sa.and_(
        documents.c.collection_id == traces.c.collection_id,
        documents.c.document_id == trace_documents.c.document_id,
    )
    unseen = sa.or_(
        ~access.document_rows(scope, trace_documents.c.acl),
        # Left alone, it would look at the documents of all traces, not of this one.
        sa.exists()
        .where(now, ~access.document_rows(scope, documents.c.acl))
        .correlate(traces, trace_documents),
    )
    return query.where(~sa.exists().where(trace_documents.c.trace_id == traces.c.id, unseen))


def _packed(trace: Trace) -> bytes:
    kept = replace(trace, candidates=(), feedback=())
    return zlib.compress(_bodies().dump_json(kept), level=1)


def _unpacked(body: bytes) -> Trace:
    return _bodies().validate_json(zlib.decompress(body))


def _packed_candidates(some: Sequence[Candidate]) -> bytes:
    return zlib.compress(_candidates().dump_json(list(some)), level=1)


def _unpacked_candidates(body: bytes) -> Sequence[Candidate]:
    return _candidates().validate_json(zlib.decompress(body))


@lru_cache(maxsize=1)
def _bodies() -> TypeAdapter[Trace]:
    return TypeAdapter(Trace)


@lru_cache(maxsize=1)
def _candidates() -> TypeAdapter[list[Candidate]]:
    return TypeAdapter(list[Candidate])


def _no_trace(trace_id: str) -> NotFound:
    return NotFound(
        f"There is no trace {trace_id[:80]!r}.",
        hint="Traces are kept for a while (RAG_TRACES_KEPT_DAYS), and go with the documents that"
        " they show.",
    )
