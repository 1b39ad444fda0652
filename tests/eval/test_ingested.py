"""A test collection in a data folder of its own."""

import pytest

from eval import ingested as module
from eval.datasets import Dataset
from eval.ingested import COLLECTION, ingested, smaller
from rag.errors import RagError

SET = Dataset(
    "birds",
    {"heron": "Herons", "ferry": "", "blank": ""},
    {
        "heron": "The heron waits in the shallows until a fish swims past its feet.",
        "ferry": "The ferry leaves the harbour at nine and returns before dusk.",
        "blank": " ",
    },
    {"q": "When does the ferry leave?"},
    {"q": {"ferry": 1}},
)


def test_an_interrupted_ingestion_goes_on_and_a_whole_one_costs_nothing(
    tmp_path, monkeypatch, capsys
):
    add = module._add

    def torn(rag, dataset, id_):
        if id_ == "ferry":
            raise RagError("interrupted")
        add(rag, dataset, id_)

    with monkeypatch.context() as patched:
        patched.setattr(module, "_add", torn)
        with (
            pytest.raises(RagError, match="interrupted"),
            ingested(SET, cache=tmp_path, show=False, profile="starter"),
        ):
            pass
    with ingested(SET, cache=tmp_path, show=False, profile="starter") as rag:
        hits = rag.search("When does the ferry leave?", collection=COLLECTION).hits
        assert [hit.chunk.document_id for hit in hits] == ["ferry", "heron"]
        assert hits[1].chunk.title == "Herons"
        assert rag.parts.catalog.document(rag.scope, COLLECTION, "heron").generation == 1
    assert "1 documents are blank and left out" in capsys.readouterr().out
    monkeypatch.setattr(module, "_add", torn)
    with ingested(SET, cache=tmp_path, show=False, profile="starter") as rag:
        assert rag.parts.catalog.collection(rag.scope, COLLECTION).chunks == 2


def test_a_smaller_collection_keeps_what_is_relevant():
    texts = {f"d{n}": "x" for n in range(9)}
    big = Dataset("big", texts, texts, {"q": "?"}, {"q": {"d7": 1}})
    small = smaller(big, {"d7"}, 3, seed=1)
    assert len(small.texts) == 3
    assert "d7" in small.texts
    assert small.texts == smaller(big, {"d7"}, 3, seed=1).texts
    assert {*small.texts} != {*smaller(big, {"d7"}, 3, seed=2).texts}
    assert smaller(big, {"d7", "d8"}, 1).texts.keys() == {"d7", "d8"}
    assert len(smaller(big, {"d7"}, 99).texts) == 9
