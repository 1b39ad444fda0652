import math

import pytest

from eval.measures import parse_measures, per_question
from eval.runs import Run
from rag.errors import InvalidInput

QRELS = {"q1": {"d1": 1}, "q2": {"d1": 1, "d2": 1}, "q3": {"d3": 1}}


def test_values_by_hand():
    """q1: the answer is second. q2: first and third of two. q3 was not answered: it counts 0."""
    run = Run(
        "x", {"q1": {"d2": 2, "d1": 1}, "q2": {"d1": 3, "d3": 2, "d2": 1}, "other": {"d1": 1}}
    )
    found = per_question(QRELS, run, parse_measures(["nDCG@10", "recall@2", "mrr@10", "map"]))
    second = 1 / math.log2(3)
    both = (1 + 1 / math.log2(4)) / (1 + second)
    assert found["nDCG@10"].tolist() == pytest.approx([second, both, 0])
    assert found["R@2"].tolist() == [1, 0.5, 0]
    assert found["RR@10"].tolist() == [0.5, 1, 0]
    assert found["AP"].tolist() == pytest.approx([0.5, (1 + 2 / 3) / 2, 0])


def test_an_unknown_measure_is_named():
    with pytest.raises(InvalidInput, match="no measure 'beauty@10'"):
        parse_measures(["beauty@10"])
