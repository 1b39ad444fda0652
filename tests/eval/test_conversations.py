"""The conversations' promises, and what condensing does for a few of them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from eval.conversations import ASKED, CONDENSED, DEMO, WRITTEN, load, measure, ways


@pytest.fixture(scope="module")
def turns():
    return load()


def test_there_are_enough_turns_of_each_kind(turns):
    kinds = Counter(turn.kind for turn in turns)
    assert sum(kinds.values()) >= 40
    assert kinds["dependent"] >= 30
    assert kinds["shift"] >= 5
    assert kinds["first"] == sum(not turn.history for turn in turns)
    for turn in turns:
        assert (turn.kind == "dependent") == (turn.standalone != turn.question)


def test_quotes_stand_in_the_sample_documents(turns, lighthouse):
    for turn in turns:
        if turn.collection == DEMO:
            document, quote = turn.relevant
            assert quote in lighthouse.text(document, collection="lighthouse")


def test_condensing_finds_what_dependent_follow_ups_are_after(turns, lighthouse):
    """As far as rules go: a part of what a person's own words would find."""
    some = [replaced(turn) for turn in turns if turn.collection == DEMO][:12]
    found = measure(lighthouse, some, show=False)["dependent"]
    asked, condensed, written = (np.mean(found[way]) for way in (ASKED, CONDENSED, WRITTEN))
    assert asked + 0.1 < condensed <= written + 0.1


def test_a_first_question_is_searched_for_as_it_is(turns, lighthouse):
    first = replaced(turns[0])
    assert len({asked(first) for asked in ways(lighthouse).values()}) == 1


def replaced(turn):
    """In the collection that tests share."""

    return replace(turn, collection="lighthouse")
