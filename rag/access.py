"""Who may see what: the one place where a scope becomes conditions on rows and points.

A collection is its tenant's. A document is seen by all who reach its collection, unless its
metadata have `acl`, a list of groups: then by members of one of them alone. Every look-up of a
collection, document, job, trace or answer asks here; nothing else compares tenants or groups.
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from rag.errors import InvalidInput
from rag.tables import collections
from rag.types import Scope

ACL = "acl"  # the key of metadata that names the groups
MAX_GROUPS = 32  # of one document
MAX_GROUP_CHARS = 200
_BAR = "|"


def tenant_rows(scope: Scope) -> sa.ColumnElement[bool]:
    """Which rows of `collections` are the scope's tenant's, also those that nobody can name."""
    return collections.c.tenant == scope.tenant


def collection_rows(scope: Scope) -> sa.ColumnElement[bool]:
    """Which rows of `collections` a scope reaches."""
    if scope.collections is None:
        return tenant_rows(scope)
    return sa.and_(tenant_rows(scope), collections.c.name.in_(sorted(scope.collections)))


def document_rows(scope: Scope, acl: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
    """Which documents a scope sees, of those in its collections; `acl` is a column of `packed`."""
    if scope.groups is None:
        return sa.true()
    # Not LIKE, which on SQLite does not tell upper case from lower.
    member = (sa.func.replace(acl, _between(group), "") != acl for group in sorted(scope.groups))
    return sa.or_(acl == "", *member)


def point_groups(scope: Scope) -> list[str] | None:
    """The groups of whose points one is enough, beside the points that name none; None: all."""
    return None if scope.groups is None else sorted(scope.groups)


def sees(scope: Scope, metadata: Mapping[str, Any]) -> bool:
    """Whether a scope sees a document with these metadata: what the conditions above say."""
    acl = groups_of(metadata)
    return scope.groups is None or not acl or not scope.groups.isdisjoint(acl)


def groups_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups that a document's metadata name; none: everybody of the tenant."""
    return tuple(metadata.get(ACL) or ())


def guarded(metadata: Mapping[str, Any], by: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata with the `acl` of others, or without one if these have none."""
    rest = {key: value for key, value in metadata.items() if key != ACL}
    return {**rest, ACL: by[ACL]} if ACL in by else rest


def packed(metadata: Mapping[str, Any]) -> str:
    """The groups as a column keeps them: `|finance|legal|`, empty for everybody."""
    groups = groups_of(metadata)
    return f"{_BAR}{_BAR.join(sorted(set(groups)))}{_BAR}" if groups else ""


def check_acl(metadata: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless `acl` is absent or a list of groups."""
    if ACL not in metadata:
        return
    acl = metadata[ACL]
    if not isinstance(acl, list | tuple) or len(acl) > MAX_GROUPS:
        raise InvalidInput(
            f"Metadata {ACL!r} must be a list of at most {MAX_GROUPS} groups.",
            hint="It says who may see the document; leave it out, or empty, for everybody.",
        )
    for group in acl:
        check_group(group)


def check_group(group: object) -> None:
    """Raise InvalidInput for what cannot name a group."""
    if (
        not isinstance(group, str)
        or not 1 <= len(group) <= MAX_GROUP_CHARS
        or not group.isprintable()
        or _BAR in group
    ):
        raise InvalidInput(
            f"{group!r:.80} cannot name a group.",
            hint=f"Use 1 to {MAX_GROUP_CHARS} printable characters without {_BAR!r}.",
        )


def _between(group: str) -> str:
    return f"{_BAR}{group}{_BAR}"
