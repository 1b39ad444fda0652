"""Rates of near hits, on a few pairs that anybody can judge."""

import json

import numpy as np

from eval.answer_cache import Rates, banking_pairs, compared, covid_pairs, measure

PAIRS = [
    ("How do I lock my card?", "How do I lock the card?", True),
    ("How do I lock my card?", "How do I unlock my card?", False),
    ("Is it open on Sunday?", "Is it open on Sundays?", True),
    ("Is it open on Sunday?", "What does a ticket cost?", False),
]


def test_rates_count_hits_of_each_kind():
    cosines = np.array([0.95, 0.95, 0.9, 0.1], dtype=np.float32)
    every = np.ones(4, dtype=bool)
    assert measure(PAIRS, cosines, every, 0.93) == Rates(0.5, 0.5, 0.5)
    assert measure(PAIRS, cosines, np.array([True, False, True, True]), 0.93) == Rates(0.5, 0, 0)
    assert measure(PAIRS, cosines, every, 0.99) == Rates(0, 0, 0)


def test_pairs_are_compared_by_their_vectors_and_confirmed_where_those_are_near(lighthouse):
    asked = []

    def same(_, other):
        asked.append(other)
        return "unlock" not in other

    cosines, confirmed = compared(PAIRS, lighthouse.parts.embedder, same)
    assert cosines[0] > 0.8 > cosines[3]
    assert list(confirmed) == [True, False, True, False]
    assert "What does a ticket cost?" not in asked


def test_both_files_are_read(tmp_path, lighthouse):
    pair = {"_id": "p", "a": "Who?", "b": "What?", "same": 0}
    (tmp_path / "covid-question-pairs.jsonl").write_text(json.dumps(pair) + "\n")
    assert covid_pairs(tmp_path) == [("Who?", "What?", False)]
    rows = [
        {"_id": str(n), "text": text, "label": label}
        for n, (text, label) in enumerate(
            [("Where is my card?", "card"), ("Where's my card?", "card"), ("The rate?", "rate")]
        )
    ]
    (tmp_path / "banking77-test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = banking_pairs(tmp_path, lighthouse.parts.embedder)
    assert pairs[0] == ("Where is my card?", "Where's my card?", True)
    assert pairs[2][2] is False
