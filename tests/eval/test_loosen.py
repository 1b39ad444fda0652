"""Other words for a question, by the real starter embedder: what is near must mean something."""

import random

import numpy as np
import pytest

from eval.loosen import Vocabulary, loosened, vocabulary
from rag.known_items import Words

TEXTS = [
    "The corporation hires physicians for every hospital.",
    "A company employs doctors in the clinic.",
    "The corporation and the company hires physicians, doctors, nurses.",
    "The hospital and the clinic employs nurses, who drink coffee.",
    "Companies of the harbour drink coffee.",
]


@pytest.fixture(scope="module")
def collection():
    found = Words()
    for text in TEXTS:
        found.add(text)
    return found


def test_the_nearest_word_means_the_same(lighthouse, collection):
    words = vocabulary(collection, lighthouse.parts.embedder)
    assert words.near("physicians") == "doctors"
    assert words.near("company") == "corporation"
    assert words.near("harbour") is None, "it stands in one document only"
    assert "companies" not in words.at


def test_a_form_of_the_word_is_no_other_word():
    vectors = np.array([[1.0, 0.0], [0.99, 0.141], [0.8, 0.6]], dtype=np.float32)
    names = ["lamp", "lamps", "lantern"]
    words = Vocabulary({name: n for n, name in enumerate(names)}, names, vectors)
    assert words.near("lamp") == "lantern"
    assert words.near("wick") is None


def test_a_share_of_the_words_is_replaced_by_the_seed(lighthouse, collection):
    words = vocabulary(collection, lighthouse.parts.embedder)
    question = "Which company hires physicians?"
    found = {loosened(question, words, collection, random.Random(seed)) for seed in range(20)}
    assert len(found) > 2
    assert "Which corporation employs doctors?" in found
    assert all(one.startswith("Which ") and one.endswith("?") for one in found)
    again = loosened(question, words, collection, random.Random(3))
    assert again == loosened(question, words, collection, random.Random(3))


def test_a_collection_without_such_words_loosens_nothing(lighthouse):
    few = Words()
    few.add("The keepers cleaned the lamp.")
    words = vocabulary(few, lighthouse.parts.embedder)
    assert loosened("keepers lamp", words, few, random.Random(0)) == "keepers lamp"
