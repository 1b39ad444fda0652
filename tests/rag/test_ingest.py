"""The steps of ingestion, where they are not seen from outside."""

from rag import collection as shelf
from rag.sources import Source


def test_tokens_that_the_embedder_cuts_off_are_counted_and_told(rag):
    # A pipeline as no version of ours made it: chunks of twice what the embedder reads.
    embedder = rag.parts.embedder
    pipeline = shelf.pipeline(rag.parts.settings, embedder)
    pipeline["chunk_tokens"] = 2 * embedder.max_tokens
    made = rag.parts.catalog.create_collection(rag.scope, "long", pipeline)
    rag.parts.store.create(shelf.index_of(made))
    text = "The keeper trims the wick and winds the clock at dusk. " * 100
    report = rag.add(Source("log.txt", "log.txt", text=text), collection="long")

    hits = rag.search("keeper", collection="long", limit=100, mode="bm25", rerank=False).hits
    assert len(hits) == report.chunks
    read = embedder.count_tokens([hit.chunk.embedded_text for hit in hits])
    assert report.tokens == sum(read)
    assert report.truncated_tokens == sum(max(0, n - embedder.max_tokens) for n in read) > 0
    assert any(f"{report.truncated_tokens} tokens" in warning for warning in report.warnings)
    # Nothing is counted when nothing is embedded; the warning stays.
    again = rag.add(Source("log.txt", "log.txt", text=text), collection="long")
    assert (again.status, again.truncated_tokens) == ("unchanged", None)
    assert again.warnings == report.warnings
