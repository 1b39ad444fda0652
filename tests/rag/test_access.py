"""Rows, points and Python say the same of who sees what."""

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from rag import access
from rag.errors import InvalidInput
from rag.types import Scope

# Names that differ in case, hold each other, or mean something in SQL or LIKE.
GROUPS = ["hr", "HR", "h", "hrx", "%", "_", "a b", "o'brien", "ünï", "\\"]
groups = st.lists(st.sampled_from(GROUPS), max_size=4)
scopes = st.one_of(st.none(), st.frozensets(st.sampled_from(GROUPS), max_size=4))


def sees(mine, acl) -> bool:
    """Independently: everybody's, or everything is mine, or one group in common."""
    return mine is None or not acl or any(group in acl for group in mine)


@given(scopes, groups)
def test_rows_are_seen_as_metadata_are(mine, acl):
    scope, metadata = Scope("t", groups=mine), {"acl": acl, "year": 1811}
    engine = sa.create_engine("sqlite://")
    column = sa.literal(access.packed(metadata))
    with engine.connect() as connection:
        shown = connection.execute(sa.select(access.document_rows(scope, column))).scalar()
        hidden = connection.execute(sa.select(~access.document_rows(scope, column))).scalar()
    assert access.sees(scope, metadata) == sees(mine, acl)
    assert bool(shown) == sees(mine, acl)
    assert bool(hidden) != sees(mine, acl)


def test_who_is_in_no_group_sees_what_names_none():
    nobody = Scope("t", groups=frozenset())
    assert access.sees(nobody, {})
    assert access.sees(nobody, {"acl": []})
    assert not access.sees(nobody, {"acl": ["hr"]})
    assert access.point_groups(nobody) == []  # and not None, which is everything


@pytest.mark.parametrize(
    "acl", ["hr", 7, None, {"a": 1}, [7], [""], ["a|b"], ["a\n"], ["x" * 201], ["g"] * 33]
)
def test_what_is_no_list_of_groups_is_refused(acl):
    with pytest.raises(InvalidInput):
        access.check_acl({"acl": acl})


def test_a_list_of_groups_is_taken():
    access.check_acl({"acl": ["hr", "/Legal/EU", "a b"]})
    access.check_acl({"acl": []})
    access.check_acl({})
