"""Filters: how they are written, and that a document is picked exactly where Qdrant finds it."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import InvalidInput
from rag.store import Index, Point, point_id
from rag.store.edge import EdgeStore
from rag.store.filters import AnyOf, Not, Range, document_conditions, matches, parse_filter
from rag.types import Chunk, Scope


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
        {"a": 2**63},
        {"a": [1, -(2**63) - 1]},
        {"a": {"gte": 10**400}},
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


def test_documents_have_no_page():
    assert document_conditions({"author": "Stevenson"}) == parse_filter({"author": "Stevenson"})
    for where in ({"page": 3}, {"not": {"page": {"gte": 1}}}):
        with pytest.raises(InvalidInput, match="page"):
            document_conditions(where)


KEYS = ("a", "year", "by-line", "two words", "é")
WORDS = st.sampled_from(["", "x", "X", "x y", "é", "1", "true"])
WHOLE = st.one_of(st.integers(-2, 2), st.sampled_from([2**53 + 1, 2**63 - 1, -(2**63)]))
REAL = st.sampled_from([-1.5, -0.0, 0.5, 1.0, 2.0, 1e300, 9007199254740993.0])
METADATA = st.dictionaries(
    st.sampled_from(KEYS),
    st.one_of(WORDS, WHOLE, REAL, st.booleans(), st.none(), st.lists(WORDS, max_size=3)),
    max_size=4,
)
RANGES = st.dictionaries(
    st.sampled_from(["gt", "gte", "lt", "lte"]), st.one_of(WHOLE, REAL), min_size=1, max_size=2
)
WANTED = st.one_of(
    WORDS, WHOLE, REAL, st.booleans(), RANGES,
    st.lists(WORDS, min_size=1, max_size=3), st.lists(WHOLE, min_size=1, max_size=3),
    st.lists(st.booleans(), min_size=1, max_size=2),
)  # fmt: skip
PLAIN = st.dictionaries(st.sampled_from(KEYS), WANTED, max_size=2)
OWN = st.fixed_dictionaries(
    {},
    optional={
        "document_id": st.sampled_from(["d0", ["d0", "d2"], "nobody"]),
        "title": WORDS,
        "source": st.lists(WORDS, min_size=1, max_size=2),
    },
)
FILTERS = st.tuples(PLAIN, OWN, PLAIN).map(
    lambda some: {**some[0], **some[1], **({"not": some[2]} if some[2] else {})}
)


@pytest.fixture(scope="module")
def edge(tmp_path_factory) -> Iterator[EdgeStore]:
    store = EdgeStore(tmp_path_factory.mktemp("vectors"))
    store.create(INDEX)
    yield store
    store.close()


INDEX, SCOPE = Index("filters", dim=2), Scope("mine")


@settings(max_examples=300, deadline=None)
@given(documents=st.lists(st.tuples(METADATA, WORDS, WORDS), min_size=1, max_size=5), where=FILTERS)
def test_a_document_matches_where_qdrant_finds_it(edge, documents, where):
    chunks = [
        Chunk(f"d{number}", 1, 0, title, "text", 0, 4, 1, source=source, metadata=metadata)
        for number, (metadata, title, source) in enumerate(documents)
    ]
    vector = np.array([1, 0], np.float32)
    edge.upsert(SCOPE, INDEX, [Point(point_id("mine", 1, c), c, vector) for c in chunks])
    conditions = document_conditions(where)
    try:
        found, _ = edge.search(
            SCOPE, INDEX, vector=vector, text=None, conditions=conditions, limit=10
        )
    finally:
        for chunk in chunks:
            edge.delete(SCOPE, INDEX, chunk.document_id, [1])
    own = [
        {"document_id": chunk.document_id, "title": chunk.title, "source": chunk.source}
        for chunk in chunks
    ]
    expected = {
        chunk.document_id
        for chunk, fields in zip(chunks, own, strict=True)
        if matches(conditions, fields, chunk.metadata)
    }
    assert {hit.chunk.document_id for hit in found} == expected
