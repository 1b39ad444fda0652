"""What a backup has to hold, and what of it has been seen."""

import numpy as np
import pytest

from rag.ledger import Ledger
from rag.store import Point
from rag.types import Chunk


@pytest.fixture
def ledger():
    """Expects two documents of collection 7 and a task's bytes."""
    with Ledger() as made:
        made.expect("generations", [row(1, "a", 2), row(2, "b", 1)])
        made.expect("documents", [face(1, "a"), face(2, "b")])
        made.expect("jobs", [{"id": "j", "request_hash": "of a request"}])
        made.expect("tasks", [{"content_hash": "sent"}, {"content_hash": ""}])
        yield made


def row(generation: int, document: str, chunks: int) -> dict:
    hashes = {"content_hash": document, "text_hash": f"{document} text", "parsed_hash": ""}
    named = {"id": generation, "collection_id": 7, "document_id": document, "chunks": chunks}
    return {**named, **hashes}


def face(generation: int, document: str) -> dict:
    named = {"generation": generation, "collection_id": 7, "document_id": document}
    return {**named, "content_hash": document, "title": "", "metadata": {}}


def point(document: str, generation: int, index: int = 0) -> Point:
    chunk = Chunk(document, generation, index, "", "x", 0, 1, 1)
    return Point(f"{document} {generation} {index}", chunk, np.ones(1, np.float32))


def see_all(ledger: Ledger) -> None:
    for name in list(ledger.objects()):
        ledger.saw_object(name)
    ledger.saw_points(7, [point("a", 1), point("a", 1, 1), point("b", 2)])


def test_it_knows_what_rows_refer_to(ledger):
    assert list(ledger.objects()) == ["a", "a text", "b", "b text", "sent"]
    assert ledger.totals() == (5, 3)
    assert (ledger.points_of(7), ledger.points_of(8)) == (3, 0)


def test_all_seen_once_is_whole(ledger):
    see_all(ledger)
    assert ledger.faults() == []


def test_points_of_others_are_told_apart(ledger):
    mine, theirs = point("a", 1), [point("a", 2), point("b", 1), point("c", 3)]
    assert ledger.saw_points(7, [mine, *theirs]) == [mine]
    assert ledger.saw_points(8, [mine]) == []
    assert ledger.saw_points(7, []) == []


def test_what_is_missing_or_twice_there_is_named(ledger):
    see_all(ledger)
    ledger.saw_points(7, [point("b", 2)])
    ledger.saw_object("sent")
    assert not ledger.saw_object("nobody's")
    ledger.expect("documents", [face(1, "a")])
    assert ledger.faults() == [
        "'b' has 2 of 1 points",
        "'a' has 2 entries for one generation",
        "object sent is there 2 times",
    ]


def test_points_say_of_their_document_what_the_rows_say(ledger):
    """Metadata may have been changed since the rows were read, or not be on the points yet."""
    patched = {**face(3, "c"), "title": "New", "renamed": True, "metadata": {"year": 1802}}
    ledger.expect("generations", [row(3, "c", 1)])
    ledger.expect("documents", [patched])
    (seen,) = ledger.saw_points(7, [point("c", 3)])
    assert (seen.chunk.title, dict(seen.chunk.metadata)) == ("New", {"year": 1802})
    chunk = Chunk("a", 1, 0, "", "x", 0, 1, 1, metadata={"year": 1999})
    (seen,) = ledger.saw_points(7, [Point("a", chunk, np.ones(1, np.float32))])
    assert dict(seen.chunk.metadata) == {}
