"""Questions in other words: some of theirs replaced by what the collection's embedder finds near.

A question made of a passage has the passage's words, which BM25 finds whatever they mean; people
ask in their own. The words come from the collection itself, so that no word list and no language
model is needed.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.embed import Embedder
from rag.known_items import Words

MOST_WORDS = 4000  # that can stand for others: the most frequent
LEAST_DOCUMENTS = 2  # a word of one document only is a name, or misspelt
NEAR = 0.5  # cosine
LOOKED_AT = 12  # nearest words
STEM = 4  # letters that are no other word's at either end

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of a collection and their vectors, float32 (words, dim), of unit length."""

    at: dict[str, int]
    words: Sequence[str]
    vectors: NDArray[np.float32]

    def near(self, word: str) -> str | None:
        """The nearest word that is not a form of this one; None when no word is near enough."""
        if word not in self.at:
            return None
        cosines = self.vectors @ self.vectors[self.at[word]]
        for row in map(int, np.argsort(-cosines, kind="stable")[:LOOKED_AT]):
            if cosines[row] < NEAR:
                return None
            if not _is_a_form(word, self.words[row]):
                return self.words[row]
        return None


def vocabulary(collection: Words, embedder: Embedder) -> Vocabulary:
    """The words that can stand for others."""
    counted = sorted(collection.counts.items(), key=lambda pair: (-pair[1], pair[0]))
    known = [
        word
        for word, documents in counted
        if documents >= LEAST_DOCUMENTS and word.isalpha() and collection.is_rare(word)
    ][:MOST_WORDS]
    vectors = embedder.embed_queries(known) if known else np.zeros((0, embedder.dim), np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Vocabulary(
        {w: n for n, w in enumerate(known)}, known, vectors / np.maximum(lengths, 1e-9)
    )


def loosened(text: str, words: Vocabulary, collection: Words, rng: random.Random) -> str:
    """The text with a share of its rare words replaced, a share that differs between questions."""
    rare = collection.rare(text)
    if not rare:
        return text
    picked = set(rng.sample(rare, rng.randint(1, len(rare))))

    def other(match: re.Match[str]) -> str:
        word = match[0].casefold()
        return (words.near(word) or match[0]) if word in picked else match[0]

    return _WORD.sub(other, text)


def _is_a_form(word: str, other: str) -> bool:
    same_end = other[:STEM] == word[:STEM] or other[-STEM:] == word[-STEM:]
    return same_end or other in word or word in other
