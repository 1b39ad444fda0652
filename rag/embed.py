"""Texts to vectors, with the instruction that each side of a search needs."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rag.models.engine import Engines, open_encoder
from rag.models.load import resolve
from rag.models.presets import EmbedderPreset, embedder_preset
from rag.models.tokens import TokenVectors, load_tokenizer


class Encoder(Protocol):
    """What runs an embedding model: in this process, or on a server."""

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

    def close(self) -> None:
        """Let the model go."""
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
        quantised: str = "",
    ) -> None:
        self.id = id
        self.encoder = encoder
        self.preset = preset
        self.tokenizer = tokenizer
        self.revision = revision
        self.quantised = quantised

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
            # bf16 and f32 vectors are the same to a search; those of int8 are not quite.
            **({"quantised": self.quantised} if self.quantised else {}),
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

    def close(self) -> None:
        """Let the model go."""
        self.encoder.close()

    def _embed(self, instruction: str, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encoder.encode(
            [instruction + text for text in texts], max_tokens=self.max_tokens
        )


def load_embedder(
    model_id: str,
    *,
    revision: str | None = None,
    engines: Engines = Engines(),  # noqa: B008 - frozen
) -> Embedder:
    """Find an embedding model and load it. Raises `ModelUnavailable`."""
    files = resolve(model_id, revision=revision)
    preset = embedder_preset(model_id, files.path)
    tokenizer = load_tokenizer(files.path, lower_case=preset.lower_case)
    encoder = open_encoder(files, preset, tokenizer, engines)
    return Embedder(
        model_id,
        encoder,
        preset,
        tokenizer,
        revision=files.revision,
        quantised="int8" if encoder.engine.precision == "int8" else "",
    )
