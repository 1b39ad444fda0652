"""Tokens of an identity provider (OpenID Connect): claims -> tenant, groups and role.

A token is taken when it was signed by a key that the issuer publishes, names this issuer and
audience, has not expired, and names a tenant. What it does not say is not allowed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import httpx
import jwt

from rag.access import check_group
from rag.errors import InvalidInput, Overloaded, StoreUnreachable, Unauthenticated
from rag.keys import Role, check_tenant
from rag.settings import Settings
from rag.types import Scope
from services.auth import Caller

log = logging.getLogger(__name__)

# Signatures by private keys only: with HS256 the published key would be the secret.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA")
LEEWAY = 30  # seconds that clocks may differ
FRESH_SECONDS = 600.0  # keys are fetched again after that
PAUSE_SECONDS = 30.0  # between two fetches, whatever callers send
AWAY_SECONDS = 3.0  # the same, as long as there are no keys at all
FETCH_SECONDS = 5.0
RANKS: tuple[Role, ...] = ("read", "write", "admin")  # no token makes an operator
MOST_GROUPS = 200

Fetch = Callable[[str], Mapping[str, Any]]


class Issuer:
    """Thread-safe."""

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        jwks_url: str = "",
        tenant_claim: str = "tenant",
        groups_claim: str = "groups",
        role_claim: str = "role",
        fetch: Fetch | None = None,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._jwks_url = jwks_url
        self._tenant_claim = tenant_claim
        self._groups_claim = groups_claim
        self._role_claim = role_claim
        self._fetch = fetch or _fetched
        self._fetching = threading.Lock()
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried = float("-inf")

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The issuer of the settings."""
        return cls(
            settings.oidc_issuer,
            settings.oidc_audience,
            jwks_url=settings.oidc_jwks_url,
            tenant_claim=settings.oidc_tenant_claim,
            groups_claim=settings.oidc_groups_claim,
            role_claim=settings.oidc_role_claim,
        )

    def caller(self, text: str) -> Caller:
        """Whose token it is.

        Raises Unauthenticated, StoreUnreachable without the issuer's keys, and Overloaded while
        somebody fetches them.
        """
        try:
            head = jwt.get_unverified_header(text)
            key = self._key(str(head.get("kid", "")))
            if key is None or head.get("alg") not in ALGORITHMS:
                raise _refused("it was not signed by a known key")
            claims = jwt.decode(
                text,
                key,
                algorithms=[str(head["alg"])],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise _refused(str(error)) from None
        return self._caller(claims)

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        tenant = claims.get(self._tenant_claim)
        groups = claims.get(self._groups_claim, [])
        if not isinstance(tenant, str):
            raise _refused(f"it has no claim {self._tenant_claim!r}")
        if not isinstance(groups, list) or len(groups) > MOST_GROUPS:
            raise _refused(f"{self._groups_claim!r} is no list of at most {MOST_GROUPS} groups")
        try:
            check_tenant(tenant)
            for group in groups:
                check_group(group)
        except InvalidInput as error:
            raise _refused(error.message) from None
        role = _role(claims.get(self._role_claim))
        name = f"user:{claims['sub']}"[:200]
        sees_all = role == "admin"
        scope = Scope(
            tenant, None if sees_all else frozenset(groups), None, None if sees_all else name
        )
        return Caller(name, role, scope)

    def _key(self, name: str) -> jwt.PyJWK | None:
        """The issuer's key of this id; its keys are fetched when it is new, or they are old.

        One caller fetches them. Others go on with the keys there are, or are told to come again:
        a provider that is slow holds up nobody whose key is known.
        """
        known, age = self._keys.get(name), time.monotonic() - self._tried
        if known is not None and age <= FRESH_SECONDS:
            return known
        if known is None and age <= (PAUSE_SECONDS if self._keys else AWAY_SECONDS):
            if not self._keys:
                raise _away()
            return None
        if not self._fetching.acquire(blocking=False):
            if known is None:
                raise Overloaded("The identity provider's keys are being fetched.", retry_after=1.0)
            return known
        try:
            self._refresh()
        finally:
            self._tried = time.monotonic()
            self._fetching.release()
        return self._keys.get(name)

    def _refresh(self) -> None:
        try:
            url = self._jwks_url or str(self._fetch(_discovery(self._issuer))["jwks_uri"])
            found = jwt.PyJWKSet.from_dict(dict(self._fetch(url)))
        except (httpx.HTTPError, KeyError, TypeError, ValueError, jwt.PyJWTError) as error:
            if not self._keys:
                raise _away() from error
            log.warning("the identity provider's keys stay as they are: %s", error)
            return
        signing = (key for key in found.keys if key.public_key_use in (None, "sig"))
        self._keys = {str(key.key_id): key for key in signing}


def _role(claim: object) -> Role:
    """The highest of the roles that a claim names; read where it names none."""
    named: Iterable[object] = claim if isinstance(claim, list) else [claim]
    known = [role for role in RANKS if role in named]
    return known[-1] if known else "read"


def _discovery(issuer: str) -> str:
    return f"{issuer.rstrip('/')}/.well-known/openid-configuration"


def _fetched(url: str) -> Mapping[str, Any]:
    response = httpx.get(url, timeout=FETCH_SECONDS, follow_redirects=False)
    found: Mapping[str, Any] = response.raise_for_status().json()
    return found


def _away() -> StoreUnreachable:
    return StoreUnreachable(
        "The identity provider does not give its keys.",
        hint="Check RAG_OIDC_ISSUER and RAG_OIDC_JWKS_URL.",
    )


def _refused(why: str) -> Unauthenticated:
    return Unauthenticated(
        f"The token is not valid: {why[:200]}.", hint="Sign in again for a new one."
    )
