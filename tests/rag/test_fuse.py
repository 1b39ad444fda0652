import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.fuse import dbsf, ordered, rrf, weighted

IDS = st.sampled_from("abcdefgh")
SCORES = st.floats(-100, 100, width=32)
RANKINGS = st.lists(
    st.dictionaries(IDS, SCORES, max_size=8).map(lambda d: list(d.items())), min_size=1, max_size=3
)
FUSIONS = {
    "rrf": rrf,
    "dbsf": dbsf,
    "weighted": lambda rankings: weighted(rankings, [0.5, 0.3, 0.2][: len(rankings)]),
}
every_fusion = pytest.mark.parametrize("fuse", FUSIONS.values(), ids=FUSIONS)


def approx(pairs):
    return [(point, pytest.approx(score)) for point, score in pairs]


def test_rrf_adds_one_over_sixty_plus_rank():
    # a: first of one. b: second and first. c: second of one. The scores themselves do not count.
    fused = rrf([[("a", 0.9), ("b", 0.1)], [("b", 30.0), ("c", 29.0)]])
    assert fused == approx([("b", 1 / 62 + 1 / 61), ("a", 1 / 61), ("c", 1 / 62)])


def test_rrf_with_a_small_k_favours_the_first():
    # k = 1: a 1/2; b 1/3 + 1/4 = 7/12; c 1/4 + 1/3 = 7/12; d 1/2.
    fused = rrf(
        [[("a", 3), ("b", 2), ("c", 1)], [("d", 3), ("c", 2), ("b", 1)]],
        k=1,
    )
    assert fused == approx([("b", 7 / 12), ("c", 7 / 12), ("a", 1 / 2), ("d", 1 / 2)])


def test_dbsf_scales_three_deviations_to_one():
    # Scores 3 2 1: mean 2, sample deviation 1, so -1 is 0 and 5 is 1: a 4/6, b 3/6, c 2/6.
    # Scores 10 10 have no spread: 1/2 each. b has both, d only the second.
    fused = dbsf([[("a", 3), ("b", 2), ("c", 1)], [("b", 10), ("d", 10)]])
    assert fused == approx([("b", 1.0), ("a", 2 / 3), ("d", 0.5), ("c", 1 / 3)])


def test_dbsf_gives_a_single_hit_the_middle():
    assert dbsf([[("a", 123.0)], []]) == [("a", 0.5)]


def test_weighted_scales_to_the_range_first():
    # 4 3 2 -> 1, 1/2, 0, times 1/4. 9 1 -> 1, 0, times 3/4.
    fused = weighted([[("a", 4), ("b", 3), ("c", 2)], [("b", 9), ("c", 1)]], [0.25, 0.75])
    assert fused == approx([("b", 0.875), ("a", 0.25), ("c", 0.0)])


def test_weighted_gives_a_list_without_spread_its_whole_weight():
    assert weighted([[("a", 7), ("b", 7)], []], [0.5, 0.5]) == [("a", 0.5), ("b", 0.5)]


def test_weights_must_be_as_many_as_rankings():
    with pytest.raises(ValueError, match="2 rankings need as many weights, got 1"):
        weighted([[], []], [1.0])


def test_equal_scores_are_ordered_by_id():
    assert ordered([("b", 1), ("c", 2), ("a", 1)]) == [("c", 2), ("a", 1), ("b", 1)]


@every_fusion
def test_nothing_fuses_to_nothing(fuse):
    assert fuse([[], []]) == []


@every_fusion
def test_ties_within_a_list_are_broken_by_id(fuse):
    fused = fuse([[("c", 1), ("a", 1), ("b", 1)]])
    assert [point for point, _ in fused] == ["a", "b", "c"]


@every_fusion
@given(rankings=RANKINGS, data=st.data())
def test_the_order_in_which_a_list_arrives_does_not_matter(fuse, rankings, data):
    shuffled = [data.draw(st.permutations(ranking)) for ranking in rankings]
    assert fuse(shuffled) == fuse(rankings)


@every_fusion
@given(rankings=RANKINGS)
def test_every_id_is_kept_once_best_first(fuse, rankings):
    fused = fuse(rankings)
    assert sorted(point for point, _ in fused) == sorted({p for r in rankings for p, _ in r})
    assert fused == sorted(fused, key=lambda pair: (-pair[1], pair[0]))
