"""The contexts that tuning looks at are those that `ask` answers from."""

import pytest

from eval.collection import Shelved
from eval.contexts import best_hits, evidence, from_pool, fused_hits, holds, span_recall
from eval.datasets import Dataset
from eval.pool import LIMIT, ask
from eval.systems import System
from rag.choices import Choices, answered_from, choices
from rag.types import Context, Passage, Scores

QUESTION = "When was the Bell Rock Lighthouse first lit?"


@pytest.fixture(scope="module")
def source(lighthouse):
    return Shelved(lighthouse, "lighthouse")


def passage(document: str, text: str) -> Passage:
    return Passage(1, document, "", text, 0, len(text), 1, None, (), "", Scores())


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        (["1811"], True),
        (["in 1811"], True),  # across a line break
        (["Lit in"], True),  # whatever the case
        (["181"], False),  # no whole word
        (["1807"], False),  # it stands in a document that is not relevant
        (["1807", "1811"], True),  # one of them is enough
        (["1811."], True),
    ],
)
def test_an_answer_is_held_in_whole_words_of_a_relevant_document(answers, found):
    context = Context((passage("a", "It was lit in\n1811."), passage("b", "Begun in 1807.")), 9)
    assert holds(context, answers, {"a"}) is found


def test_hits_fused_again_are_those_that_retrieval_gives(source):
    hits, _ = source.retrieve(QUESTION, LIMIT)
    assert [h.point_id for h in fused_hits(hits, Choices("dbsf"))] == [h.point_id for h in hits]
    best = hits[0].chunk.document_id
    without = fused_hits(hits, Choices("rrf"), {best})
    assert best not in {hit.chunk.document_id for hit in without}
    # Ranks close up: whatever leads a list now has 1 / 61 from it.
    assert without[0].scores.fused <= 2 / 61 + 1e-9
    assert without[0].scores.fused >= 1 / 61


@pytest.mark.parametrize(
    "made",
    [
        Choices("dbsf", rerank_limit=20, rerank_blend=0.5),
        Choices("rrf", rerank_limit=10, rerank_blend=1.0),
        Choices("weighted", 0.3, rerank_limit=0),
    ],
)
def test_from_the_pool_comes_what_reranking_gives(source, made):
    system = System("s", made)
    hits, _ = source.retrieve(QUESTION, LIMIT)
    pooled = ask(source, "q", QUESTION, [system])
    from_candidates = [h.point_id for h in from_pool(pooled, hits, system)]
    assert from_candidates == [h.point_id for h in best_hits(QUESTION, hits, source, made)]
    assert len(from_candidates) == min(answered_from(made), len(hits))


def test_they_are_the_hits_that_ask_answers_from(source, lighthouse):
    found = lighthouse.parts.catalog.collection(lighthouse.scope, "lighthouse")
    made = choices(found, lighthouse.parts.settings)
    hits, _ = source.retrieve(QUESTION, LIMIT)
    answer = lighthouse.ask(QUESTION, collection="lighthouse")
    best = best_hits(QUESTION, hits, source, made)
    assert [hit.point_id for hit in best] == [hit.point_id for hit in answer.hits]


def test_span_recall_and_evidence_of_a_question_that_is_answered(source, lighthouse):
    hits, _ = source.retrieve(QUESTION, LIMIT)
    right = next(h.chunk.document_id for h in hits if "1811" in h.chunk.text)
    judged = Dataset(
        "l", {}, {}, {"q": QUESTION, "r": QUESTION}, {"q": {right: 1}, "r": {right: 1}},
        {"q": ["1811"]},
    )  # fmt: skip
    made = Choices("dbsf", rerank_limit=20, rerank_blend=0.5)
    pool = [ask(source, query, QUESTION, [System("s", made)]) for query in ("q", "r")]
    late = lighthouse.parts.late_interaction
    ways = [System("s", made), System("none", Choices("dbsf", context_tokens=1))]
    assert span_recall(pool, source, ways, judged, late.count_tokens) == {"q": [True, False]}

    def read(held_out):
        best = best_hits(QUESTION, hits, source, made, held_out)
        return evidence(QUESTION, best, source, late, made, {right}, late.count_tokens)

    answered, unanswered = read(()), read({right})
    assert answered.answerable
    assert not unanswered.answerable
    assert answered.sentence > unanswered.sentence
