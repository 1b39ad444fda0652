"""Documents that a filter picks, by id."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from rag.catalog import Catalog, DocumentRecord, Which
from rag.errors import InvalidInput
from rag.store.filters import Condition, document_conditions, matches
from rag.types import Scope

ROWS = 500  # that are read at once


def page(
    catalog: Catalog,
    scope: Scope,
    collection: str,
    filter: Mapping[str, Any] | None = None,
    *,
    after: str = "",
    limit: int = 100,
    most_read: int = 5000,
) -> tuple[list[DocumentRecord], str | None]:
    """Up to `limit` documents with an id behind `after`, and the `after` of the next page.

    A filter is tried on `most_read` documents, so a page may hold fewer, or none, and not be the
    last: that is the one whose `after` is None. Raises NotFound, InvalidInput.
    """
    conditions = document_conditions(filter)
    found: list[DocumentRecord] = []
    left = max(most_read, limit)
    while True:
        most = min(ROWS if conditions else limit, left)
        rows = catalog.documents(scope, collection, after=after, limit=most + 1)
        for row in rows[:most]:
            after = row.id
            if holds(conditions, row):
                found.append(row)
            if len(found) == limit:
                return found, after if row is not rows[-1] else None
        left -= most
        if len(rows) <= most:
            return found, None
        if left <= 0:
            return found, after


def every(
    catalog: Catalog, scope: Scope, collection: Which, conditions: Sequence[Condition] = ()
) -> Iterator[DocumentRecord]:
    """All documents for which the conditions hold."""
    after = ""
    while rows := catalog.documents(scope, collection, after=after, limit=ROWS):
        yield from (row for row in rows if holds(conditions, row))
        after = rows[-1].id


def picked_for_deletion(
    filter: Mapping[str, Any] | None,
) -> tuple[tuple[Condition, ...], Callable[[DocumentRecord], bool]]:
    """(conditions, whether they hold). Raises InvalidInput for a filter that picks everything."""
    conditions = document_conditions(filter)
    if not conditions:
        raise InvalidInput(
            "A filter that names nothing would delete every document.",
            hint='Name what is to go, such as {"author": "Stevenson"}; DELETE'
            " /v1/collections/{name} or `rag rm --all` deletes a whole collection.",
        )
    return conditions, partial(holds, conditions)


def holds(conditions: Sequence[Condition], record: DocumentRecord) -> bool:
    """Whether all conditions hold for a document."""
    own = {"document_id": record.id, "title": record.title, "source": record.source}
    return matches(conditions, own, record.metadata)
