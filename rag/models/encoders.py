"""Texts to tokens to batches, in front of whichever engine runs the model.

What torch and OpenVINO share: tokenising happens in the caller's thread, then every caller's rows
meet in one queue per model, where rows of similar length fill a batch together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from rag.models.batching import Batcher
from rag.models.crowd import Crowd
from rag.models.tokens import TokenVectors, tokenize, tokenize_pairs

Output = Literal["pooled", "states"]


class EncoderEngine(Protocol):
    """What runs an embedding model on one batch. Called from `workers` threads at once.

    `batch_tokens` and `pass_tokens`: see `Batcher`.
    """

    dim: int
    workers: int
    batch_tokens: int
    pass_tokens: int
    precision: str

    def pooled(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """One vector per text, float32 (n, dim)."""

    def states(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Token vectors of unit length, float32 (n, longest, dim), rubbish where padded."""

    def close(self) -> None:
        """Let the memory go."""


class CrossEncoderEngine(Protocol):
    """What runs a cross-encoder on one batch. Called from `workers` threads at once."""

    workers: int
    batch_tokens: int
    pass_tokens: int
    max_tokens: int

    def scores(self, pairs: Sequence[Encoding]) -> NDArray[np.float32]:
        """Raw logits, float32 (n,)."""

    def close(self) -> None:
        """Let the memory go."""


@dataclass(frozen=True, slots=True)
class Queueing:
    """How callers wait for a model: see `Batcher`."""

    waiting: int = 256
    bulk_seconds: float = 0.05
    crowd: Crowd = field(default_factory=Crowd)


class _Row(NamedTuple):
    output: Output
    encoding: Encoding


class LocalEncoder:
    """An embedding model in this process. Safe to use from several threads."""

    def __init__(
        self, name: str, engine: EncoderEngine, tokenizer: Tokenizer, queueing: Queueing
    ) -> None:
        self.engine = engine
        self._tokenizer = tokenizer
        self.batcher = Batcher(
            name,
            self._run,
            length=lambda row: len(row.encoding),
            group=lambda row: row.output,
            batch_tokens=engine.batch_tokens,
            pass_tokens=engine.pass_tokens,
            workers=engine.workers,
            waiting=queueing.waiting,
            bulk_seconds=queueing.bulk_seconds,
            crowd=queueing.crowd,
        )

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.engine.dim

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float32]:
        """Pooled vectors, float32 (n, dim), of unit length where the preset normalises.

        In the order of `texts`. No instruction is added; what exceeds `max_tokens` is cut. Raises
        `Overloaded`.
        """
        rows = self._rows("pooled", texts, max_tokens)
        vectors = np.empty((len(rows), self.dim), dtype=np.float32)
        for i, vector in enumerate(self.batcher.map(rows)):
            vectors[i] = vector
        return vectors

    def token_vectors(self, texts: Sequence[str], *, max_tokens: int) -> list[TokenVectors]:
        """Each text's last hidden states of unit length, special tokens left out."""
        rows = self._rows("states", texts, max_tokens)
        return [
            _token_vectors(row.encoding, states)
            for row, states in zip(rows, self.batcher.map(rows), strict=True)
        ]

    def close(self) -> None:
        """Finish what was accepted, then let the model go."""
        self.batcher.close()
        self.engine.close()

    def _rows(self, output: Output, texts: Sequence[str], max_tokens: int) -> list[_Row]:
        return [_Row(output, e) for e in tokenize(self._tokenizer, texts, max_tokens)]

    def _run(self, rows: Sequence[_Row]) -> Sequence[NDArray[np.float32]]:
        encodings = [row.encoding for row in rows]
        run = self.engine.pooled if rows[0].output == "pooled" else self.engine.states
        return list(run(encodings))


class LocalCrossEncoder:
    """A reranker in this process. Safe to use from several threads."""

    def __init__(
        self, name: str, engine: CrossEncoderEngine, tokenizer: Tokenizer, queueing: Queueing
    ) -> None:
        self.engine = engine
        self._tokenizer = tokenizer
        self.batcher = Batcher(
            name,
            self._run,
            length=len,
            batch_tokens=engine.batch_tokens,
            pass_tokens=engine.pass_tokens,
            workers=engine.workers,
            waiting=queueing.waiting,
            bulk_seconds=queueing.bulk_seconds,
            crowd=queueing.crowd,
        )

    @property
    def max_tokens(self) -> int:
        """The most tokens of question and passage together."""
        return self.engine.max_tokens

    def logits(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """The raw score of each passage, float32 (n,), in the order of `passages`.

        Passages are cut to what `max_tokens` leaves; a question of over three quarters of it, too.
        Raises `Overloaded`.
        """
        pairs = tokenize_pairs(self._tokenizer, question, passages, self.max_tokens)
        return np.array(self.batcher.map(pairs), dtype=np.float32)

    def close(self) -> None:
        """Finish what was accepted, then let the model go."""
        self.batcher.close()
        self.engine.close()

    def _run(self, pairs: Sequence[Encoding]) -> Sequence[np.float32]:
        return list(self.engine.scores(pairs))


def _token_vectors(encoding: Encoding, states: NDArray[np.float32]) -> TokenVectors:
    own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    return TokenVectors(
        ids=np.array(encoding.ids, dtype=np.int32)[own],
        vectors=states[own],
        offsets=np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)[own],
    )
