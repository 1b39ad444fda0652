"""API keys: who a caller is, and what the key lets it do.

A key is 256 random bits behind a prefix that names it, shown once when it is made. What is kept is
the SHA-256 of the whole: nobody can guess 256 bits, so a slow hash would only cost every request.
A key is found by its prefix and compared in constant time.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

import sqlalchemy as sa

from rag.access import check_group
from rag.catalog import NAME
from rag.database import Database, utc
from rag.errors import InvalidInput, NotFound, StorageFull, StoreUnreachable, Unauthenticated
from rag.tables import api_keys
from rag.types import Scope

log = logging.getLogger(__name__)

Role = Literal["read", "write", "admin", "operator"]
Permission = Literal["read", "write", "admin", "operate"]
ROLES: tuple[Role, ...] = get_args(Role)
PERMITS: Mapping[Role, frozenset[Permission]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
    "operator": frozenset({"operate"}),  # metrics and backups of all tenants, no document
}
MARK = "rag"
SECRET_BYTES = 32
USED_EVERY = timedelta(minutes=1)  # `used_at` is no more exact: a write for every request is dear
_PREFIX_LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
_PREFIX_LENGTH = 10


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is listed. `groups` and `collections` None: all of the tenant's."""

    prefix: str
    name: str
    tenant: str
    role: Role
    groups: frozenset[str] | None
    collections: frozenset[str] | None
    per_minute: int | None  # requests; None: the setting
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    used_at: datetime | None

    @property
    def scope(self) -> Scope:
        """What its bearer may touch; only an admin sees the traces of others."""
        caller = None if self.role == "admin" else f"key:{self.prefix}"
        return Scope(self.tenant, self.groups, self.collections, caller)

    def state(self, now: datetime) -> str:
        """active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class Keys:
    """Thread-safe."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        role: Role,
        *,
        tenant: str = "default",
        groups: Iterable[str] | None = (),
        collections: Iterable[str] | None = (),
        expires_at: datetime | None = None,
        per_minute: int | None = None,
    ) -> tuple[Key, str]:
        """(the key, its secret text): the text is shown to whoever asked, and kept nowhere.

        What is not given is not allowed: no collection, and of documents only those that name no
        group. None allows all. Raises InvalidInput.
        """
        given = {
            "name": name,
            "role": role,
            "tenant": tenant,
            "groups": None if groups is None else sorted(set(groups)),
            "collections": None if collections is None else sorted(set(collections)),
            "per_minute": per_minute,
        }
        now = datetime.now(UTC)
        _check(given, expires_at, now)
        prefix = "".join(secrets.choice(_PREFIX_LETTERS) for _ in range(_PREFIX_LENGTH))
        text = f"{MARK}_{prefix}_{secrets.token_urlsafe(SECRET_BYTES)}"
        row = {
            **given,
            "prefix": prefix,
            "digest": _digest(text),
            "created_at": now,
            "expires_at": expires_at,
        }
        with self._database.write() as connection:
            connection.execute(api_keys.insert().values(row))
        return self.key(prefix), text

    def authenticate(self, text: str) -> Key:
        """The key of a text that a caller sent. Raises Unauthenticated, saying no more than that.

        An unknown prefix takes the same steps as a wrong secret.
        """
        prefix = text.split("_")[1] if text.count("_") >= 2 else ""
        with self._database.read() as connection:
            row = connection.execute(_named(prefix)).mappings().one_or_none()
        known = row["digest"] if row is not None else _digest("")
        if not hmac.compare_digest(known, _digest(text)) or row is None:
            raise refused()
        found, now = _key(row), datetime.now(UTC)
        if found.state(now) != "active":
            raise refused()
        if found.used_at is None or now - found.used_at > USED_EVERY:
            self._note_use(prefix, now)
        return found

    def _note_use(self, prefix: str, now: datetime) -> None:
        """Where nothing can be written, keys still open: questions are answered on a full disk."""
        used = api_keys.update().where(api_keys.c.prefix == prefix).values(used_at=now)
        try:
            with self._database.write() as connection:
                connection.execute(used)
        except (StorageFull, StoreUnreachable) as error:
            log.warning("when key %s was used last is not kept: %s", prefix, error)

    def key(self, prefix: str) -> Key:
        """One of them. Raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(_named(prefix)).mappings().one_or_none()
        if row is None:
            raise _no_key(prefix)
        return _key(row)

    def every(self, tenant: str | None = None) -> list[Key]:
        """All there ever were, or a tenant's, oldest first."""
        query = api_keys.select().order_by(api_keys.c.created_at, api_keys.c.prefix)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._database.read() as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, prefix: str) -> Key:
        """End a key, effective with the next request. Raises NotFound."""
        with self._database.write() as connection:
            mine = sa.and_(api_keys.c.prefix == prefix, api_keys.c.revoked_at.is_(None))
            connection.execute(api_keys.update().where(mine).values(revoked_at=datetime.now(UTC)))
        return self.key(prefix)

    def exist(self) -> bool:
        """Whether there ever was one: who revokes the last one opens nothing."""
        with self._database.read() as connection:
            return connection.execute(sa.select(api_keys.c.prefix).limit(1)).first() is not None


def refused() -> Unauthenticated:
    """The same words for a key that never was, a wrong one, and one that has ended."""
    return Unauthenticated(
        "The API key is not valid.",
        hint="Send a valid one as `Authorization: Bearer rag_...`; `rag keys create` makes one.",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf8", "surrogatepass")).hexdigest()


def _named(prefix: str) -> sa.Select[Any]:
    return api_keys.select().where(api_keys.c.prefix == prefix)


def _key(row: Mapping[Any, Any]) -> Key:
    fields = utc(row)
    del fields["digest"]
    for name in ("groups", "collections"):
        if fields[name] is not None:
            fields[name] = frozenset(fields[name])
    return Key(**fields)


def _check(given: Mapping[str, Any], expires_at: datetime | None, now: datetime) -> None:
    if not 1 <= len(given["name"]) <= 200 or not given["name"].isprintable():
        raise InvalidInput("A key's name has 1 to 200 printable characters.")
    if given["role"] not in ROLES:
        raise InvalidInput(f"There is no role {given['role']!r}.", hint=f"Use {', '.join(ROLES)}.")
    check_tenant(given["tenant"])
    for group in given["groups"] or ():
        check_group(group)
    for collection in given["collections"] or ():
        if not NAME.fullmatch(collection):
            raise InvalidInput(f"{collection[:80]!r} cannot name a collection.")
    if given["per_minute"] is not None and given["per_minute"] < 1:
        raise InvalidInput("A key takes at least 1 request per minute.")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("The key would have expired already.")


def check_tenant(tenant: str) -> None:
    """Raise InvalidInput for what cannot name a tenant."""
    if not 1 <= len(tenant) <= 200 or not tenant.isprintable() or not tenant.strip():
        raise InvalidInput(f"{tenant!r:.80} cannot name a tenant.")


def _no_key(prefix: str) -> NotFound:
    return NotFound(
        f"There is no key {prefix[:20]!r}.",
        hint="`rag keys ls` lists them by the prefix between the underscores.",
    )
