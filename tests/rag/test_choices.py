import pytest

from rag import collection as shelf
from rag.choices import Choices, answered_from, check_choices, choices, chosen_instead
from rag.errors import InvalidInput
from rag.sources import Source


def test_a_collection_without_choices_has_the_configured_ones(rag):
    made = shelf.create(rag.parts, rag.scope, "plain")
    settings = rag.parts.settings
    assert choices(made, settings) == Choices(
        settings.fusion,
        rerank_limit=settings.rerank_limit,
        context_tokens=settings.context_tokens,
    )


def test_its_own_choices_win(rag):
    own = {"fusion": "weighted", "dense_weight": 0.3, "rerank_limit": 0, "least_support": 0.7}
    made = shelf.create(rag.parts, rag.scope, "tuned", settings={"bm25_language": "german", **own})
    assert choices(made, rag.parts.settings) == Choices(**own)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"fusion": "sum"}, "fusion must be one of"),
        ({"dense_weight": 1.5}, "dense_weight must be a number from 0 to 1"),
        ({"rerank_limit": 7.5}, "rerank_limit must be a whole number from 0 to 200"),
        ({"rerank_blend": True}, "rerank_blend must be a number"),
        ({"context_tokens": "many"}, "context_tokens must be a whole number"),
    ],
)
def test_a_wrong_choice_is_refused_by_name(wrong, said):
    with pytest.raises(InvalidInput, match=said):
        check_choices(wrong)


def test_a_question_may_come_with_choices_of_its_own(rag):
    shelf.create(rag.parts, rag.scope, "birds", settings={"least_support": 1.0})
    text = "The heron is a wading bird that stands in shallow water."
    rag.add(Source("heron", "heron", text=text), collection="birds")
    question = "Which wading bird stands in shallow water?"
    assert rag.ask(question, collection="birds").abstained
    assert not rag.ask(question, collection="birds", instead={"least_support": 0.0}).abstained
    kept = rag.parts.catalog.collection(rag.scope, "birds")
    assert kept.settings["least_support"] == 1.0  # for that question alone
    with pytest.raises(InvalidInput, match="'bm25_language' is no choice"):
        chosen_instead(kept, {"bm25_language": "german"})
    with pytest.raises(InvalidInput, match="least_support must be a number"):
        rag.ask(question, collection="birds", instead={"least_support": 2})


def test_what_is_chosen_decides_what_is_found(rag):
    """With all weight on one list and no reranking, hits have the scores of that list alone."""
    shelf.create(rag.parts, rag.scope, "birds")
    for name, text in {
        "heron": "The heron is a wading bird that stands in shallow water.",
        "ferry": "The ferry leaves at noon from the northern pier.",
        "lamp": "The lamp of the lighthouse was lit for the first time in 1811.",
    }.items():
        rag.add(Source(f"{name}.txt", f"{name}.txt", id=name, text=text), collection="birds")

    def found(**own):
        shelf.update(rag.parts, rag.scope, "birds", settings=own)
        return rag.search("Which long-legged animal stands in shallow water?", collection="birds")

    dense = found(fusion="weighted", dense_weight=1.0, rerank_limit=0)
    assert dense.hits[0].chunk.document_id == "heron"
    assert dense.hits[0].score == 1.0
    assert all(hit.scores.rerank is None for hit in dense.hits)
    blended = found(rerank_limit=2, rerank_blend=1.0)
    assert [hit.score for hit in blended.hits] == [hit.scores.rerank for hit in blended.hits]
    assert sorted(blended.hits, key=lambda hit: -hit.score) == list(blended.hits)


def test_an_answer_is_looked_for_in_as_many_hits_where_nothing_is_reranked():
    assert answered_from(Choices("dbsf", rerank_limit=20)) == 20
    assert answered_from(Choices("dbsf", rerank_limit=0)) == 20
    assert answered_from(Choices("dbsf", rerank_limit=2)) == 5
