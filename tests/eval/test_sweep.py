"""Many systems at once give what each of them gives alone."""

import numpy as np
import pytest

from eval.choose import grid
from eval.measures import parse_measures, per_question
from eval.pool import Pool
from eval.sweep import Cold, ms_of, scored, time_questions, values_of
from eval.systems import Pooled, System, run_of
from rag.choices import Choices
from tests.eval.test_choose import pool_of


@pytest.mark.parametrize("measure", ["nDCG@10", "AP"])
def test_each_system_has_the_values_that_it_has_alone(measure):
    pool, qrels = pool_of(12, np.random.default_rng(0), quality=2.0)
    systems = grid((10,), (0.5, 1.0))
    measures = parse_measures([measure])
    questions, values = values_of(pool, systems, qrels, measures[0])
    assert questions == sorted(qrels)
    for row, system in zip(values, systems, strict=True):
        alone = per_question(qrels, run_of(pool, system), measures)[measure]
        assert row.tolist() == alone.tolist()


def test_what_is_scored_is_how_deep_each_fusion_is_reranked():
    systems = [
        System("a", Choices("rrf", rerank_limit=10, rerank_blend=0.2)),
        System("b", Choices("rrf", rerank_limit=20, rerank_blend=0.5)),
        System("c", Choices("weighted", 0.3, rerank_limit=0)),
    ]
    assert scored(systems) == [["hybrid", "rrf", 0.5, 20], ["hybrid", "weighted", 0.3, 0]]


def test_milliseconds_are_those_of_the_parts_at_the_percentile():
    """Embedding and searching take 10 ms, reranking one of three candidates 1, 2 or 3 ms."""
    timed = [
        Pooled(
            str(n), [(p, 1.0) for p in "abc"], [], {}, dict.fromkeys("abc", "d"),
            {"embed": 0.004, "search": 0.006, "rerank": n / 1000},
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    systems = [
        System("none", Choices("dbsf", rerank_limit=0)),
        System("two", Choices("dbsf", 0.5, 2)),
    ]
    assert ms_of(timed, systems, 50) == pytest.approx([10, 14])
    assert ms_of(timed, systems, 100)[1] == pytest.approx(16)


def test_every_timed_question_finds_a_reranker_that_has_read_nothing(lighthouse, tmp_path):
    from eval.collection import Shelved

    source = Shelved(lighthouse, "lighthouse")
    kept = []

    class Watched(Cold):
        def retrieve(self, question, limit):
            found = super().retrieve(question, limit)
            kept.append(self.reranker.kept())
            return found

    watched = Watched(source)
    asked = {"q1": "When was the light lit?", "q2": "Who built the Bell Rock lighthouse?"}
    pool = time_questions(Pool(tmp_path / "t.jsonl"), watched, asked, 60, seed=0, show=False)
    assert kept == [0, 0, 0]  # the first is asked to warm up
    assert {one.query for one in pool} == {"q1", "q2"}
    assert all(one.seconds["rerank"] > 0 for one in pool)
    assert source.reranker.kept() > 0
