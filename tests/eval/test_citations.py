"""The check of citations as it ships: fitted on one set, judged on another."""

import os
import random

import numpy as np
import pytest

from eval import citations
from eval.citations import FAR, elsewhere, fit, judge, scorer_name
from eval.labelled_citations import load
from rag.check import WORDS, Checker, by_token_vectors, by_words, calibrations
from rag.choices import choices
from rag.cite import cite
from rag.pack import pack
from rag.settings import PROFILES


@pytest.fixture(scope="module")
def shipped(lighthouse):
    found = lighthouse.parts.catalog.collection(lighthouse.scope, "lighthouse")
    return {"late": lighthouse.parts.checker_for(found), "words": Checker.by_words()}


def test_the_calibration_that_ships_is_the_one_that_is_fitted():
    assert fit(load("fit"), by_words) == calibrations()[WORDS]


@pytest.mark.skipif(
    "RAG_SOAK_CALIBRATION" not in os.environ, reason="takes half a minute: RAG_SOAK_CALIBRATION=1"
)
def test_with_vectors_too(lighthouse):
    """Within what another CPU's rounding changes."""
    made = fit(load("fit"), by_token_vectors(lighthouse.parts.late_interaction.token_vectors))
    known = calibrations()[scorer_name(PROFILES["starter"].embedder)]
    assert np.allclose(made.weights, known.weights, atol=0.3)
    assert made.threshold == pytest.approx(known.threshold, abs=0.05)


@pytest.mark.parametrize("name", ["late", "words"])
def test_it_tells_supported_from_edited_sentences_of_other_documents(shipped, name):
    """Without any check the precision would be the share that is supported: 0.65."""
    rows, checker = load("test"), shipped[name]
    found = [checker.check(one.sentence, one.passage).probability for one in rows]
    judged = judge(rows, found, checker.calibration.threshold)
    assert judged.precision > 0.82
    assert judged.recall > 0.8
    assert judged.caught["passage"] > 0.9


def test_what_is_made_up_about_something_else_is_caught(shipped):
    far = elsewhere(load("test"), seed=1)
    for checker in shipped.values():
        caught = [not checker.check(one.sentence, one.passage).enough for one in far]
        assert np.mean(caught) > 0.95


def test_every_quote_of_a_checked_answer_stands_in_its_document(lighthouse, shipped):
    """Sentences about the sample collection, cited from what retrieval really packs."""
    rag, rng = lighthouse, random.Random(0)
    found = rag.parts.catalog.collection(rag.scope, "lighthouse")
    budget = choices(found, rag.parts.settings).context_tokens
    count = rag.parts.generator.count_tokens
    rows = [one for one in load("test") if one.passage.document_id.startswith("demo:")]
    quotes = 0
    for question in sorted({one.question for one in rows})[::2]:
        hits = rag.search(question, collection="lighthouse", limit=20).hits
        context = pack(hits, budget=budget, count_tokens=count)
        said = [one.sentence for one in rows if one.question == question]
        marked = [f"{text} [{rng.randint(1, len(context.passages))}]" for text in said[::2]]
        cited = cite(" ".join([*marked, *said[1::2]]), context, shipped["late"])
        for one in cited.citations:
            text = rag.text(one.document_id, collection="lighthouse")
            assert text[one.start : one.end] == one.quote
            quotes += 1
    assert quotes > 15


def test_far_sentences_count_less_than_labelled_ones():
    rows = load("fit")
    far = elsewhere(rows)
    assert 0 < FAR < 1
    assert len(far) == sum(one.supported for one in rows)
    assert not any(one.supported for one in far)
    by_id = {one.id: one for one in rows}
    assert all(one.passage not in by_id[one.id].context.passages for one in far)
    assert citations.FITTED_ON == "eval/labelled/fit.jsonl"
