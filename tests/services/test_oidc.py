"""Tokens of an identity provider that signs them for real."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from rag.errors import Overloaded, StoreUnreachable, Unauthenticated
from services.oidc import Issuer

ISSUER, AUDIENCE = "https://login.example.org/", "ragstone"
SIGNING = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVED = ec.generate_private_key(ec.SECP256R1())


def published(key, name):
    kind = jwt.algorithms.ECAlgorithm if key is CURVED else jwt.algorithms.RSAAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": name, "use": "sig"}


class Provider:
    """What the issuer publishes; counts how often it is asked."""

    def __init__(self):
        self.keys = [published(SIGNING, "one"), published(CURVED, "two")]
        self.asked: list[str] = []
        self.away = False

    def __call__(self, url):
        self.asked.append(url)
        if self.away:
            raise httpx.ConnectError("away")
        if url.endswith("/.well-known/openid-configuration"):
            return {"jwks_uri": "https://login.example.org/keys"}
        return {"keys": self.keys}


@pytest.fixture
def provider():
    return Provider()


@pytest.fixture
def issuer(provider):
    return Issuer(ISSUER, AUDIENCE, fetch=provider)


def token(key=SIGNING, name="one", algorithm="RS256", **claims):
    now = int(time.time())
    given = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": now + 300,
        "iat": now,
        "tenant": "acme",
        "groups": ["hr"],
    } | claims
    given = {name: value for name, value in given.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={"kid": name})


def test_claims_become_a_scope(issuer, provider):
    caller = issuer.caller(token(role="write"))
    assert caller.name == "user:alice"
    assert caller.role == "write"
    assert caller.scope.tenant == "acme"
    assert caller.scope.groups == {"hr"}
    assert caller.scope.caller == "user:alice"  # whose traces it sees
    assert provider.asked[0] == "https://login.example.org/.well-known/openid-configuration"


def test_what_a_token_does_not_say_is_not_allowed(issuer):
    caller = issuer.caller(token(groups=None))
    assert caller.role == "read"
    assert caller.scope.groups == frozenset()


def test_the_highest_role_counts_and_none_is_an_operator(issuer):
    assert issuer.caller(token(role=["write", "admin", "x"])).role == "admin"
    assert issuer.caller(token(role="operator")).role == "read"
    assert issuer.caller(token(role="admin")).scope.groups is None


def test_other_signatures(issuer):
    assert issuer.caller(token(CURVED, "two", "ES256")).name == "user:alice"


def hand_made(head, body):
    parts = (json.dumps(head).encode(), json.dumps(body).encode(), b"")
    return ".".join(jwt.utils.base64url_encode(part).decode() for part in parts)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: token(OTHER),  # somebody else's key under the known name
        lambda: token(OTHER, "three"),
        lambda: token(iss="https://evil.example/"),
        lambda: token(aud="another"),
        lambda: token(exp=int(time.time()) - 60),
        lambda: token(exp=None),
        lambda: token(sub=None),
        lambda: token(tenant=None),
        lambda: token(tenant=""),
        lambda: token(tenant=["acme"]),
        lambda: token(groups="hr"),
        lambda: token(groups=[7]),
        lambda: token(groups=["a|b"]),
        lambda: token(nbf=int(time.time()) + 600),
        lambda: token()[:-4] + "AAAA",
        lambda: hand_made({"alg": "none", "kid": "one"}, {"sub": "alice", "tenant": "acme"}),
        # The published key as the secret of a symmetric signature.
        lambda: token(b"x" * 32, "one", "HS256"),
        lambda: "nonsense",
        lambda: "a.b.c",
    ],
)
def test_what_is_not_right_is_refused(issuer, wrong):
    with pytest.raises(Unauthenticated):
        issuer.caller(wrong())


def test_new_keys_are_fetched_and_callers_cannot_make_it_ask_without_end(issuer, provider):
    issuer.caller(token())
    provider.keys.append(published(OTHER, "three"))
    for _ in range(5):  # unknown names right after a fetch
        with pytest.raises(Unauthenticated):
            issuer.caller(token(OTHER, "three"))
    assert len(provider.asked) == 2
    issuer._tried -= 31
    assert issuer.caller(token(OTHER, "three")).name == "user:alice"
    assert len(provider.asked) == 4


def test_a_provider_that_is_away_stops_nobody_whose_key_is_known(issuer, provider):
    provider.away = True
    for _ in range(5):  # one of them asks
        with pytest.raises(StoreUnreachable):
            issuer.caller(token())
    assert len(provider.asked) == 1
    provider.away = False
    issuer._tried -= 4
    issuer.caller(token())
    provider.away = True
    issuer._tried -= 601
    assert issuer.caller(token()).name == "user:alice"


def test_a_slow_provider_holds_up_nobody_whose_key_is_known(issuer, provider):
    issuer.caller(token())
    issuer._tried -= 31
    began, answered = threading.Event(), threading.Event()

    def slow(url):
        began.set()
        assert answered.wait(10)
        return provider(url)

    issuer._fetch = slow
    provider.keys.append(published(OTHER, "three"))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(issuer.caller, token(OTHER, "three"))
        assert began.wait(10)
        assert issuer.caller(token()).name == "user:alice"
        with pytest.raises(Overloaded):  # not refused: it may be right
            issuer.caller(token(OTHER, "three"))
        issuer._tried -= 601  # old, and there is nothing newer
        assert issuer.caller(token()).name == "user:alice"
        answered.set()
        assert fetching.result(10).name == "user:alice"


@pytest.mark.parametrize("keys", [[1], None, 7, ["x"]])
def test_a_provider_that_answers_nonsense_is_away(issuer, provider, keys):
    provider.keys = keys
    with pytest.raises(StoreUnreachable):
        issuer.caller(token())


def test_keys_for_something_else_sign_nothing(issuer, provider):
    provider.keys = [{**published(SIGNING, "one"), "use": "enc"}]
    with pytest.raises(Unauthenticated):
        issuer.caller(token())
