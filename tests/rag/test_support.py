"""When there is enough to answer from, for models without a calibration."""

import pytest

from rag import types as t
from rag.settings import PROFILES, Settings
from rag.support import FEW, assess, calibration_key, calibration_of, calibrations


class Parts:
    """A cross-encoder that nothing was calibrated for."""

    class reranker:
        id = "some/cross-encoder"

    def __init__(self, **settings) -> None:
        self.settings = Settings(**settings)


def judged(best_logit: float, own=None, **settings) -> bool:
    passage = t.Passage(1, "d", "", "Text.", 0, 5, 1, None, (), "", t.Scores())
    collection = type("Collection", (), {"settings": own or {}})
    request = type("Request", (), {"context": t.Context((passage,), 1), "collection": collection})
    chunk = t.Chunk("d", 1, 0, "", "Text.", 0, 5, 1)
    hits = tuple(
        t.Hit(str(logit), chunk, logit, t.Scores(rerank=logit)) for logit in (best_logit, -20.0)
    )
    return assess(request, t.SearchResult(hits, {}), Parts(**settings)).enough


@pytest.mark.parametrize(
    ("logit", "enough"),
    [
        (-4.59, True),  # 1.005 %
        (-4.60, False),  # 0.995 %
        (-800.0, False),  # beyond what exp can do
        (3.0, True),
    ],
)
def test_the_best_passage_has_to_have_a_chance_of_one_percent(logit, enough):
    assert judged(logit) is enough


def test_with_least_relevance_0_everything_is_answered():
    assert judged(-800.0, least_relevance=0)


def test_a_collections_own_threshold_counts_for_a_cross_encoder_too():
    assert judged(-800.0, {"least_support": 0.0})
    assert not judged(0.0, {"least_support": 0.6})  # a logit of 0 is an even chance


def test_a_fusion_that_nothing_was_fitted_for_is_judged_by_its_sentences_alone():
    """The sentence's number is the same whatever the fusion, the fused score is not."""
    starter = PROFILES["starter"].embedder
    few = calibrations()[calibration_key(starter, FEW)]
    assert few.fused == 0
    assert calibration_of(starter, "weighted") == few
    assert calibration_of(starter, "dbsf") != few
    assert calibration_of("some/other", "dbsf") is None
