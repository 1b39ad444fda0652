"""(question, passages) -> relevance, and hits in the order of it.

Two rerankers stand behind one boundary. The cross-encoder reads question and passage together and
its logit alone decides. Late interaction compares the embedder's own token vectors (MaxSim,
Khattab and Zaharia, "ColBERT", SIGIR 2020), weighted by how rare the question's tokens are in the
collection; it needs no weights of its own and is blended with the score that the hits came with.
"""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.embed import Embedder
from rag.models.tokens import TokenVectors
from rag.pace import Pace, text_bytes
from rag.score_cache import ScoreCache
from rag.settings import LATE_INTERACTION
from rag.types import Cut, Hit

Frequencies = Callable[[Sequence[int]], tuple[Mapping[int, int], int]]
"""Token ids -> (in how many chunks of the collection each occurs, number of chunks)."""

EVEN_CHUNKS = 100  # a collection of this size trusts its IDF by half
RECENT_BYTES = 128 * 2**20  # 340 texts of 256 tokens of 384 dimensions: 16 questions at once
FIRST_BLOCK = 4  # candidates that are scored whatever the latency budget says


class CrossEncoder(Protocol):
    """An engine that runs a cross-encoder."""

    def logits(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """Raw logits, float32 (n,)."""


class Reranker(Protocol):
    """What scores passages. `blend` is the weight of its score against the one before it.

    `revision` is that of its weights, empty where a server does not say; `pace` is the speed that
    its passes were measured at.
    """

    id: str
    revision: str
    blend: float
    pace: Pace

    def relevance(
        self, question: str, passages: Sequence[str], frequencies: Frequencies
    ) -> NDArray[np.float32]:
        """How well each passage answers, float32 (n,); comparable between questions."""
        ...

    def bytes_read(self, question: str, passage: str) -> int:
        """How much text the model would read to score a passage: 0 when that is known already."""
        ...

    def kept(self) -> int:
        """How many results are kept in memory, of all documents."""
        ...

    def lookups(self) -> tuple[int, int]:
        """(how many results were kept when they were asked for, how many were not)."""
        ...

    def forget(self) -> None:
        """Keep none of them any longer."""


class CrossEncoderReranker:
    """Raw logits: sorting by them needs no sigmoid, and they keep apart what a sigmoid rounds.

    What `cache` knows is not computed again; `revision` tells it models of one id apart.
    """

    blend = 1.0

    def __init__(
        self,
        id: str,
        model: CrossEncoder,
        *,
        revision: str = "",
        cache: ScoreCache | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.id = id
        self.revision = revision
        self.pace = pace or Pace()
        self.model = model
        self._key = f"{id}@{revision}"
        self._cache = ScoreCache(0) if cache is None else cache  # an empty one is falsy

    def relevance(
        self,
        question: str,
        passages: Sequence[str],
        frequencies: Frequencies,  # noqa: ARG002 - late interaction's
    ) -> NDArray[np.float32]:
        """Logits, float32 (n,)."""
        known = dict(zip(passages, self._cache.get(self._key, question, passages), strict=True))
        missing = [passage for passage, score in known.items() if score is None]
        if missing:
            with self.pace.measure(sum(_pair_bytes(question, text) for text in missing)):
                logits = self.model.logits(question, missing).tolist()
            self._cache.put(self._key, question, missing, logits)
            known |= zip(missing, logits, strict=True)
        return np.array([known[passage] for passage in passages], dtype=np.float32)

    def bytes_read(self, question: str, passage: str) -> int:
        """Question and passage: the question is read with each passage anew."""
        known = self._cache.knows(self._key, question, passage)
        return 0 if known else _pair_bytes(question, passage)

    def kept(self) -> int:
        """How many scores are kept."""
        return len(self._cache)

    def lookups(self) -> tuple[int, int]:
        """(scores that were kept, scores that were not)."""
        return self._cache.hits, self._cache.misses

    def forget(self) -> None:
        """Keep none of them any longer."""
        self._cache.clear()


class LateInteractionReranker:
    """IDF-weighted MaxSim over the embedder's token vectors."""

    id = LATE_INTERACTION

    def __init__(self, embedder: Embedder, *, blend: float = 0.5, pace: Pace | None = None) -> None:
        self.revision = embedder.revision
        self.blend = blend
        self.pace = pace or Pace()
        self._embedder = embedder
        self._recent: OrderedDict[str, TokenVectors] = OrderedDict()
        self._recent_bytes = 0
        self._hits = self._misses = 0
        self._guard = threading.Lock()

    def relevance(
        self, question: str, passages: Sequence[str], frequencies: Frequencies
    ) -> NDArray[np.float32]:
        """Weighted mean over the question's tokens of the best cosine in the passage, (n,)."""
        asked, weights = self.question_tokens(question, frequencies)
        read = self.token_vectors(passages)
        return np.array([max_similarities(asked, r) @ weights for r in read], dtype=np.float32)

    def bytes_read(self, question: str, passage: str) -> int:  # noqa: ARG002 - read once for all
        """The passage alone."""
        with self._guard:
            return 0 if passage in self._recent else text_bytes(passage)

    def kept(self) -> int:
        """Of how many texts the token vectors are kept."""
        with self._guard:
            return len(self._recent)

    def lookups(self) -> tuple[int, int]:
        """(texts whose token vectors were kept, texts that had to be read)."""
        with self._guard:
            return self._hits, self._misses

    def forget(self) -> None:
        """Keep none of them any longer."""
        with self._guard:
            self._recent.clear()
            self._recent_bytes = 0

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
            self._hits, self._misses = self._hits + len(known), self._misses + len(missing)
        if missing:
            with self.pace.measure(sum(map(text_bytes, missing))):
                read = self._embedder.token_vectors(missing)
            known |= zip(missing, read, strict=True)
        self._remember(known)
        return [known[text] for text in texts]

    def _remember(self, vectors: Mapping[str, TokenVectors]) -> None:
        with self._guard:
            for text, read in vectors.items():
                if text not in self._recent:
                    self._recent_bytes += read.vectors.nbytes
                    self._recent[text] = read
                self._recent.move_to_end(text)
            while self._recent_bytes > RECENT_BYTES:
                _, oldest = self._recent.popitem(last=False)
                self._recent_bytes -= oldest.vectors.nbytes

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the embedder's tokenizer."""
        return self._embedder.count_tokens([text])[0]


def _pair_bytes(question: str, passage: str) -> int:
    return text_bytes(question) + text_bytes(passage)


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
    question: str,
    hits: Sequence[Hit],
    reranker: Reranker,
    depth: int,
    frequencies: Frequencies,
    *,
    budget_ms: int = 0,
    blend: float | None = None,
) -> tuple[list[Hit], list[Cut]]:
    """The first `depth` hits in the order of their new scores, and what the budget cut.

    The new score is `blend * z(relevance) + (1 - blend) * z(score before)`, z-scores within the
    candidates that were scored; with a blend of 1 it is the relevance itself. Ties are broken by
    point id. Hits beyond `depth` are left out. `blend` None is the reranker's own.

    With a `budget_ms` above 0 only as many candidates are scored as the reranker's measured speed
    fits into that many milliseconds, but FIRST_BLOCK in any case. The others follow in the order
    they came in, with the score they came with and `scores.rerank` None: whoever asked for ten hits
    gets ten. A cut says how many.
    """
    candidates = list(hits[:depth])
    if not candidates:
        return [], []
    passages = [hit.chunk.embedded_text for hit in candidates]
    if budget_ms:
        blocks = list(within_budget(question, passages, reranker, frequencies, budget_ms / 1000))
        relevance = np.concatenate(blocks)
    else:
        relevance = reranker.relevance(question, passages, frequencies)
    read, unread = candidates[: len(relevance)], candidates[len(relevance) :]
    before = np.array([hit.score for hit in read], dtype=np.float32)
    scores = blended(relevance, before, reranker.blend if blend is None else blend)
    scored = [
        replace(hit, score=float(score), scores=replace(hit.scores, rerank=float(raw)))
        for hit, score, raw in zip(read, scores, relevance, strict=True)
    ]
    scored.sort(key=lambda hit: (-hit.score, hit.point_id))
    return scored + unread, _cuts(len(unread), len(candidates), reranker.pace, budget_ms)


def within_budget(
    question: str,
    passages: Sequence[str],
    reranker: Reranker,
    frequencies: Frequencies,
    seconds: float,
) -> Iterator[NDArray[np.float32]]:
    """The relevance of one block of passages after the other, while there is time for another.

    A block is as much as fits into the time that is left: mostly all in one, so that batches stay
    large. Scores that are known cost nothing, so a repeated question is scored whole.
    """
    clock, done = reranker.pace.clock, 0
    sizes = [reranker.bytes_read(question, passage) for passage in passages]
    end = clock() + seconds
    while done < len(passages):
        fits = reranker.pace.affordable(sizes[done:], end - clock())
        if done == 0:
            fits = max(fits or 0, FIRST_BLOCK)
        elif fits is None:  # nothing was computed yet, so nothing was measured
            fits = FIRST_BLOCK if clock() < end else 0
        if fits == 0:
            return
        yield reranker.relevance(question, passages[done : done + fits], frequencies)
        done += fits


def _cuts(unread: int, candidates: int, pace: Pace, budget_ms: int) -> list[Cut]:
    if not unread:
        return []
    speed = f"{(pace.per_second or 0) / 1000:.1f} kB of text per second"
    why = f"reranking has a budget of {budget_ms} ms, and this machine reads {speed}"
    return [Cut(f"the reranking of {unread} of {candidates} candidates", why)]


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
