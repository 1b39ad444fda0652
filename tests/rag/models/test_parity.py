import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from rag.models.parity import (
    cosines,
    embedding_agreement,
    faults,
    fixed_texts,
    kendall,
    logit_agreement,
    logit_error,
)


def test_tau_of_one_swap():
    # Three passages, three pairs; swapping the last two turns one of them: (2 - 1) / 3.
    reference = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    assert kendall(reference, np.array([[3.0, 1.0, 2.0]], dtype=np.float32)) == pytest.approx(1 / 3)
    assert kendall(reference, reference) == 1
    assert kendall(reference, -reference) == -1


def test_a_tie_on_one_side_counts_as_neither():
    reference = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    assert kendall(reference, np.array([[2.0, 2.0, 1.0]], dtype=np.float32)) == pytest.approx(2 / 3)


def test_tau_is_scipys_mean_over_questions():
    random = np.random.default_rng(3)
    a, b = random.normal(size=(2, 5, 9)).astype(np.float32)
    expected = np.mean([kendalltau(x, y).statistic for x, y in zip(a, b, strict=True)])
    assert kendall(a, b) == pytest.approx(expected)


def test_the_error_of_logits_is_in_standard_deviations():
    reference = np.array([[-1.0, 1.0]], dtype=np.float32)  # deviation 1
    assert logit_error(reference, reference + 0.25) == pytest.approx(0.25)
    assert logit_error(reference, reference + 0.25, scale=0.5) == pytest.approx(0.5)
    agreement = logit_agreement(reference, reference + 0.25)
    assert agreement == {"logit error": pytest.approx(0.25), "rank": 1.0}


def test_the_cosine_is_the_worst_of_all_texts():
    right = np.eye(3, dtype=np.float32)
    turned = right.copy()
    turned[2] = [0, 0.6, 0.8]
    assert cosines(right, turned).tolist() == pytest.approx([1, 1, 0.8])
    agreement = embedding_agreement((right, right), (right, turned))
    assert agreement["cosine"] == pytest.approx(0.8)


def test_faults_name_figure_and_bound():
    bounds = {"cosine": 0.99, "logit error": 0.1}
    assert faults({"cosine": 0.99, "logit error": 0.1}, bounds) == []
    found = faults({"cosine": 0.5, "logit error": 0.2}, bounds)
    assert found == [
        "cosine is 0.5, at least 0.99 is asked for",
        "logit error is 0.2, at most 0.1 is asked for",
    ]


@pytest.mark.parametrize("name", ["cosine", "logit error"])
def test_nan_is_within_no_bounds(name):
    assert faults({name: math.nan}, {name: 0.5})


def test_the_fixed_texts_are_of_very_different_lengths():
    texts = fixed_texts()
    lengths = sorted(map(len, texts.passages))
    assert lengths[0] < 10
    assert lengths[-1] > 500
    assert len(texts.questions) >= 6
    assert len(set(texts.passages)) == len(texts.passages) >= 12
