"""The journal of ingestion: what was accepted, who works on it, how far it is, how it ended.

A job is what was sent together, a task one document of it. A task's states:

    receiving   its bytes are on their way to the object store; nothing has been promised yet
    queued      promised: whatever dies, it will be tried
    running     somebody works on it, and holds a lease that has to be renewed
    done        its document is live (or was already); `report` says what became of it
    failed      it cannot become a document; `error` says why
    cancelled   somebody asked for that

The move to `done` is part of the transaction that makes the document live, so neither can be there
without the other. Who lost a lease (it slept too long, its machine was gone) can finish nothing:
every step asks first whether the task is still its own.

The transaction that makes a mail live also queues its attachments, as tasks of the same job, and
cancels those of attachments that it no longer has. A password is kept until its task ends.
"""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from rag import access, errors
from rag.catalog import Catalog, Collection, DocumentRecord, Revision, no_document
from rag.database import Database, utc
from rag.errors import Cancelled, Conflict, NotFound, Overloaded, RagError
from rag.objects import digest
from rag.sources import Source
from rag.tables import collections, documents, generations, jobs, migrations, tasks
from rag.types import DocumentReport, Scope

State = Literal["receiving", "queued", "running", "done", "failed", "cancelled"]
OPEN = ("receiving", "queued", "running")

LEASE = timedelta(seconds=30)
AT_ONCE = 500  # documents in one statement
CLAIMS_KNOWN = 500  # of this process, the latest: far more than threads


class LeaseLost(Cancelled):
    """Somebody else works on the task now."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A document to be, and the digest of its bytes."""

    source: Source
    content_hash: str

    def attached_to(self, metadata: Mapping[str, Any]) -> "Arrival":
        """As what is attached to a document with these metadata: seen by those who see that."""
        source = replace(self.source, metadata=access.guarded(self.source.metadata, metadata))
        return replace(self, source=source)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task failed: the error's class (see `rag.errors`), message and hint."""

    kind: str
    message: str
    hint: str

    @classmethod
    def of(cls, error: RagError) -> "Failure":
        """From what was raised."""
        return cls(type(error).__name__, error.message, error.hint)

    def as_error(self) -> RagError:
        """What was raised."""
        kind = getattr(errors, self.kind, RagError)
        error: RagError = kind(self.message, hint=self.hint)
        return error


@dataclass(frozen=True, slots=True)
class Task:
    """One document on its way in. `done` of `total` chunks are in the store, and on its disk.

    `starts` counts how often somebody began since it last got on; `retries` how often it was put
    back because something that can heal did not answer. `groups` are those of whoever sent it.
    """

    id: int
    job_id: str
    scope: Scope
    groups: frozenset[str] | None
    collection: str
    document_id: str
    source: Source
    content_hash: str
    state: State
    stage: str
    done: int
    total: int
    generation: int | None
    owner: str | None
    starts: int
    retries: int
    not_before: datetime | None
    report: DocumentReport | None
    error: Failure | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """Documents that were sent together."""

    id: str
    collection: str
    created_at: datetime
    tasks: tuple[Task, ...]

    @property
    def state(self) -> State:
        """Of all tasks together; `failed` means that none of them became a document."""
        states = {task.state for task in self.tasks}
        for state in ("receiving", "running"):
            if state in states:
                return state
        if "queued" in states:
            return "queued" if states == {"queued"} else "running"
        return next((state for state in ("done", "failed") if state in states), "cancelled")

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return not any(task.state in OPEN for task in self.tasks)


