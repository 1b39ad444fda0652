"""Who is asking, and what they may: a key, a token of an identity provider, or nobody at all.

Without keys the service is open to programs on this machine, and to no page in their browser. From
the first key on every request needs one, whatever becomes of that key.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from rag.access import ACL
from rag.database import Database
from rag.errors import Forbidden, InvalidInput, Overloaded, Unauthenticated
from rag.keys import MARK, PERMITS, Keys, Permission, Role, refused
from rag.settings import Settings
from rag.types import Metadata, Scope

EVERYTHING: frozenset[Permission] = frozenset({"read", "write", "admin", "operate"})
MOST_BUCKETS = 10_000
WRONG_KEYS_PER_MINUTE = 60  # of one address
# Put there by a proxy: who asks is then not on this machine, whatever the connection says.
FORWARDED = (
    "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-forwarded-server",
    "x-real-ip", "via", "cf-connecting-ip",
)  # fmt: skip
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` is fit for logs: `key:abcdefghij`, `user:alice`, `local`."""

    name: str
    role: Role | None  # None: nobody has keys, everything is allowed
    scope: Scope
    per_minute: int | None = None

    @property
    def permits(self) -> frozenset[Permission]:
        """What the caller may do."""
        return EVERYTHING if self.role is None else PERMITS[self.role]

    def needs(self, permission: Permission) -> None:
        """Raise Forbidden unless the caller has it."""
        if permission not in self.permits:
            raise Forbidden(
                f"A key of role {self.role!r} does not permit this.",
                hint=f"It takes the permission {permission!r}; see `rag keys create --help`.",
            )

    def own(self, metadata: Metadata) -> Metadata:
        """A document's metadata as this caller may set them.

        What the member of groups sends is its groups' alone unless `acl` says something else; it
        gives nothing to the groups of others. Raises Forbidden.
        """
        self.check_acl(metadata)
        groups = self.scope.groups
        if not groups or ACL in metadata:
            return metadata
        return {**metadata, ACL: sorted(groups)}

    def check_acl(self, metadata: Metadata) -> None:
        """Raise Forbidden when metadata give a document to groups that the caller is not in."""
        acl, groups = metadata.get(ACL), self.scope.groups
        if groups is None or not isinstance(acl, list | tuple):
            return
        foreign = [group for group in acl if group not in groups]
        if foreign:
            raise Forbidden(
                f"You are no member of {foreign[0]!r:.200}.",
                hint=f"`{ACL}` may name your own groups, or none for everybody.",
            )


def caller_of(state: Mapping[str, Any]) -> Caller:
    """Who sent a request, by its state. Raises Unauthenticated for one that passed no guard."""
    caller = state.get("caller")
    if not isinstance(caller, Caller):
        raise refused()
    return caller


class Tokens(Protocol):
    """What an identity provider's tokens say."""

    def caller(self, text: str) -> Caller:
        """Whose token it is. Raises Unauthenticated, StoreUnreachable, Overloaded."""


