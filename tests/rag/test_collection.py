"""Making collections: all of one, or nothing."""

import pytest
from qdrant_client import QdrantClient

from rag import collection as shelf
from rag.errors import InvalidInput, NotFound, StoreUnreachable
from rag.jobs import Ingestor, Upload
from rag.sources import Source
from rag.store.server import ServerStore, connect


def test_a_collection_is_not_half_made_when_the_store_is_away(rag):
    rag.parts.store.close()
    rag.parts.store = connect("http://127.0.0.1:1", timeout=2)
    with pytest.raises(StoreUnreachable):
        shelf.ensure(rag.parts, rag.scope, "default")
    with pytest.raises(NotFound):
        rag.parts.catalog.collection(rag.scope, "default")
    rag.parts.store.close()
    rag.parts.store = ServerStore(QdrantClient(":memory:"), address=":memory:")  # it is back
    shelf.ensure(rag.parts, rag.scope, "default")
    text = "The Bell Rock Lighthouse was first lit in 1811."
    rag.add(Source(name="a.txt", origin="a.txt", text=text))
    assert rag.search("Bell Rock").hits[0].chunk.text == text


def test_a_collection_stays_when_something_was_promised_to_be_in_it(rag, monkeypatch):
    """Between its row and the store's answer others find it, and send documents into it."""
    ingestor = Ingestor(rag)

    def fail(_):
        source = Source(name="a", origin="a", id="a", text="The lamp burns oil.")
        ingestor.submit(rag.scope, "docs", [Upload(source)])
        raise StoreUnreachable("Qdrant does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(rag.parts.store, "create", fail)
        with pytest.raises(StoreUnreachable):
            shelf.create(rag.parts, rag.scope, "docs")
    (job,) = rag.parts.journal.list_jobs(rag.scope)
    ingestor.start()
    ingestor.ended(job.id).result(60)
    ingestor.close()
    assert rag.text("a", collection="docs") == "The lamp burns oil."


@pytest.mark.parametrize(
    "wrong", [{"colour": "red"}, {"fusion": "magic"}, {"bm25_language": "klingon"}]
)
def test_wrong_settings_are_refused_before_anything_is_made(rag, wrong):
    with pytest.raises(InvalidInput):
        shelf.create(rag.parts, rag.scope, "docs", settings=wrong)
    assert rag.parts.catalog.collections(rag.scope) == []
