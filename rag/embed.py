"""Texts to vectors, with the instruction that each side of a search needs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rag.models.load import resolve
from rag.models.presets import EmbedderPreset, embedder_preset
from rag.models.tokens import TokenVectors, load_tokenizer

BATCH_TOKENS = 8192


class Encoder(Protocol):
    """An engine that runs an embedding model: torch now, OpenVINO beside it."""

    @property
    def dim(self) -> int:
        """The length of a vector."""
        ...

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float32]:
        """Pooled vectors, float32 (n, dim), in the order of `texts`."""
        ...

    def token_vectors(self, texts: Sequence[str], *, max_tokens: int) -> list[TokenVectors]:
        """The tokens' own vectors of each text."""
        ...


class Embedder:
    """An embedding model as the rest of Ragstone sees it. Safe to use from several threads.

    Queries and passages go in as they are. The instruction is put before them here and nowhere
    else, so it is neither forgotten nor put twice; a text that happens to begin with the
    instruction's words is still only a text, and gets it like any other.

    What is longer than `max_tokens` is cut by the model: callers that may not lose text ask
    `count_tokens` first.
    """

    def __init__(
        self,
        id: str,
        encoder: Encoder,
        preset: EmbedderPreset,
        tokenizer: Tokenizer,
        *,
        revision: str = "",
    ) -> None:
        self.id = id
        self.encoder = encoder
        self.preset = preset
        self.tokenizer = tokenizer
        self.revision = revision

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self.encoder.dim

    @property
    def max_tokens(self) -> int:
        """The most tokens of a text that are read, special tokens and instruction included."""
        return self.preset.max_tokens

    @property
    def fingerprint(self) -> dict[str, str | int | bool]:
        """Everything that changes the vectors. Two embedders with equal ones can share an index."""
        return {
            "id": self.id,
            "revision": self.revision,
            "pooling": self.preset.pooling,
            "normalize": self.preset.normalize,
            "query_instruction": self.preset.query_instruction,
            "passage_instruction": self.preset.passage_instruction,
            "max_tokens": self.preset.max_tokens,
        }

    def embed_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of questions, float32 (n, dim), of unit length where the model normalises."""
        return self._embed(self.preset.query_instruction, texts)

    def embed_passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of what is searched, float32 (n, dim). Never raises for a long text."""
        return self._embed(self.preset.passage_instruction, texts)

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """The tokens' own vectors of each text, up to `max_tokens`, without any instruction."""
        return self.encoder.token_vectors(texts, max_tokens=self.max_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """What `embed_passages` would read of each text if it had no limit.

        Special tokens and the passage instruction count. More than `max_tokens`: some is lost.
        """
        instruction = self.preset.passage_instruction
        encodings = self.tokenizer.encode_batch([instruction + text for text in texts])
        return [len(encoding) for encoding in encodings]

    def _embed(self, instruction: str, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encoder.encode(
            [instruction + text for text in texts], max_tokens=self.max_tokens
        )


def load_embedder(
    model_id: str,
    *,
    revision: str | None = None,
    device: str | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Embedder:
    """Find an embedding model and load it on `device` (None: a GPU when there is one).

    `batch_tokens` bounds the padded tokens of one forward pass. Raises `ModelUnavailable`.
    """
    from rag.models.torch import TorchEncoder

    files = resolve(model_id, revision=revision)
    preset = embedder_preset(model_id, files.path)
    tokenizer = load_tokenizer(files.path, lower_case=preset.lower_case)
    encoder = TorchEncoder(files, preset, tokenizer, device=device, batch_tokens=batch_tokens)
    return Embedder(model_id, encoder, preset, tokenizer, revision=files.revision)
