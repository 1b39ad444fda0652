"""The audit log: every write and every denial, by whom, from where, and how it ended."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from rag.database import Database, utc
from rag.tables import audit

_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Entry:
    """One request. `action` is method and operation, `target` the path without its query."""

    at: datetime
    tenant: str
    caller: str
    action: str
    target: str
    status: int
    address: str
    request_id: str


class Audit:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def write(self, entry: Entry) -> None:
        """Write one down. Raises StoreUnreachable, StorageFull."""
        with self._database.write() as connection:
            connection.execute(audit.insert().values(asdict(entry)))

    def entries(self, tenant: str | None = None, *, limit: int = 100) -> list[Entry]:
        """The latest, or a tenant's, newest first."""
        query = audit.select().order_by(audit.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(audit.c.tenant == tenant)
        with self._database.read() as connection:
            return [_entry(row) for row in connection.execute(query).mappings()]

    def forget(self, before: datetime) -> int:
        """Forget what is older, a few hundred in a transaction. Returns how many."""
        some = sa.select(audit.c.id).where(audit.c.at < before).limit(_AT_ONCE)
        count = 0
        while True:
            with self._database.write() as connection:
                ids = list(connection.execute(some).scalars())
                connection.execute(audit.delete().where(audit.c.id.in_(ids)))
            count += len(ids)
            if len(ids) < _AT_ONCE:
                return count


def _entry(row: Mapping[Any, Any]) -> Entry:
    fields = utc(row)
    del fields["id"]
    return Entry(**fields)
