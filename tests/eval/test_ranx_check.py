"""ir-measures against ranx, which shares no code with it; only where ranx is installed."""

import random

import numpy as np
import pytest

from eval.measures import STANDARD, parse_measures, per_question
from eval.runs import Run
from rag.errors import InvalidInput

pytest.importorskip("ranx", reason="ranx is no dependency: pip install ranx to check against it")

from eval.ranx_check import by_ranx

DOCUMENTS = [f"d{n}" for n in range(80)]


@pytest.mark.parametrize("seed", range(5))
def test_ranx_finds_the_same_values(seed):
    """Graded judgements, rankings of differing lengths, a question that is not answered."""
    draw = random.Random(seed)
    qrels = {
        f"q{n}": {d: draw.choice([1, 1, 2, 3]) for d in draw.sample(DOCUMENTS, draw.randint(1, 9))}
        for n in range(40)
    }
    rankings = {
        query: {
            d: -float(rank) for rank, d in enumerate(draw.sample(DOCUMENTS, draw.randint(1, 70)))
        }
        for query in list(qrels)[1:]
    }
    run = Run("x", rankings)
    ours = per_question(qrels, run, parse_measures(STANDARD))
    theirs = by_ranx(qrels, run, list(ours))
    for measure, values in ours.items():
        assert values.any()
        np.testing.assert_allclose(theirs[measure], values, rtol=0, atol=1e-12, err_msg=measure)


def test_a_measure_that_ranx_calls_otherwise_is_refused():
    with pytest.raises(InvalidInput, match="not asked for Judged@10"):
        by_ranx({"q": {"d": 1}}, Run("x", {"q": {"d": 1.0}}), ["Judged@10"])
