"""(question, passages) -> relevance, and hits in the order of it.

Two rerankers stand behind one boundary. The cross-encoder reads question and passage together and
its logit alone decides. Late interaction compares the embedder's own token vectors (MaxSim,
Khattab and Zaharia, "ColBERT", SIGIR 2020), weighted by how rare the question's tokens are in the
collection; it needs no weights of its own and is blended with the score that the hits came with.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.embed import Embedder
from rag.models.tokens import TokenVectors
from rag.settings import LATE_INTERACTION
from rag.types import Hit

Frequencies = Callable[[Sequence[int]], tuple[Mapping[int, int], int]]
"""Token ids -> (in how many chunks of the collection each occurs, number of chunks)."""

EVEN_CHUNKS = 100  # a collection of this size trusts its IDF by half
RECENT_TEXTS = 64  # of 256 tokens of 384 dimensions: 25 MB


class CrossEncoder(Protocol):
    """An engine that runs a cross-encoder."""

    def logits(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """Raw logits, float32 (n,)."""


class Reranker(Protocol):
    """What scores passages. `blend` is the weight of its score against the one before it."""

    id: str
    blend: float

    def relevance(
        self, question: str, passages: Sequence[str], frequencies: Frequencies
    ) -> NDArray[np.float32]:
        """How well each passage answers, float32 (n,); comparable between questions."""


class CrossEncoderReranker:
    """Raw logits: sorting by them needs no sigmoid, and they keep apart what a sigmoid rounds."""

    blend = 1.0

    def __init__(self, id: str, model: CrossEncoder) -> None:
        self.id = id
        self._model = model

    def relevance(
        self,
        question: str,
        passages: Sequence[str],
        frequencies: Frequencies,  # noqa: ARG002 - late interaction's
    ) -> NDArray[np.float32]:
        """Logits, float32 (n,)."""
        return self._model.logits(question, passages)


class LateInteractionReranker:
    """IDF-weighted MaxSim over the embedder's token vectors."""

    id = LATE_INTERACTION

    def __init__(self, embedder: Embedder, *, blend: float = 0.5) -> None:
        self.blend = blend
        self._embedder = embedder
        self._recent: OrderedDict[str, TokenVectors] = OrderedDict()
        self._guard = threading.Lock()

    def relevance(
        self, question: str, passages: Sequence[str], frequencies: Frequencies
    ) -> NDArray[np.float32]:
        """Weighted mean over the question's tokens of the best cosine in the passage, (n,)."""
        asked, weights = self.question_tokens(question, frequencies)
        read = self.token_vectors(passages)
        return np.array([max_similarities(asked, r) @ weights for r in read], dtype=np.float32)

    def question_tokens(
        self, question: str, frequencies: Frequencies
    ) -> tuple[TokenVectors, NDArray[np.float32]]:
        """The question's token vectors and their weights, float32 (t,), which sum to 1."""
        (asked,) = self.token_vectors([question])
        return asked, token_weights([int(token) for token in asked.ids], frequencies)

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """The token vectors of texts. The latest are kept: support and quotes read them again."""
        with self._guard:
            known = {text: self._recent[text] for text in texts if text in self._recent}
        missing = [text for text in dict.fromkeys(texts) if text not in known]
        if missing:
            known |= zip(missing, self._embedder.token_vectors(missing), strict=True)
        with self._guard:
            self._recent.update(known)
            while len(self._recent) > RECENT_TEXTS:
                self._recent.popitem(last=False)
        return [known[text] for text in texts]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the embedder's tokenizer."""
        return self._embedder.count_tokens([text])[0]


def max_similarities(asked: TokenVectors, read: TokenVectors) -> NDArray[np.float32]:
    """For each question token its best cosine with any token read, float32 (t,); 0 for no text."""
    if len(read.ids) == 0:
        return np.zeros(len(asked.ids), dtype=np.float32)
    best: NDArray[np.float32] = (asked.vectors @ read.vectors.T).max(axis=1)
    return best


def token_weights(tokens: Sequence[int], frequencies: Frequencies) -> NDArray[np.float32]:
    """How much each token counts, float32 (t,), summing to 1: its IDF in the collection.

    A handful of chunks says little about how rare a token is, and a token that they do not hold
    would outweigh all others; so the weights of a small collection are drawn towards equal ones.
    """
    counts, total = frequencies(sorted(set(tokens)))
    rare = idf([counts.get(token, 0) for token in tokens], total)
    trust = total / (total + EVEN_CHUNKS)
    weights = trust * rare / max(rare.mean(), 1e-9) + (1 - trust) if tokens else rare
    return np.asarray(weights / max(weights.sum(), 1e-9), dtype=np.float32)


def idf(counts: Sequence[int], total: int) -> NDArray[np.float32]:
    """log(1 + (N - df + 0.5) / (df + 0.5)) for tokens that `counts` of `total` chunks hold, (t,).

    BM25's form (Robertson and Zaragoza 2009, with Lucene's 1 +, so that it stays positive).
    """
    return np.array(
        [math.log1p((total - df + 0.5) / (df + 0.5)) for df in counts], dtype=np.float32
    )


def rerank(
    question: str, hits: Sequence[Hit], reranker: Reranker, depth: int, frequencies: Frequencies
) -> list[Hit]:
    """The first `depth` hits in the order of their new scores; the rest is left out.

    The new score is `blend * z(relevance) + (1 - blend) * z(score before)`, z-scores within the
    candidates; with a blend of 1 it is the relevance itself. Ties are broken by point id.
    """
    candidates = list(hits[:depth])
    if not candidates:
        return []
    passages = [hit.chunk.embedded_text for hit in candidates]
    relevance = reranker.relevance(question, passages, frequencies)
    before = np.array([hit.score for hit in candidates], dtype=np.float32)
    scores = blended(relevance, before, reranker.blend)
    scored = [
        replace(hit, score=float(score), scores=replace(hit.scores, rerank=float(raw)))
        for hit, score, raw in zip(candidates, scores, relevance, strict=True)
    ]
    return sorted(scored, key=lambda hit: (-hit.score, hit.point_id))


def blended(
    new: NDArray[np.float32], before: NDArray[np.float32], weight: float
) -> NDArray[np.float32]:
    """`weight * z(new) + (1 - weight) * z(before)`; `new` itself when the weight is 1."""
    if weight == 1.0:
        return new
    return weight * _z(new) + (1 - weight) * _z(before)


def _z(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    spread = scores.std()
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