class Journal:
    """Thread-safe. `owner` names this process; each claim of a task has a name of its own, so that
    of two who believe that a task is theirs one is wrong, in one process as well.
    """

    def __init__(self, database: Database, catalog: Catalog, *, owner: str | None = None) -> None:
        self._database = database
        self._catalog = catalog
        self.owner = owner or uuid4().hex
        self._claims: deque[str] = deque(maxlen=CLAIMS_KNOWN)

    # Accepting

    def receive(
        self,
        scope: Scope,
        collection: str,
        arrivals: Sequence[Arrival],
        *,
        most_waiting: int,
        key: str | None = None,
    ) -> tuple[str, bool]:
        """(the job's id, whether it is new), before its bytes are kept.

        Forbidden where one would replace a document that the scope does not see.

        From here on nothing takes the objects of these digests away. The same `key` again is the
        same job; Conflict when something else was sent under it. Raises NotFound, Overloaded.
        """
        now = _now()
        request_hash = _request_hash(arrivals)
        if key is not None and scope.caller is not None:  # another's key is another key
            key = digest(f"{scope.caller} {key}".encode())
        with _same_key_at_once(), self._database.write() as connection:
            found = self._catalog.locked(connection, scope, collection, shared=True)
            if key is not None:
                query = sa.select(jobs.c.id, jobs.c.request_hash).where(
                    jobs.c.collection_id == found.id, jobs.c.idempotency_key == key
                )
                if row := connection.execute(query).one_or_none():
                    if row.request_hash != request_hash:
                        raise Conflict(
                            "Something else was sent under this Idempotency-Key.",
                            hint="Use a new key for a new request.",
                        )
                    if self._is_receiving(connection, row.id):
                        raise Overloaded("The same request is just being received.")
                    return str(row.id), False
            ids = [arrival.source.document_id for arrival in arrivals]
            for some in _parts(ids):
                self._catalog.check_seen(connection, scope, found, some)
            _check_room(connection, most_waiting)
            self._database.lock_objects(connection, shared=True)
            job_id = uuid4().hex
            connection.execute(
                jobs.insert().values(
                    id=job_id,
                    collection_id=found.id,
                    idempotency_key=key,
                    request_hash=request_hash,
                    created_at=now,
                )
            )
            rows = [
                {
                    **_row(arrival, job_id, position, found, scope.groups, now),
                    "state": "receiving",
                    "owner": self.owner,
                    "lease_until": now + LEASE,
                }
                for position, arrival in enumerate(arrivals)
            ]
            connection.execute(tasks.insert(), rows)
        return job_id, True

    def accept(self, job_id: str) -> None:
        """Every byte of the job is on the disk: promise it. Raises Overloaded."""
        with self._database.write() as connection:
            mine = sa.and_(tasks.c.job_id == job_id, tasks.c.state == "receiving")
            changed = connection.execute(
                tasks.update()
                .where(mine, tasks.c.owner == self.owner)
                .values(state="queued", owner=None, lease_until=None, updated_at=_now())
            )
            if not changed.rowcount:
                raise Overloaded("The upload took too long to be kept.", hint="Send it again.")

    def refuse(self, job_id: str, hashes: Set[str]) -> None:
        """Forget a job whose bytes could not be kept, and those of them that were."""
        with self._database.write() as connection:
            self._forget_received(connection, tasks.c.job_id == job_id)
            self._catalog.doom(connection, hashes)
        self._catalog.drop_doomed()

    # Working

    def claim(self, *, per_collection: int = 0) -> Task | None:
        """The oldest task that may begin, now the caller's own; None when there is none.

        One document's tasks are worked on in their order, and at most `per_collection` tasks of a
        collection at once, by all processes together (0: any number). A task whose lease has ended
        is up again.
        """
        now = _now()
        queued = sa.and_(
            tasks.c.state == "queued",
            sa.or_(tasks.c.not_before.is_(None), tasks.c.not_before <= now),
        )
        expired = sa.and_(tasks.c.state == "running", tasks.c.lease_until <= now)
        # Two questions, each answered at the head of the index by state. Asked as one, the database
        # would look at every task that waits, or at all that ever were.
        with self._database.write() as connection:
            full, some_expired = _running(connection, per_collection, now)
            due = [queued, expired] if some_expired else [queued]
            found = [_first(connection, one, full) for one in due]
            picked = min((one for one in found if one is not None), default=None)
            if picked is None:
                return None
            connection.execute(
                tasks.update()
                .where(tasks.c.id == picked)
                .values(
                    state="running",
                    owner=self._new_owner(),
                    stage=sa.case((tasks.c.generation.is_(None), "parse"), else_=tasks.c.stage),
                    lease_until=now + LEASE,
                    starts=tasks.c.starts + 1,
                    not_before=None,
                    updated_at=now,
                )
            )
            return self._task(connection, picked)

    def renew(self, held: Iterable[str], receiving: Iterable[str] = ()) -> set[str]:
        """Renew the leases of claims, and of the jobs that are just being received.

        Returns those of the claims that still hold.
        """
        claimed = sa.and_(tasks.c.state == "running", tasks.c.owner.in_(list(held)))
        received = sa.and_(tasks.c.state == "receiving", tasks.c.job_id.in_(list(receiving)))
        with self._database.write() as connection:
            query = tasks.update().where(sa.or_(claimed, received))
            connection.execute(query.values(lease_until=_now() + LEASE))
            return set(connection.execute(sa.select(tasks.c.owner).where(claimed)).scalars())

    def release(self, task: Task) -> None:
        """Nobody writes for a cancelled task any more: its generation may be purged."""
        mine = sa.and_(
            tasks.c.id == task.id, tasks.c.owner == task.owner, tasks.c.state == "cancelled"
        )
        with self._database.read() as connection:  # few are: others need not wait for a write
            if connection.execute(sa.select(tasks.c.id).where(mine)).first() is None:
                return
        with self._database.write() as connection:
            connection.execute(tasks.update().where(mine).values(owner=None, lease_until=None))

    def open_generation(
        self, task: Task, *, text_hash: str, parsed_hash: str, attached: Iterable[str] = ()
    ) -> Task:
        """A generation for the task to write into. Raises LeaseLost."""
        with self._database.write() as connection:
            self._hold(connection, task)
            self._abandon(connection, tasks.c.id == task.id)  # what cannot be gone on with
            opened = self._catalog.begin_generation(
                task.scope,
                task.collection,
                task.document_id,
                content_hash=task.content_hash,
                text_hash=text_hash,
                parsed_hash=parsed_hash,
                attached=attached,
                within=connection,
            )
            self._set(connection, task, stage="embed", generation=opened, done=0, total=0, starts=0)
        return replace(task, generation=opened, done=0, total=0)

    def written(self, task: Task) -> tuple[int, str, str] | None:
        """(generation, text hash, parsed hash) of what an earlier attempt was writing."""
        query = sa.select(generations.c.id, generations.c.text_hash, generations.c.parsed_hash)
        mine = sa.and_(generations.c.id == task.generation, generations.c.state == "writing")
        with self._database.read() as connection:
            row = connection.execute(query.where(mine)).one_or_none()
        return (row[0], row[1], row[2]) if row else None

    def progress(self, task: Task, stage: str, done: int, total: int) -> None:
        """How far the task is; what is `done` will not be done again. Raises LeaseLost."""
        with self._database.write() as connection:
            self._hold(connection, task)
            got_on = {"starts": 0} if done else {}
            self._set(connection, task, stage=stage, done=done, total=total, **got_on)

    def flip(
        self,
        task: Task,
        revision: Revision,
        report_of: Callable[[bool], DocumentReport],
        children: Sequence[Arrival] = (),
    ) -> tuple[DocumentReport, set[str]]:
        """Make the task's generation the live one and the task done, in one transaction.

        `report_of` makes the report of whether a document was replaced. `children` are queued, the
        revision's attachments; those that it no longer has are deleted with what was accepted of
        them, and their ids returned: their points are to be purged. Raises LeaseLost, and Forbidden
        where a document came to be in the meantime that the sender does not see.
        """
        gone: set[str] = set()
        with self._database.write() as connection:
            found = self._catalog.locked(connection, task.scope, task.collection)
            self._hold(connection, task)
            live = self._catalog.live_generations(
                task.scope, task.collection, [task.document_id], within=connection
            )
            is_newer = live.get(task.document_id, 0) < revision.generation
            if is_newer:
                # Before the flip: tasks are locked before generations.
                gone = self._catalog.descendants(
                    task.scope,
                    found,
                    {task.document_id},
                    but=revision.children,
                    within=connection,
                )
                self._give_up(connection, *_attached(found, gone))
            sender = replace(task.scope, groups=task.groups)
            flipped = self._catalog.flip(sender, task.collection, revision, within=connection)
            if not flipped and is_newer:
                raise LeaseLost(f"What was written of {task.document_id!r} was given up.")
            report = report_of(bool(live))
            if flipped and children:
                self._queue(connection, task, found, children)
            all_of_it = {"done": revision.chunks, "total": revision.chunks}
            self._end(connection, task, "done", report=asdict(report), **all_of_it)
        return report, gone

    def unchanged(
        self, task: Task, report: DocumentReport, children: Sequence[Arrival] = ()
    ) -> None:
        """The document was made of the same already; `children` of it are missing, and queued.

        Raises LeaseLost.
        """
        with self._database.write() as connection:
            found = self._catalog.collection(task.scope, task.collection, within=connection)
            if children:  # a delete of the document comes before this, or after it
                self._catalog.locked(connection, task.scope, found)
            self._hold(connection, task)
            if children and self._catalog.live_generations(
                task.scope, task.collection, [task.document_id], within=connection
            ):
                self._queue(connection, task, found, children)
            self._end(connection, task, "done", report=asdict(report))

    def fail(self, task: Task, error: RagError) -> None:
        """The task cannot become a document: final, until somebody retries it."""
        with self._database.write() as connection:
            self._hold(connection, task)
            mine = tasks.c.id == task.id
            self._abandon(connection, mine)
            self._end(connection, task, "failed", error=asdict(Failure.of(error)))

    def put_back(self, task: Task, *, after: timedelta, error: RagError | None = None) -> None:
        """Let the task be tried again later, from where it is.

        With an error it counts as a retry; without one (the process stops) as if never begun.
        """
        with self._database.write() as connection:
            self._hold(connection, task)
            self._set(
                connection,
                task,
                state="queued",
                owner=None,
                lease_until=None,
                not_before=_now() + after if after else None,
                starts=0,
                retries=tasks.c.retries + int(error is not None),
                error=asdict(Failure.of(error)) if error else None,
            )

    def recover(self) -> int:
        """Take over every task of processes that are gone, where nobody else can be working.

        For a data folder that this process holds alone. Returns how many tasks were at work.
        """
        with self._database.write() as connection:
            self._forget_received(connection, tasks.c.owner != self.owner)
            changed = connection.execute(
                tasks.update()
                .where(tasks.c.state == "running", tasks.c.owner.not_in(self._claims))
                .values(state="queued", owner=None, lease_until=None)
            )
            connection.execute(
                tasks.update()
                .where(tasks.c.state == "cancelled", tasks.c.owner.not_in(self._claims))
                .values(owner=None, lease_until=None)
            )
        self._catalog.drop_doomed()
        return changed.rowcount

    def expire(self) -> None:
        """Forget what was being received by processes that are gone."""
        with self._database.write() as connection:
            self._forget_received(connection, tasks.c.lease_until <= _now())
        self._catalog.drop_doomed()

    # Looking

    def job(self, scope: Scope, job_id: str) -> Job:
        """A job of the scope. Raises NotFound."""
        with self._database.read() as connection:
            query = _jobs(scope).where(jobs.c.id == job_id)
            row = connection.execute(query).mappings().one_or_none()
            if row is None:
                raise _no_job(job_id)
            return self._job(connection, row)

    def list_jobs(
        self, scope: Scope, *, collection: str | None = None, before: str = "", limit: int = 100
    ) -> list[Job]:
        """Jobs of the scope, newest first, from the one before job `before` on."""
        query = _jobs(scope).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
        if collection is not None:
            query = query.where(collections.c.name == collection)
        if before:
            at = self.job(scope, before).created_at
            query = query.where(
                sa.tuple_(jobs.c.created_at, jobs.c.id) < sa.tuple_(sa.literal(at), before)
            )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            return [self._job(connection, row) for row in rows]

    def states(self) -> dict[State, int]:
        """How many tasks are in each state, of all tenants."""
        query = sa.select(tasks.c.state, sa.func.count()).group_by(tasks.c.state)
        with self._database.read() as connection:
            counted = {row[0]: row[1] for row in connection.execute(query)}
        return {state: counted.get(state, 0) for state in get_args(State)}

    def open_jobs(self, scope: Scope) -> list[Job]:
        """Those of the scope that were accepted and are not done, the oldest first."""
        promised = sa.exists().where(
            tasks.c.job_id == jobs.c.id, tasks.c.state.in_(("queued", "running"))
        )
        query = _jobs(scope).where(promised).order_by(jobs.c.created_at, jobs.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
            return [self._job(connection, row) for row in rows]

    def has_ended(self, job_id: str) -> bool:
        """Whether nothing of a job is open."""
        query = sa.select(tasks.c.id).where(tasks.c.job_id == job_id, tasks.c.state.in_(OPEN))
        with self._database.read() as connection:
            return connection.execute(query.limit(1)).first() is None

    # Asking for

    def retry(self, scope: Scope, job_id: str) -> Job:
        """Queue a job's failed and cancelled documents again.

        Not those that came with a password, which is forgotten. From then on they are whoever
        asked's as well, and replace nothing that one of the two does not see. Raises NotFound,
        Conflict, Forbidden.
        """
        job = self.job(scope, job_id)
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, job.collection, shared=True)
            ended = sa.and_(
                tasks.c.job_id == job_id,
                tasks.c.state.in_(("failed", "cancelled")),
                tasks.c.content_hash != "",  # those of deleted documents are gone
                sa.or_(tasks.c.lease_until.is_(None), tasks.c.lease_until <= _now()),
            )
            self._take_over(connection, scope, found, ended)
            locked = connection.execute(
                tasks.update()
                .where(ended, tasks.c.password.is_not(None))
                .values(error=asdict(Failure.of(_forgotten_password())))
            )
            changed = connection.execute(
                tasks.update()
                .where(ended, tasks.c.password.is_(None))
                .values(
                    state="queued", stage="", done=0, total=0, generation=None, starts=0, retries=0,
                    not_before=None, owner=None, lease_until=None, report=None, error=None,
                    updated_at=_now(),
                )
            )  # fmt: skip
            if locked.rowcount and not changed.rowcount:
                raise _forgotten_password()
            if not changed.rowcount:
                raise Conflict(
                    f"No document of job {job_id} failed or was cancelled,"
                    " or it was deleted since.",
                    hint="GET /v1/jobs/{id} shows how it goes on.",
                )
            # Within the transaction, before anybody can begin: the answer is no race's end.
            mine = _jobs(scope).where(jobs.c.id == job_id)
            return self._job(connection, connection.execute(mine).mappings().one())

    def cancel(self, scope: Scope, job_id: str) -> Job:
        """Cancel what of a job is not done, what runs included. Raises NotFound."""
        self.job(scope, job_id)
        with self._database.write() as connection:
            self._cancel(connection, tasks.c.job_id == job_id)
        return self.job(scope, job_id)

    def delete_document(self, scope: Scope, collection: str, document_id: str) -> set[str]:
        """Delete a document, and cancel what was accepted of it before. Effective at commit.

        So are its attachments, whose ids are returned. Raises NotFound when there is neither.
        """
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, collection)
            mine = sa.and_(
                tasks.c.collection_id == found.id,
                tasks.c.document_id == document_id,
                access.document_rows(scope, tasks.c.acl),
            )
            if self._catalog.hidden(connection, scope, found, [document_id]):
                self._catalog.document(scope, found, document_id, within=connection)  # NotFound
            below = self._catalog.descendants(scope, found, {document_id}, within=connection)
            cancelled = self._give_up(connection, mine, *_attached(found, below))
            try:
                self._catalog.delete_document(scope, collection, document_id, within=connection)
            except NotFound:
                if not cancelled:
                    raise
        self._catalog.drop_doomed()
        return below

    def delete_documents(
        self,
        scope: Scope,
        collection: str,
        document_ids: Sequence[str],
        still: Callable[[DocumentRecord], bool],
    ) -> list[str]:
        """Delete, all in one transaction, those of the documents for which `still` holds in it.

        What was accepted of them before is cancelled, and what is attached to them goes with them.
        Returns the ids of all that were deleted and seen.
        """
        deleted: set[str] = set()
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, collection)
            for part in _parts(document_ids):
                records = self._catalog.records(connection, scope, found, part)
                going = [record.id for record in records if still(record)]
                below = self._catalog.descendants(scope, found, set(going), within=connection)
                mine = sa.and_(tasks.c.collection_id == found.id, tasks.c.document_id.in_(going))
                self._give_up(connection, mine, *_attached(found, below))
                for some in _parts(sorted(below)):
                    seen = self._catalog.records(connection, scope, found, some)
                    deleted |= {record.id for record in seen}
                deleted |= {*self._catalog.delete_documents(connection, found, going)}
        self._catalog.drop_doomed()
        return sorted(deleted)

    def forget_document(self, scope: Scope, collection: str, document_id: str) -> bool:
        """Forget a deleted document's tasks, and jobs that held no other; those that are seen.

        False when somebody may still be working on one of them, or one was accepted since: then
        these stay. Raises NotFound for a document that the scope does not see.
        """
        with self._database.write() as connection:
            found = self._catalog.locked(connection, scope, collection)
            self.check_known(connection, scope, found, document_id)
            mine = sa.and_(
                tasks.c.collection_id == found.id,
                tasks.c.document_id == document_id,
                access.document_rows(scope, tasks.c.acl),
            )
            let_go = sa.or_(tasks.c.lease_until.is_(None), tasks.c.lease_until <= _now())
            going = sa.and_(mine, tasks.c.state.not_in(OPEN), let_go)
            query = sa.select(tasks.c.id, tasks.c.job_id, tasks.c.content_hash).where(going)
            rows = connection.execute(query.order_by(tasks.c.id).with_for_update()).all()
            connection.execute(tasks.delete().where(tasks.c.id.in_([row.id for row in rows])))
            emptied = jobs.c.id.in_({row.job_id for row in rows})
            rest = sa.exists().where(tasks.c.job_id == jobs.c.id)
            connection.execute(jobs.delete().where(emptied, ~rest))
            self._catalog.doom(connection, {row.content_hash for row in rows} - {""})
            left = connection.execute(sa.select(tasks.c.id).where(mine).limit(1)).first()
        self._catalog.drop_doomed()
        return left is None

    def check_known(
        self, connection: sa.Connection, scope: Scope, found: Collection, document_id: str
    ) -> None:
        """Raise NotFound for a document, there or on its way, that the scope does not see."""
        if self._catalog.records(connection, scope, found, [document_id]):
            return
        of = sa.and_(tasks.c.collection_id == found.id, tasks.c.document_id == document_id)
        query = sa.select(tasks.c.id).where(of, ~access.document_rows(scope, tasks.c.acl)).limit(1)
        if (
            self._catalog.hidden(connection, scope, found, [document_id])
            or connection.execute(query).first() is not None
        ):
            raise no_document(document_id, found.name)

    def forget(self, before: datetime) -> None:
        """Forget jobs that ended before a time, and what was only kept for trying them again."""
        with self._database.write() as connection:
            still = sa.exists().where(
                tasks.c.job_id == jobs.c.id,
                sa.or_(tasks.c.state.in_(OPEN), tasks.c.updated_at >= before),
            )
            query = sa.select(jobs.c.id).where(jobs.c.created_at < before, ~still).limit(500)
            old = list(connection.execute(query).scalars())
            mine = tasks.c.job_id.in_(old)
            hashes = set(connection.execute(sa.select(tasks.c.content_hash).where(mine)).scalars())
            connection.execute(tasks.delete().where(mine))
            connection.execute(jobs.delete().where(jobs.c.id.in_(old)))
            self._catalog.doom(connection, hashes - {""})
        self._catalog.drop_doomed()

    # Inside a transaction

    def _take_over(
        self,
        connection: sa.Connection,
        scope: Scope,
        found: Collection,
        which: sa.ColumnElement[bool],
    ) -> None:
        """Leave tasks the groups that the scope has as well."""
        if scope.groups is None:
            return
        query = sa.select(tasks.c.id, tasks.c.document_id, tasks.c.groups).where(which)
        rows = connection.execute(query).all()
        for some in _parts([row.document_id for row in rows]):
            self._catalog.check_seen(connection, scope, found, some)
        for row in rows:
            both = scope.groups if row.groups is None else scope.groups.intersection(row.groups)
            mine = tasks.c.id == row.id
            connection.execute(tasks.update().where(mine).values(groups=sorted(both)))

    def _hold(self, connection: sa.Connection, task: Task) -> None:
        """Raise LeaseLost unless the claim holds; lock the task on Postgres."""
        query = sa.select(tasks.c.id).where(
            tasks.c.id == task.id, tasks.c.owner == task.owner, tasks.c.state == "running"
        )
        if connection.execute(query.with_for_update()).first() is None:
            raise LeaseLost(f"Somebody else works on {task.document_id!r} now.")

    def _forget_received(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
        mine = sa.and_(tasks.c.state == "receiving", which)
        hashes = set(connection.execute(sa.select(tasks.c.content_hash).where(mine)).scalars())
        connection.execute(tasks.delete().where(mine))
        connection.execute(jobs.delete().where(~sa.exists().where(tasks.c.job_id == jobs.c.id)))
        self._catalog.doom(connection, hashes - {""})

    def _cancel(self, connection: sa.Connection, *which: sa.ColumnElement[bool]) -> int:
        """Cancel tasks that wait or run.

        Whoever works on one finds out at its next step; until it lets go its lease keeps what it
        wrote from being purged, or the rest of it would come behind.
        """
        # All in one order, and before their generations: so does everybody who holds a task.
        for one in which:
            lock = sa.select(tasks.c.id).where(one).order_by(tasks.c.id).with_for_update()
            connection.execute(lock)
        cancelled = 0
        for one in which:
            mine = sa.and_(one, tasks.c.state.in_(("queued", "running")))
            self._abandon(connection, mine)
            query = tasks.update().where(mine)
            query = query.values(state="cancelled", password=_forgotten(), updated_at=_now())
            cancelled += connection.execute(query).rowcount
        return cancelled

    def _give_up(self, connection: sa.Connection, *which: sa.ColumnElement[bool]) -> int:
        """Cancel tasks; nothing of these documents is tried again. Returns how many were open."""
        cancelled = self._cancel(connection, *which)
        for mine in which:
            # What is only being received is promised later than this, and stays.
            ended = sa.and_(mine, tasks.c.state != "receiving")
            sent = set(connection.execute(sa.select(tasks.c.content_hash).where(ended)).scalars())
            connection.execute(tasks.update().where(ended).values(content_hash=""))
            self._catalog.doom(connection, sent - {""})
        return cancelled

    def _queue(
        self,
        connection: sa.Connection,
        task: Task,
        found: Collection,
        children: Sequence[Arrival],
    ) -> None:
        """Queue a document's attachments in its job. Their bytes are kept by its generation."""
        parent = self._catalog.document(task.scope, found, task.document_id, within=connection)
        children = [child.attached_to(parent.metadata) for child in children]
        query = sa.select(sa.func.max(tasks.c.position)).where(tasks.c.job_id == task.job_id)
        first = int(connection.execute(query).scalar_one()) + 1
        rows = [
            {
                **_row(child, task.job_id, position, found, task.groups, _now()),
                "state": "queued",
            }
            for position, child in enumerate(children, start=first)
        ]
        connection.execute(tasks.insert(), rows)

    def _is_receiving(self, connection: sa.Connection, job_id: str) -> bool:
        mine = sa.and_(tasks.c.job_id == job_id, tasks.c.state == "receiving")
        return connection.execute(sa.select(tasks.c.id).where(mine).limit(1)).first() is not None

    def _new_owner(self) -> str:
        owner = uuid4().hex
        self._claims.append(owner)
        return owner

    def _abandon(self, connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
        """Mark the unfinished generations of tasks, so that their points are purged."""
        written = sa.select(tasks.c.generation).where(which, tasks.c.generation.is_not(None))
        connection.execute(
            generations.update()
            .where(generations.c.id.in_(written), generations.c.state == "writing")
            .values(state="stale")
        )

    def _end(self, connection: sa.Connection, task: Task, state: State, **values: object) -> None:
        # The bytes are the generation's from now on: nobody will have to try again.
        cleared = {"error": None, "content_hash": ""} if state == "done" else {}
        values = {**cleared, "password": _forgotten(), **values}
        self._set(connection, task, state=state, owner=None, lease_until=None, **values)

    def _set(self, connection: sa.Connection, task: Task, **values: object) -> None:
        connection.execute(
            tasks.update().where(tasks.c.id == task.id).values(updated_at=_now(), **values)
        )

    def _job(self, connection: sa.Connection, row: Mapping[Any, Any]) -> Job:
        query = _tasks().where(tasks.c.job_id == row["id"]).order_by(tasks.c.position)
        found = tuple(_task(one) for one in connection.execute(query).mappings())
        return Job(row["id"], row["name"], utc(row)["created_at"], found)

    def _task(self, connection: sa.Connection, task_id: int) -> Task:
        query = _tasks().where(tasks.c.id == task_id)
        return _task(connection.execute(query).mappings().one())


def _jobs(scope: Scope) -> sa.Select[Any]:
    """Those that the scope reaches, none with a document that it does not see, then or now."""
    hidden = sa.exists().where(
        documents.c.collection_id == tasks.c.collection_id,
        documents.c.document_id == tasks.c.document_id,
        ~access.document_rows(scope, documents.c.acl),
    )
    unseen = ~access.document_rows(scope, tasks.c.acl)
    if scope.groups is not None:
        unseen = sa.or_(unseen, hidden)
    return (
        sa.select(jobs, collections.c.name)
        .join(collections, collections.c.id == jobs.c.collection_id)
        .where(
            access.collection_rows(scope),
            ~sa.exists().where(tasks.c.job_id == jobs.c.id, unseen),
        )
    )


def _tasks() -> sa.Select[Any]:
    return sa.select(tasks, collections.c.name, collections.c.tenant).join(
        collections, collections.c.id == tasks.c.collection_id
    )


def _running(
    connection: sa.Connection, per_collection: int, now: datetime
) -> tuple[list[int], bool]:
    """(collections of which nothing may begin now, whether a lease has ended)."""
    query = sa.select(tasks.c.collection_id, tasks.c.lease_until > now)
    rows = connection.execute(query.where(tasks.c.state == "running")).all()
    at_work = Counter(collection for collection, holds in rows if holds)
    full = [one for one, count in at_work.items() if 0 < per_collection <= count]
    # Its index is about to be replaced: what begins now would be written for the old one.
    held_up = sa.select(migrations.c.collection_id).where(migrations.c.paused_until > now)
    full += connection.execute(held_up).scalars()
    return full, not all(holds for _, holds in rows)


def _first(
    connection: sa.Connection, due: sa.ColumnElement[bool], full: Sequence[int]
) -> int | None:
    """The oldest of the tasks that are due whose turn it is, locked on Postgres."""
    other = tasks.alias()
    in_order = ~sa.exists().where(
        other.c.collection_id == tasks.c.collection_id,
        other.c.document_id == tasks.c.document_id,
        other.c.id < tasks.c.id,
        other.c.state.in_(("queued", "running")),
    )
    pick = (
        sa.select(tasks.c.id)
        .where(due, in_order, tasks.c.collection_id.not_in(full))
        .order_by(tasks.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=tasks)
    )
    return connection.execute(pick).scalar_one_or_none()


def _task(row: Mapping[Any, Any]) -> Task:
    fields = utc(row)
    report, error = fields["report"], fields["error"]
    return Task(
        scope=Scope(fields["tenant"]),
        groups=None if fields["groups"] is None else frozenset(fields["groups"]),
        collection=fields["name"],
        source=Source(**fields["source"], password=fields["password"] or None),
        report=_report(report) if report else None,
        error=Failure(**error) if error else None,
        **{
            name: fields[name]
            for name in (
                "id", "job_id", "document_id", "content_hash", "state", "stage", "done", "total",
                "generation", "owner", "starts", "retries", "not_before", "updated_at",
            )
        },
    )  # fmt: skip


def _report(fields: Mapping[str, Any]) -> DocumentReport:
    return DocumentReport(**{**fields, "warnings": tuple(fields["warnings"])})


@contextmanager
def _same_key_at_once() -> Iterator[None]:
    """On Postgres a key may be taken, or a collection deleted, between look-up and insert."""
    try:
        yield
    except IntegrityError:
        raise Overloaded("Something like it is just being received. Try again.") from None


def _row(
    arrival: Arrival,
    job_id: str,
    position: int,
    found: Collection,
    groups: Set[str] | None,
    now: datetime,
) -> dict[str, Any]:
    """A task as it begins, but for its state."""
    source = arrival.source
    return {
        "job_id": job_id,
        "position": position,
        "collection_id": found.id,
        "document_id": source.document_id,
        "parent": source.parent or None,
        "source": _packed(source),
        "password": source.password or None,
        "acl": access.packed(source.metadata),
        "groups": None if groups is None else sorted(groups),
        "content_hash": arrival.content_hash,
        "stage": "",
        "done": 0,
        "total": 0,
        "starts": 0,
        "retries": 0,
        "updated_at": now,
    }


def _request_hash(arrivals: Sequence[Arrival]) -> str:
    """What was sent, but of passwords only whether there is one: guesses could be tried on more."""
    sent = [
        (_packed(one.source), one.content_hash, *(["password"] if one.source.password else []))
        for one in arrivals
    ]
    return digest(json.dumps(sent, sort_keys=True).encode())


def _attached(found: Collection, ids: Set[str]) -> list[sa.ColumnElement[bool]]:
    """Picks the tasks of attachments; several, because databases bound the number of parameters."""
    return [
        sa.and_(
            tasks.c.collection_id == found.id,
            tasks.c.document_id.in_(some),
            tasks.c.parent.is_not(None),  # else somebody sent it as a document of its own
        )
        for some in _parts(sorted(ids))
    ]


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many at once as a statement takes."""
    return (ids[at : at + AT_ONCE] for at in range(0, len(ids), AT_ONCE))


def _forgotten() -> sa.ColumnElement[str | None]:
    """What is left of a task's password: whether there was one."""
    return sa.case((tasks.c.password.is_not(None), ""), else_=None)


def _forgotten_password() -> Conflict:
    return Conflict(
        "The document came with a password, which was forgotten when the attempt ended.",
        hint="Send the document again, with its password.",
    )


def _packed(source: Source) -> dict[str, Any]:
    """All of a source but its bytes and its password.

    `is_text` says that the bytes are a text to be taken as it is.
    """
    attached = {"parent": source.parent, "depth": source.depth} if source.parent else {}
    assumed = {"acl_assumed": True} if source.acl_assumed else {}
    return {
        "name": source.name,
        "origin": source.origin,
        "id": source.document_id,
        "title": source.title,
        "media_type": source.media_type,
        "metadata": dict(source.metadata),
        "is_text": source.is_text,
        **attached,
        **assumed,
    }


def _open_jobs(connection: sa.Connection) -> int:
    query = sa.select(sa.func.count(sa.distinct(tasks.c.job_id))).where(tasks.c.state.in_(OPEN))
    return int(connection.execute(query).scalar_one())


def _check_room(connection: sa.Connection, most_waiting: int) -> None:
    if (waiting := _open_jobs(connection)) >= most_waiting:
        raise Overloaded(
            f"{waiting} uploads are waiting already.",
            retry_after=5.0,
            hint="Send this one again later; GET /v1/jobs/{id} shows how one goes on.",
        )


def _no_job(job_id: str) -> NotFound:
    return NotFound(
        f"There is no job {job_id[:80]!r}.",
        hint="GET /v1/jobs lists those there are; what ended long ago is forgotten.",
    )


def _now() -> datetime:
    return datetime.now(UTC)
