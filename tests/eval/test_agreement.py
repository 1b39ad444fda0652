"""Orders compared: by hand where the numbers are known, and once through the real models."""

import numpy as np
import pytest

from eval.agreement import (
    LEAST_TAU,
    against_judgements,
    agree,
    halves,
    self_check,
    trustworthy,
    values,
)
from eval.collection import Shelved
from eval.datasets import Dataset
from eval.degraded import contenders
from eval.make import MadeSet
from eval.makers import Question, shelf_of_collection
from eval.systems import Pooled
from rag.errors import InvalidInput

SYSTEMS = contenders(0.5, depths=())
CHOICES = sum(not one.degraded for one in SYSTEMS)


def matrix(quality, questions=200, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((len(quality), questions)) < np.asarray(quality)[:, None]).astype(float)


def test_agreeing_on_what_is_broken_is_not_agreeing_on_choices():
    """The broken half is far below on both sides; the choices are in opposite orders."""
    good = np.linspace(0.6, 0.95, CHOICES)
    bad = np.linspace(0.05, 0.4, len(SYSTEMS) - CHOICES)
    a, b = np.tile([*good, *bad], (50, 1)).T, np.tile([*good[::-1], *bad], (50, 1)).T
    found = agree(a, b, SYSTEMS)
    assert found.choices.mean == pytest.approx(-1)
    n, opposite = len(SYSTEMS), CHOICES * (CHOICES - 1) / 2
    assert found.every.mean == pytest.approx(1 - 2 * opposite / (n * (n - 1) / 2))
    assert (found.a, found.b) == (50, 50)


def test_the_same_quality_orders_alike_and_halves_say_how_much_to_hope_for():
    quality = np.linspace(0.05, 0.95, len(SYSTEMS))
    assert agree(matrix(quality), matrix(quality, seed=1), SYSTEMS).every.mean > 0.8
    assert halves(matrix(quality), SYSTEMS).every.mean > 0.8
    same = np.full(len(SYSTEMS), 0.5)
    assert abs(halves(matrix(same), SYSTEMS).every.mean) < 0.5, "no order, no agreement"


def test_a_set_below_the_threshold_is_not_to_be_trusted():
    assert trustworthy(LEAST_TAU)
    assert not trustworthy(LEAST_TAU - 0.01)


def test_values_are_by_system_and_question():
    points = [("p0", 0.9), ("p1", 0.8)]
    other = [("p1", 7.0), ("p0", 3.0)]
    pooled = Pooled("q", points, other, {}, {"p0": "d0", "p1": "d1"})
    dense, bm25 = SYSTEMS[:2]
    found = values({"whole": [pooled]}, [dense, bm25], {"q": {"d0": 1}})
    assert found == pytest.approx(np.array([[1.0], [1 / np.log2(3)]]))


ASKED = {
    "q1": ("How far was Cape Hatteras Lighthouse moved?", "2,900 feet"),
    "q2": ("Which ship hit the rocks after the tower was gone?", "Winchelsea"),
}


@pytest.fixture(scope="module")
def judged(lighthouse):
    """Paragraphs of two of the sample documents; relevant is what holds the answer."""
    shelf = shelf_of_collection(lighthouse, "lighthouse")
    texts = {
        f"{id_}-{n:02}": paragraph
        for id_ in ("american-lighthouses.md", "eddystone-lighthouses.pdf")
        for n, paragraph in enumerate(shelf.read(id_).text.split("\n"))
        if len(paragraph) > 150
    }
    qrels = {q: {d: 1 for d, text in texts.items() if a in text} for q, (_, a) in ASKED.items()}
    assert all(qrels.values())
    queries = {query: text for query, (text, _) in ASKED.items()}
    return Dataset("paragraphs", dict.fromkeys(texts, ""), texts, queries, qrels)


def test_a_judged_collection_from_beginning_to_end(lighthouse, judged, tmp_path):
    embedder = lighthouse.parts.embedder
    row, experiment = against_judgements(
        judged, embedder, questions=6, home=tmp_path / "home", cache=tmp_path, show=False
    )
    assert row.made.questions
    assert (row.agreement.a, row.agreement.b) == (len(row.made.questions), 2)
    assert row.agreement.every.low <= row.agreement.every.mean <= 1
    systems = {one["system"]: one for one in experiment.about()["rows"]}
    assert systems["dbsf"]["made"] > systems["random"]["made"]
    made, pools = row.made, {p: p.read_bytes() for p in experiment.folder.glob("pool-*.jsonl")}
    again, _ = against_judgements(
        judged, embedder, questions=6, home=tmp_path / "home", cache=tmp_path, show=False
    )
    assert (again.made, again.agreement) == (made, row.agreement)
    assert pools == {p: p.read_bytes() for p in pools}, "nothing was asked twice"


def test_one_question_has_no_halves():
    with pytest.raises(InvalidInput, match="has no halves"):
        halves(matrix([0.5, 0.5], questions=1), SYSTEMS[:2])


def test_a_set_of_one_kind_cannot_check_itself(lighthouse, tmp_path):
    made = MadeSet([Question("m1", "Who lit the lamp?", "span", "d", "d", ("d",))], [], {})
    source = Shelved(lighthouse, "lighthouse")
    with pytest.raises(InvalidInput, match="all others than keywords"):
        self_check(source, made, 0.5, tmp_path, show=False)
