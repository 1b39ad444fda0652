import re
from datetime import UTC, datetime, timedelta

import pytest

from rag.database import Database
from rag.errors import InvalidInput, NotFound, Unauthenticated
from rag.keys import Keys


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture
def keys(database):
    return Keys(database)


def test_a_key_is_known_by_its_text_alone(keys):
    made, text = keys.create("alice", "read", collections=["notes"], groups=["hr"])
    assert re.fullmatch(r"rag_[a-z2-7]{10}_[A-Za-z0-9_-]{43}", text)  # 32 bytes in base64
    known = keys.authenticate(text)
    assert known.prefix == made.prefix
    assert known.scope.collections == {"notes"}
    assert known.scope.groups == {"hr"}
    assert known.scope.caller == f"key:{made.prefix}"
    other = text[:-1] + ("A" if text[-1] != "A" else "B")
    unknown = text.replace(made.prefix, "a" * 10)
    for wrong in (other, unknown, made.prefix, f"rag_{made.prefix}_", "rag__", "", "\ud800"):
        with pytest.raises(Unauthenticated) as refused:
            keys.authenticate(wrong)
        assert refused.value.message == "The API key is not valid."


def test_nothing_in_the_database_opens_anything(keys, database):
    _, text = keys.create("alice", "admin")
    secret = text.split("_", 2)[2]
    keys.authenticate(text)
    with database.read() as connection:
        dump = "\n".join(connection.connection.driver_connection.iterdump())
    assert text.split("_")[1] in dump
    assert secret not in dump
    digest = re.search(r"'([0-9a-f]{64})'", dump).group(1)
    for leaked in (digest, f"rag_{text.split('_')[1]}_{digest}"):
        with pytest.raises(Unauthenticated):
            keys.authenticate(leaked)


def test_what_is_not_given_is_not_allowed(keys):
    made, _ = keys.create("nobody", "write")
    assert made.scope.collections == frozenset()
    assert made.scope.groups == frozenset()


def test_an_admin_sees_the_traces_of_others(keys):
    made, _ = keys.create("boss", "admin", collections=None, groups=None)
    assert made.scope.caller is None
    assert made.scope.collections is None


def test_a_key_ends(keys):
    made, text = keys.create("alice", "read")
    keys.revoke(made.prefix)
    with pytest.raises(Unauthenticated):
        keys.authenticate(text)
    assert keys.key(made.prefix).state(datetime.now(UTC)) == "revoked"
    first = keys.key(made.prefix).revoked_at
    assert keys.revoke(made.prefix).revoked_at == first  # again is no other time
    assert keys.exist()  # who revokes the last key opens nothing
    with pytest.raises(NotFound):
        keys.revoke("nosuchkey")


def test_a_key_expires(keys, monkeypatch):
    now = datetime.now(UTC)
    made, text = keys.create("guest", "read", expires_at=now + timedelta(days=1))
    assert keys.authenticate(text).state(now) == "active"
    assert made.state(now + timedelta(days=1)) == "expired"

    class Later(datetime):
        @classmethod
        def now(cls, _):
            return now + timedelta(days=1)

    monkeypatch.setattr("rag.keys.datetime", Later)
    with pytest.raises(Unauthenticated):
        keys.authenticate(text)


def test_its_last_use_is_known(keys):
    made, text = keys.create("alice", "read")
    assert made.used_at is None
    keys.authenticate(text)
    used = keys.key(made.prefix).used_at
    assert abs(used - datetime.now(UTC)) < timedelta(seconds=60)
    keys.authenticate(text)
    assert keys.key(made.prefix).used_at == used  # no write for every request


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"role": "root"},
        {"tenant": ""},
        {"groups": ["a|b"]},
        {"collections": ["No Such"]},
        {"per_minute": 0},
        {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
def test_what_makes_no_sense_is_refused(keys, wrong):
    given = {"name": "alice", "role": "read", **wrong}
    with pytest.raises(InvalidInput):
        keys.create(given.pop("name"), given.pop("role"), **given)
    assert keys.every() == []


def test_keys_of_a_tenant(keys):
    keys.create("a", "read", tenant="one")
    keys.create("b", "read", tenant="two")
    assert [key.name for key in keys.every("two")] == ["b"]
    assert [key.name for key in keys.every()] == ["a", "b"]
