"""Ratios, spreads and agreement, each worked out by hand."""

import numpy as np
import pytest

from eval.perf.figures import (
    Figure,
    Section,
    cosines,
    fairness,
    percentile,
    rank_agreement,
    ratio,
    same_nearest,
    top_overlap,
)
from eval.perf.limits import operations, weights_read


def figure(side, *values, measure="throughput", higher=True, **options):
    return Figure("embed", measure, "passages/s", side, values, higher, **options)


def test_ratio_of_throughputs_is_ours_over_theirs_round_by_round():
    # 40/10, 30/10, 60/12: the median of 4, 3 and 5. Medians of the sides would say 40/10 as well,
    # but not know the spread.
    found = ratio(figure("ours", 40, 30, 60), figure("peer", 10, 10, 12))
    assert (found.middle, found.low, found.high) == (4, 3, 5)
    assert str(found) == "4.00x (3.00-5.00)"


def test_rounds_are_compared_in_pairs_so_that_a_slow_round_of_both_does_not_count():
    # The machine was ten times slower in the second round: the ratio did not change.
    found = ratio(figure("ours", 100, 10), figure("peer", 50, 5))
    assert (found.low, found.high) == (2, 2)


def test_ratio_of_latencies_is_theirs_over_ours():
    found = ratio(
        figure("ours", 2, measure="answer", higher=False),
        figure("peer", 6, measure="answer", higher=False),
    )
    assert found.middle == 3


def test_different_measures_do_not_compare():
    with pytest.raises(ValueError, match="does not compare"):
        ratio(figure("ours", 1), figure("peer", 1, measure="answer"))


def test_a_side_that_lacks_a_round_does_not_compare():
    with pytest.raises(ValueError, match="zip"):
        ratio(figure("ours", 1, 2), figure("peer", 1))


def test_rows_keep_workload_and_measure_together_in_order():
    section = Section("embed", ["ours"])
    section.figures = [
        figure("ours", 1),
        figure("ours", 1, measure="latency"),
        figure("peer", 2),
    ]
    rows = section.rows()
    assert list(rows) == [("embed", "throughput"), ("embed", "latency")]
    assert [f.side for f in rows["embed", "throughput"]] == ["ours", "peer"]


def test_percentiles_are_linear_between_neighbours():
    assert percentile([1, 2, 3, 4], 0.5) == 2.5
    assert percentile([0, 10], 0.95) == pytest.approx(9.5)


def test_fairness_is_the_slowest_over_the_mean():
    assert fairness([4, 4, 4]) == 1
    assert fairness([1, 2, 6]) == 2  # 6 / 3


def test_cosines_do_not_depend_on_length():
    ours = np.array([[2, 0], [1, 1]], dtype=np.float32)
    reference = np.array([[1, 0], [0, 3]], dtype=np.float32)
    assert cosines(ours, reference) == pytest.approx([1, 0.5**0.5])


def test_same_nearest_leaves_the_row_itself_out():
    # Rows 0 and 1 are neighbours on both sides; row 2 is nearest to 1 here and to 0 there.
    ours = np.array([[1, 0], [0.9, 0.1], [0, 1]], dtype=np.float32)
    reference = np.array([[0.9, 0.1], [1, 0], [0, 1]], dtype=np.float32)
    assert same_nearest(ours, reference) == pytest.approx(2 / 3)


def test_rank_agreement_is_the_mean_of_kendalls_tau():
    reference = np.array([[1, 2, 3], [1, 2, 3]], dtype=np.float32)
    # The first order is the same (1); the second has one of three pairs swapped (2 - 1) / 3.
    ours = np.array([[10, 20, 30], [1, 3, 2]], dtype=np.float32)
    assert rank_agreement(ours, reference) == pytest.approx((1 + 1 / 3) / 2)


def test_top_overlap_counts_passages_whatever_their_order():
    reference = np.array([[4, 3, 2, 1]], dtype=np.float32)
    ours = np.array([[3, 4, 1, 2]], dtype=np.float32)  # the best two swapped, the same two
    assert top_overlap(ours, reference, 2) == 1
    assert top_overlap(ours, reference, 3) == pytest.approx(2 / 3)  # 0, 1 and 3 against 2


def test_operations_of_an_encoder():
    # One layer, one token: 2 (4 * 2^2 + 2 * 2 * 3) = 56, attention 4 * 1 * 2 = 8.
    config = {"hidden_size": 2, "intermediate_size": 3, "num_hidden_layers": 1}
    assert operations(config, [1]) == 64
    # Three tokens: 3 (56 + 4 * 3 * 2); two layers do it twice.
    assert operations(config | {"num_hidden_layers": 2}, [3]) == 2 * 3 * 80


def test_weights_of_a_qwen_are_those_of_its_shape():
    # Qwen2.5-0.5B: 0.49B parameters of which every step reads all, the tied output matrix once.
    config = {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
    }
    assert weights_read(config) == 24 * (2 * 896**2 + 2 * 896 * 128 + 3 * 896 * 4864) + 136_134_656
    assert 0.49e9 < weights_read(config) < 0.5e9