class Gate:
    """Tells who is asking. Thread-safe; its calls block on the database."""

    def __init__(
        self, settings: Settings, keys: Keys, open_scope: Scope, tokens: Tokens | None = None
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._open_scope = open_scope  # of everybody, as long as there are no keys
        self._tokens = tokens
        self._closed = tokens is not None
        self._rates = Rates()
        self._failures = Rates()

    @property
    def closed(self) -> bool:
        """Whether callers must say who they are: once true it stays true."""
        if not self._closed:
            self._closed = self._keys.exist()
        return self._closed

    def caller(self, headers: Mapping[str, str], address: str, method: str) -> Caller:
        """Who sends a request with these headers (names in lower case).

        Raises Unauthenticated, Forbidden, Overloaded, StoreUnreachable.
        """
        if not self.closed:
            self._check_local(headers, address, method)
            return Caller("local", None, self._open_scope)
        try:
            found = self._known(headers)
        except Unauthenticated:
            # Right ones are let in all the same: many may share an address.
            if not self._failures.take(address, WRONG_KEYS_PER_MINUTE):
                raise Overloaded(
                    "Too many wrong API keys came from there.",
                    retry_after=60 / WRONG_KEYS_PER_MINUTE,
                    hint="Send a valid one as `Authorization: Bearer rag_...`.",
                ) from None
            raise
        self._check_rate(found)
        return found

    def _known(self, headers: Mapping[str, str]) -> Caller:
        kind, _, text = headers.get("authorization", "").partition(" ")
        text = text.strip()
        if kind.casefold() != "bearer" or not text:
            raise Unauthenticated(
                "This service needs an API key.",
                hint="Send it as `Authorization: Bearer rag_...`; `rag keys create` makes one.",
            )
        if self._tokens is not None and not text.startswith(f"{MARK}_"):
            return self._tokens.caller(text)
        key = self._keys.authenticate(text)
        return Caller(f"key:{key.prefix}", key.role, key.scope, key.per_minute)

    def _check_rate(self, caller: Caller) -> None:
        per_minute = caller.per_minute or self._settings.requests_per_minute
        if per_minute and not self._rates.take(caller.name, per_minute):
            raise Overloaded(
                f"This key takes {per_minute} requests per minute.",
                retry_after=60.0 / per_minute,
                hint="Slow down, or have the limit raised (RAG_REQUESTS_PER_MINUTE, `rag keys`).",
            )

    def _check_local(self, headers: Mapping[str, str], address: str, method: str) -> None:
        """Raise Forbidden for whoever is not on this machine, and for pages in a browser on it.

        A page of somebody else's can send forms to any address, and by giving its own name a
        loopback address (DNS rebinding) read the answers, too.
        """
        host, origin = headers.get("host", ""), headers.get("origin", "")
        local = is_loopback(address) and is_loopback(_name(host))
        passed_on = any(name in headers for name in FORWARDED)
        if not self._settings.allow_open and (passed_on or not local):
            raise Forbidden(
                "Without API keys this service answers programs on its own machine alone.",
                hint="Make a key with `rag keys create` and send it as `Authorization: Bearer`.",
            )
        foreign = origin and _place(origin) != host.casefold()
        if foreign and method not in SAFE_METHODS and origin not in self._settings.cors_origins:
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not write here.",
                hint="RAG_CORS_ORIGINS names the origins that may.",
            )


def check_start(settings: Settings) -> None:
    """Raise InvalidInput where a server without keys would listen for others than this machine, or
    cannot read its certificate.
    """
    for path in (settings.tls_certificate, settings.tls_key):
        if path is not None and not path.is_file():
            raise InvalidInput(
                f"There is no file {path}.", hint="Check RAG_TLS_CERTIFICATE and RAG_TLS_KEY."
            )
    if settings.allow_open or settings.oidc_issuer or is_loopback(settings.host):
        return
    database = Database.open(settings.catalog_url)
    try:
        closed = Keys(database).exist()
    finally:
        database.close()
    if not closed:
        raise InvalidInput(
            f"Without API keys {settings.host} would be open to everybody who reaches it.",
            hint="Make one with `rag keys create`, listen on 127.0.0.1, or set RAG_ALLOW_OPEN=true"
            " where the network itself keeps others out.",
        )


def tokens_of(settings: Settings) -> Tokens | None:
    """The identity provider of the settings, None without one. Raises MissingExtra."""
    if not settings.oidc_issuer:
        return None
    from services.oidc import Issuer

    return Issuer.of(settings)


class Rates:
    """Token buckets by name: each holds a minute's worth, and refills evenly. Thread-safe.

    The names that were not seen longest are forgotten, with full buckets.
    """

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (left, at)
        self._guard = threading.Lock()

    def take(self, name: str, per_minute: int) -> bool:
        """Take one; False when none is left."""
        with self._guard:
            left = self._left(name, per_minute)
            taken = left >= 1
            self._buckets[name] = (left - taken, time.monotonic())
            self._buckets.move_to_end(name)
            while len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
            return taken

    def _left(self, name: str, per_minute: int) -> float:
        now = time.monotonic()
        left, at = self._buckets.get(name, (float(per_minute), now))
        return min(float(per_minute), left + (now - at) * per_minute / 60)


def _place(origin: str) -> str:
    """Host and port of an Origin header."""
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name of a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a host."""
    if host.casefold() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
