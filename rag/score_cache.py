"""Scores that a reranker gave before: the same model, question and passage give the same logit.

A search and the question asked right after it, a second page, a regenerated answer: each reads
the same pairs again, and reading a pair is the dearest step of a search.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence


class ScoreCache:
    """(model, question, passage) -> logit; the least recently used goes first. Thread-safe.

    Holds `entries` logits at most, none for 0. Texts are kept as digests, so an entry takes about
    150 bytes however long its passage is, and a copy of the cache gives no text away.
    """

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._guard = threading.Lock()
        self.hits = self.misses = 0  # of `get`

    def __len__(self) -> int:
        with self._guard:
            return len(self._scores)

    def get(self, model: str, question: str, passages: Sequence[str]) -> list[float | None]:
        """The logit of each passage, None where it is not known."""
        keys = _keys(model, question, passages)
        with self._guard:
            for key in keys:
                if key in self._scores:
                    self._scores.move_to_end(key)
            found = [self._scores.get(key) for key in keys]
            known = sum(score is not None for score in found)
            self.hits, self.misses = self.hits + known, self.misses + len(found) - known
            return found

    def knows(self, model: str, question: str, passage: str) -> bool:
        """Whether the logit of a passage is kept."""
        (key,) = _keys(model, question, [passage])
        with self._guard:
            return key in self._scores

    def put(
        self, model: str, question: str, passages: Sequence[str], scores: Sequence[float]
    ) -> None:
        """Keep the logit of each passage."""
        keys = _keys(model, question, passages)
        with self._guard:
            for key, score in zip(keys, scores, strict=True):
                self._scores[key] = score
                self._scores.move_to_end(key)
            while len(self._scores) > self.entries:
                self._scores.popitem(last=False)

    def clear(self) -> None:
        """Forget all of them: by their digests nobody can tell whose passages they are of."""
        with self._guard:
            self._scores.clear()


def _keys(model: str, question: str, passages: Sequence[str]) -> list[bytes]:
    """A digest of model, question and passage, each with its length: no two run together."""
    pair = hashlib.blake2b(digest_size=16)
    for part in (model, question):
        pair.update(_with_length(part))
    keys = []
    for passage in passages:
        key = pair.copy()
        key.update(_with_length(passage))
        keys.append(key.digest())
    return keys


def _with_length(text: str) -> bytes:
    encoded = text.encode("utf8", "surrogatepass")
    return len(encoded).to_bytes(8, "big") + encoded
