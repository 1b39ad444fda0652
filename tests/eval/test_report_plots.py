"""The Pareto front, numbers that do not cover each other, and SVG that a page can hold."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.report_plots import (
    COLOURS,
    Point,
    deltas,
    pareto,
    quality_and_latency,
    recall_at_depth,
    risk_and_coverage,
    spread,
    waterfall,
)

small = st.integers(0, 5).map(float)


def beats(one, other):
    return one[0] <= other[0] and one[1] >= other[1] and one != other


def test_the_front_by_hand():
    """(2, 1) is dearer and no better than (1, 1); (3, 5) is the best, (1, 1) the cheapest."""
    assert pareto([(3, 5), (1, 1), (2, 1), (2, 3), (4, 4)]) == [1, 3, 0]
    assert pareto([]) == []


@given(st.lists(st.tuples(small, small), max_size=12))
def test_the_front_is_what_nothing_beats(points):
    front = pareto(points)
    for at, point in enumerate(points):
        assert (at in front) == (not any(beats(other, point) for other in points))
    costs = [points[at][0] for at in front]
    assert costs == sorted(costs)
    assert len(front) == len(set(front))


@given(st.lists(st.tuples(st.floats(0, 300), st.floats(0, 200)), max_size=12))
def test_no_number_covers_another(places):
    heights = spread(places, apart=12.0)
    for i, (x, y) in enumerate(places):
        assert heights[i] >= y
        for j in range(i):
            if abs(places[j][0] - x) < 12.0:
                assert abs(heights[i] - heights[j]) >= 12.0 - 1e-6


HOSTILE = '<script>alert("$x$")</script> & --> \' id="x"'
POINTS = [
    Point(1, HOSTILE, 0.4, 0.3, 0.5, 12.0, {HOSTILE: 4.0, "search": 8.0}),
    Point(2, "other", 0.5, 0.4, 0.6, 300.0, {"search": 300.0}),
    Point(3, "third", 0.5, 0.4, 0.6, 300.0, {}),
]


@pytest.fixture(
    params=[
        lambda: quality_and_latency(POINTS, HOSTILE),
        lambda: recall_at_depth({HOSTILE: np.linspace(0.1, 0.9, 50), "b": np.ones(50)}),
        lambda: deltas(np.array([0.5, -0.25, 0.0]), HOSTILE),
        lambda: waterfall(POINTS),
        lambda: risk_and_coverage([(1.0, 0.3), (0.1, 0.0), (0.5, 0.1)]),
    ],
    ids=["quality", "recall", "deltas", "waterfall", "risk"],
)
def drawn(request):
    return request.param


def test_a_drawing_is_one_element_in_the_colours_of_the_page(drawn):
    svg = drawn()
    root = ET.fromstring(svg)  # well-formed: nothing that was written broke out of its place
    assert root.tag.endswith("svg")
    assert {"width", "height"}.isdisjoint(root.attrib)
    assert not [one for one in root.iter() if one.tag.endswith("script")]
    assert "var(--ink)" in svg
    assert not [code for code in COLOURS.values() if code in svg]
    assert svg == drawn(), "the same again"


def test_drawings_share_no_ids():
    def ids(svg):
        return {one.attrib["id"] for one in ET.fromstring(svg).iter() if "id" in one.attrib}

    assert not ids(waterfall(POINTS)) & ids(quality_and_latency(POINTS, "AP"))


def test_references_lead_to_what_is_there():
    svg = quality_and_latency(POINTS, "AP")
    root = ET.fromstring(svg)
    there = {one.attrib["id"] for one in root.iter() if "id" in one.attrib}
    used = [v[1:] for one in root.iter() for k, v in one.attrib.items() if k.endswith("href")]
    assert used
    assert set(used) <= there


def test_text_is_written_as_it_is():
    """A $ begins no formula, and is found by searching the page."""
    texts = [one.text for one in ET.fromstring(waterfall(POINTS)).iter() if one.text]
    assert f"1 {HOSTILE}" in texts


@pytest.mark.filterwarnings("error")
def test_as_many_stages_as_an_answer_has_fit():
    names = ("condense", "embed", "retrieve", "rerank", "pack", "support", "generate", "cite")
    drawn = waterfall([Point(1, "quote", 0.5, 0.4, 0.6, 8.0, dict.fromkeys(names, 1.0))])
    assert all(name in drawn for name in names)
