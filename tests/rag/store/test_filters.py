import pytest

from rag.errors import InvalidInput
from rag.store.filters import AnyOf, Not, Range, parse_filter


def test_every_form():
    given = {
        "author": "Stevenson",
        "tag": ["a", "b"],
        "year": {"gte": 1800, "lt": 1900},
        "height": 35.5,
        "not": {"page": 3},
    }
    assert parse_filter(given) == (
        AnyOf("metadata.author", ("Stevenson",)),
        AnyOf("metadata.tag", ("a", "b")),
        Range("metadata.year", gte=1800.0, lt=1900.0),
        Range("metadata.height", gte=35.5, lte=35.5),
        Not(AnyOf("page", (3,))),
    )
    assert parse_filter(None) == ()


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"a": None},
        {"a": []},
        {"a": ["x", 1]},
        {"a": {"like": "x"}},
        {"a": {}},
        {"a": {"gte": "1800"}},
        {"a": {"gte": float("nan")}},
        {"a": {"gte": True}},
        {"a": float("inf")},
        {"a.b": 1},
        {"": 1},
        {"not": {"not": {"a": 1}}},
        {"not": 3},
        {f"k{n}": n for n in range(33)},
        {"a": [str(n) for n in range(257)]},
    ],
)
def test_wrong_filters_are_refused(wrong):
    with pytest.raises(InvalidInput):
        parse_filter(wrong)
