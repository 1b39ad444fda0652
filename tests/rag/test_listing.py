"""Documents that a filter picks, page by page, and their deletion."""

import pytest

from rag import collection as shelf
from rag.errors import InvalidInput, NotFound
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.listing import page
from rag.sources import Source


def document(number: int, /, **metadata) -> Source:
    text = f"Text number {number} of the shelf."
    return Source(name="t", origin=f"{number}.txt", id=f"d{number}", text=text, metadata=metadata)


@pytest.fixture
def docs(rag):
    """d0 to d7, the even ones by Stevenson."""
    shelf.create(rag.parts, rag.scope, "docs")
    for number in range(8):
        by = "Stevenson" if number % 2 == 0 else "Smeaton"
        rag.add(document(number, by=by, number=number), collection="docs")
    return rag


def pages(rag, where, **options) -> list[list[str]]:
    found, after = [], ""
    while after is not None:
        rows, after = page(rag.parts.catalog, rag.scope, "docs", where, after=after, **options)
        found.append([row.id for row in rows])
    return found


def test_pages_of_all_and_of_some(docs):
    assert pages(docs, None, limit=3) == [["d0", "d1", "d2"], ["d3", "d4", "d5"], ["d6", "d7"]]
    assert pages(docs, {"by": "Stevenson"}, limit=3) == [["d0", "d2", "d4"], ["d6"]]
    assert pages(docs, {"by": "Stevenson"}, limit=4) == [["d0", "d2", "d4", "d6"], []]
    assert pages(docs, {"number": 7}, limit=3) == [["d7"]]


def test_a_page_reads_a_bounded_number_and_says_where_it_stopped(docs):
    # Five are read for each: d7 is behind the first five, and its page is not the first.
    assert pages(docs, {"number": 7}, limit=2, most_read=5) == [[], ["d7"]]
    # Never fewer than the page holds, or a list without a filter would not get on.
    assert pages(docs, None, limit=8, most_read=1) == [[f"d{n}" for n in range(8)]]


def test_what_a_filter_picks_is_deleted_and_nothing_else(docs):
    assert docs.delete_matching({"by": "Stevenson"}, collection="docs", dry_run=True) == [
        "d0", "d2", "d4", "d6",
    ]  # fmt: skip
    assert len(docs.parts.catalog.documents(docs.scope, "docs")) == 8
    picked = {"by": "Stevenson", "not": {"document_id": "d4"}}
    assert docs.delete_matching(picked, collection="docs") == ["d0", "d2", "d6"]
    left = [record.id for record in docs.parts.catalog.documents(docs.scope, "docs")]
    assert left == ["d1", "d3", "d4", "d5", "d7"]
    hits = docs.search("text", collection="docs").hits
    assert {hit.chunk.document_id for hit in hits} == set(left)
    assert list(examine(docs.parts)) == []  # points and counters went with them
    assert docs.parts.catalog.collection(docs.scope, "docs").chunks == 5


def test_counters_are_exact_after_a_deletion_by_filter(docs):
    parts, scope = docs.parts, docs.scope
    docs.delete_matching({"number": {"gte": 1}}, collection="docs")
    (token,) = set(parts.embedder.tokenizer.encode("shelf", add_special_tokens=False).ids)
    counts, chunks = parts.catalog.token_document_frequencies(scope, "docs", [token])
    assert (counts, chunks) == ({token: 1}, 1)


def test_accepted_versions_of_deleted_documents_are_cancelled(docs):
    ingestor = Ingestor(docs)
    newer = document(0, by="Stevenson", number=0, version=2)
    job = ingestor.submit(docs.scope, "docs", [Upload(newer)])
    docs.delete_matching({"by": "Stevenson"}, collection="docs")
    assert docs.parts.journal.job(docs.scope, job.id).state == "cancelled"
    ingestor.start()
    ingestor.close()
    with pytest.raises(NotFound):
        docs.parts.catalog.document(docs.scope, "docs", "d0")
    assert list(examine(docs.parts)) == []


def test_a_document_that_stops_matching_before_the_transaction_stays(docs, monkeypatch):
    journal = docs.parts.journal
    delete = journal.delete_documents

    def changed_first(*arguments):
        docs.patch("d2", {"metadata": {"by": "nobody"}}, collection="docs")
        return delete(*arguments)

    monkeypatch.setattr(journal, "delete_documents", changed_first)
    assert docs.delete_matching({"by": "Stevenson"}, collection="docs") == ["d0", "d4", "d6"]


@pytest.mark.parametrize("where", [{}, None, {"not": {}}, {"page": 1}, {"not": {"page": 1}}])
def test_everything_is_never_picked(docs, where):
    with pytest.raises(InvalidInput):
        docs.delete_matching(where, collection="docs")
    assert len(docs.parts.catalog.documents(docs.scope, "docs")) == 8
