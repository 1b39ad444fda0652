"""What words say of a claim."""

import pytest

from rag import claims


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lit in 1811, 35 metres high", {1811, 35}),
        ("1,493 blocks and 37.6 million", {1493, 37.6e6}),
        ("A hundred and fifty-one students", {151}),
        ("about two hundred and fifty years", {250}),
        ("three thousand two hundred and six", {3206}),
        ("twenty-four candles", {24}),
        ("two dozen, or a dozen", {24, 12}),
        ("five six", {5, 6}),
        ("One of them, a single one", set()),
        ("6 million", {6e6}),
        ("", set()),
    ],
)
def test_numbers_in_figures_and_in_words(text, found):
    assert claims.numbers(text) == found


def test_names_begin_no_sentence():
    text = "The light was Stevenson's. Nobody of Arbroath lit it: Watt did."
    assert claims.names(text) == {"stevenson", "arbroath"}


def test_a_name_is_there_in_another_form():
    assert claims.missing_names("It is in Australia", "an Australian actress") == set()
    assert claims.missing_names("as Kraft says", "kraftrecipes.com") == set()
    assert claims.missing_names("built by Smeaton", "built by Rudyerd") == {"smeaton"}


@pytest.mark.parametrize(
    ("text", "no"),
    [("never lit", True), ("It wasn't lit", True), ("a notable knot", False), ("Nothing", True)],
)
def test_negation(text, no):
    assert claims.negated(text) is no


def test_an_opposite_stands_in_the_place_of_a_word():
    assert claims.has_opposite("the southern tower", "The northern tower fell")
    assert claims.has_opposite("lit before 1811", "lit after 1811")
    assert not claims.has_opposite("before and after", "after the war and before it")
    assert not claims.has_opposite("lit in 1811", "dark after 1811")
