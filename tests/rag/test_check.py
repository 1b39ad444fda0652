"""The check of single claims, with the real starter embedder and by words alone."""

import math
from contextlib import closing
from dataclasses import replace

import pytest

from rag import check
from rag.check import WORDS, Calibration, Checker, calibrations
from rag.models.engine import open_cross_encoder
from rag.models.load import resolve
from rag.parts import engines_of
from rag.rerank import CrossEncoderReranker
from tests import tiny_models
from tests.rag.passages import passage

TEXT = (
    "Bell Rock is a reef off Arbroath. Robert Stevenson built the lighthouse there."
    " It was first lit on 1 February 1811. It has never been painted red."
)
CLAIM = "The Bell Rock lighthouse was built by Robert Stevenson."


@pytest.fixture(scope="module", params=["late interaction", "words"])
def checker(request, lighthouse):
    if request.param == "words":
        return Checker.by_words()
    found = lighthouse.parts.catalog.collection(lighthouse.scope, "lighthouse")
    return lighthouse.parts.checker_for(found)


def test_what_a_passage_says_is_supported_and_quoted(checker):
    found = checker.check(CLAIM, passage(1, TEXT))
    assert found.enough
    assert found.probability >= checker.calibration.threshold
    assert "Robert Stevenson built the lighthouse there." in found.quote.text


@pytest.mark.parametrize(
    "claim",
    [
        "The Bell Rock lighthouse was built by John Smeaton.",  # another name
        "It was first lit on 1 February 1911.",  # another number
        "It was last lit on 1 February 1811.",  # the opposite
        "Bread is baked from flour, water, salt and yeast.",  # from somewhere else
    ],
)
def test_a_minimal_edit_is_not(checker, claim):
    assert not checker.check(claim, passage(1, TEXT)).enough


def test_the_quote_is_a_span_of_the_passage(checker):
    found = checker.check("It was lit in 1811.", passage(1, TEXT))
    assert found.quote.text == TEXT[found.quote.start : found.quote.end]
    assert "1811" in found.quote.text


def test_a_passage_without_sentences_supports_nothing(checker):
    assert checker.check(CLAIM, passage(1, " \n ")) is None


def test_what_two_sentences_say_together_is_quoted_from_both(checker):
    claim = "Robert Stevenson built the lighthouse that was first lit on 1 February 1811."
    found = checker.check(claim, passage(1, TEXT))
    assert found.quote.text == (
        "Robert Stevenson built the lighthouse there. It was first lit on 1 February 1811."
    )
    assert found.enough


def test_a_cross_encoder_compares_where_a_calibration_was_fitted_for_it(
    lighthouse, tmp_path, monkeypatch
):
    """A tiny one of the real class; what its logits are worth only a fit could say."""
    model = tiny_models.reranker(tmp_path / "reranker")
    files = resolve(str(model))
    with closing(open_cross_encoder(files, engines_of(lighthouse.parts.settings))) as read:
        reranker = CrossEncoderReranker(str(model), read)
        settings = lighthouse.parts.settings.model_copy(update={"reranker": str(model)})
        loaded = {**lighthouse.parts._loaded, "reranker": reranker}
        parts = replace(lighthouse.parts, settings=settings, _loaded=loaded)
        found = parts.catalog.collection(lighthouse.scope, "lighthouse")
        assert "late-interaction" in parts.checker_for(found).how, "nothing was fitted for it yet"
        fitted = Calibration((2.0, 0, 0, 0, 0, 0, 0), 0.5, 0.5, "a test")
        monkeypatch.setattr(check, "calibrations", lambda: {**calibrations(), str(model): fitted})
        checker = parts.checker_for(found)
        assert checker.how == f"{model}, fitted on a test"
        checked = checker.check(CLAIM, passage(1, TEXT))
        (logit,) = read.logits(CLAIM, [checked.quote.text])
        assert checked.seen.meaning == pytest.approx(float(logit), abs=1e-3)
        expected = 1 / (1 + math.exp(-(0.5 + 2 * logit)))
        assert checked.probability == pytest.approx(expected, abs=1e-3)


def test_what_was_fitted_for_which_models_is_named(lighthouse):
    assert WORDS in calibrations()
    collection = lighthouse.parts.catalog.collection(lighthouse.scope, "lighthouse")
    how = lighthouse.parts.checker_for(collection).how
    assert "all-MiniLM-L6-v2 / late-interaction" in how
    assert "fitted on eval/labelled/fit.jsonl" in how
    assert Checker.by_words(", uncalibrated for x").how == "words alone, uncalibrated for x"


def test_a_title_belongs_to_its_passage(checker):
    """A page of Kraft's says "we", and a sentence about it says "Kraft"."""
    bare = passage(1, "We maintain physical safeguards to protect what we collect.")
    titled = replace(bare, title="Kraft Recipes")
    claim = "The safeguards of Kraft protect what it collects."
    assert checker.check(claim, titled).probability > checker.check(claim, bare).probability + 0.2
