import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.known_items import (
    FEW,
    KINDS,
    LEAST_RARE,
    Words,
    definitions,
    made_of,
    some_sentence,
    spans,
    words,
)
from rag.types import Document, Heading

TEXT = (
    "Lamps and lenses\nA weir is a low dam built across a river. "
    "The lamp of Longstone was lit in 1826 by keepers from Trinity House. "
    "It needed 12 mirrors of polished copper behind the burning wick."
)


HEADINGS = (Heading(0, 1, "Lamps and lenses"),)


def document(text=TEXT, headings=HEADINGS):
    return Document(text, "T", "text/plain", headings=headings)


def counted(*texts):
    collection = Words()
    for text in texts:
        collection.add(text)
    return collection


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        (
            "A weir is a low dam built across a river.",
            ["What is a weir?", "What is a low dam built across a river?"],
        ),
        (
            "Sea otters (Enhydra) are the heaviest weasels.",
            ["What are Sea otters?", "What are the heaviest weasels?"],
        ),
        ("The term drift refers to a change of course.", ["What is the term drift?"]),
        ("It is a low dam.", []),  # nobody knows what
        ("However, weirs are a kind of dam.", []),  # "However, weirs" is no subject
        ("The dam was built by a miller.", []),  # said of it, not what it is
    ],
)
def test_defining_sentences(sentence, asked):
    assert list(definitions(sentence))[: max(1, len(asked))] == asked


@pytest.mark.parametrize(
    ("sentence", "asked"),
    [
        (
            "The lamp was lit in 1826 by keepers from Trinity House.",
            {
                "the lamp was lit in which year by keepers from Trinity House?",
                "the lamp was lit in 1826 by keepers from who or what?",
            },
        ),
        ("It needed 12 mirrors behind the wick.", {"It needed how many mirrors behind the wick?"}),
        ("Nothing is known of the keepers.", set()),
    ],
)
def test_a_question_word_stands_where_the_span_stood(sentence, asked):
    assert set(spans(sentence)) == asked


def test_every_kind_is_made_and_has_its_evidence():
    made = made_of(document(), counted(TEXT), "seed")
    assert {one.kind for one in made} == set(KINDS)
    evidence = {one.kind: TEXT[one.start : one.end] for one in made}
    assert evidence["heading"] == "Lamps and lenses"
    assert evidence["definition"] == "A weir is a low dam built across a river."


def test_the_seed_decides():
    collection = counted(TEXT)
    assert made_of(document(), collection, "a") == made_of(document(), collection, "a")
    orders = {tuple(made_of(document(), collection, str(n))) for n in range(9)}
    assert len(orders) > 1


def test_common_words_are_those_of_many_documents():
    collection = counted(*["the harbour office"] * 19, "the harbour lamp")
    assert collection.documents == FEW
    assert collection.rare("The harbour lamp of 1826") == ["lamp", "1826"]  # "of" is short
    few = counted("the harbour office", "the harbour lamp")
    assert few.rare("the harbour lamp which") == ["harbour", "lamp"]  # shares of two say nothing


def test_where_no_rule_fits_there_is_a_sentence():
    assert some_sentence(Document("Fog.", "T", "text/plain"), 3) == "Fog."
    long = " ".join(f"The lamp of tower {n} was lit for the first time." for n in range(9))
    assert some_sentence(Document(long, "T", "text/plain"), 0) != some_sentence(
        Document(long, "T", "text/plain"), 3
    )


texts = st.text(st.sampled_from("Aabc XYZ.,;()1826\n is a the in"), max_size=400)


@given(texts, st.integers(0, 9))
def test_any_text_gives_questions_with_evidence_in_it(text, seed):
    collection = counted(text)
    for one in made_of(document(text, ()), collection, str(seed)):
        assert one.text.strip()
        assert "\n" not in one.text
        assert text[one.start : one.end].strip()
        if one.kind == "keywords":  # its words are the evidence's
            assert set(one.text.split()) <= set(words(text[one.start : one.end]))
            assert len(one.text.split()) >= LEAST_RARE
