"""SQuAD's rules, by hand."""

import pytest

from eval.squad import exact_match, f1, holds, normalised


def test_case_punctuation_articles_and_spaces_do_not_count():
    assert normalised(" The  Bell-Rock,\tlit in an 1,811th hour! ") == "bellrock lit in 1811th hour"
    assert normalised("theatre another") == "theatre another"  # words that begin like articles


def test_exact_match_is_of_the_best_accepted_answer():
    assert exact_match("The lamp.", ["candle", "lamp"]) == 1
    assert exact_match("the lamp room", ["lamp"]) == 0
    assert exact_match("anything", []) == 0


def test_f1_by_hand():
    """Of 4 words given 2 are wanted, of 3 wanted 2 are given: 2 * 2 / (4 + 3)."""
    assert f1("lit by whale oil", ["whale oil lamps", "gas"]) == pytest.approx(4 / 7)
    assert f1("oil oil", ["oil"]) == pytest.approx(2 / 3)  # a word counts as often as it is wanted
    assert f1("gas", ["oil"]) == 0


def test_an_answer_of_articles_alone_matches_only_its_like():
    assert f1("the", ["oil"]) == 0
    assert f1("the", ["a"]) == 1


def test_an_answer_is_held_as_whole_words_in_their_order():
    assert holds("It was lit in 1811, they say.", ["1811"])
    assert holds("moved by 2,900 feet", ["2900 feet"])
    assert not holds("It was lit in 18110.", ["1811"])
    assert not holds("feet 2900", ["2900 feet"])
    assert not holds("anything", ["the", ""])  # nothing is left of them to look for
