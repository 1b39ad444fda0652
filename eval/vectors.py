"""Embeddings kept by content, so that a sweep over settings costs one pass."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from rag.embed import Embedder, load_embedder
from rag.models.encoders import LocalEncoder
from rag.models.tokens import TokenVectors
from rag.parts import engines_of
from rag.settings import load_settings

BLOCK = 1024  # texts embedded at once, sorted by length so that little is padded


class VectorCache:
    """Passage vectors on disk, one file per model and precision, keyed by the text's SHA-256.

    The file is records of key and vector, appended as they are computed: what a kill left of the
    last one is cut off. Memory holds the keys alone.
    """

    def __init__(self, embedder: Embedder, folder: Path) -> None:
        self._embedder = embedder
        folder.mkdir(parents=True, exist_ok=True)
        of = f"{embedder.fingerprint}{computed_in(embedder)}"
        name = hashlib.sha256(of.encode()).hexdigest()[:16]
        self._path = folder / f"vectors-{name}.bin"
        self._record = np.dtype([("key", "S32"), ("vector", "<f4", embedder.dim)])
        self._path.touch()
        whole = self._path.stat().st_size // self._record.itemsize
        os.truncate(self._path, whole * self._record.itemsize)
        # S32 drops zero bytes at the end, of both sides alike.
        keys = self._records()["key"].tolist() if whole else []
        self._rows = {key: row for row, key in enumerate(keys)}

    def embed(self, texts: Sequence[str], *, show: bool = True) -> NDArray[np.float32]:
        """Vectors of `texts`, float32 (n, dim); what is not known yet is computed and kept."""
        if not texts:
            return np.zeros((0, self._embedder.dim), np.float32)
        keys = [hashlib.sha256(text.encode()).digest().rstrip(b"\0") for text in texts]
        missing = {
            key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows
        }
        order = sorted(missing, key=lambda key: len(missing[key]))
        starts = range(0, len(order), BLOCK)
        for at in track(starts, "embedding", disable=not (show and order)):
            part = order[at : at + BLOCK]
            self._append(part, self._embedder.embed_passages([missing[key] for key in part]))
        records = self._records()
        found: NDArray[np.float32] = records["vector"][[self._rows[key] for key in keys]]
        return found

    def _append(self, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        rows = np.zeros(len(keys), dtype=self._record)
        rows["key"], rows["vector"] = keys, vectors
        with self._path.open("ab") as file:
            file.write(rows.tobytes())
        self._rows |= {key: len(self._rows) + n for n, key in enumerate(keys)}

    def _records(self) -> NDArray[np.void]:
        return np.memmap(self._path, dtype=self._record, mode="r")


def open_embedder(model_id: str) -> Embedder:
    """A model on the engine and in the precision that the settings of this process ask for."""
    settings = load_settings()
    engines = engines_of(settings, settings.embedder_precision)
    return load_embedder(model_id, engines=engines)


def computed_in(embedder: Embedder) -> str:
    """The precision that its vectors are computed in; "remote" where another machine decides.

    An index may hold vectors of f32 and of bf16. A measurement of what that changes may not: its
    vectors and its experiments would be those of whichever came first.
    """
    encoder = embedder.encoder
    return encoder.engine.precision if isinstance(encoder, LocalEncoder) else "remote"


class RememberingEmbedder(Embedder):
    """The same embedder, which computes the token vectors of each text once, and keeps them all:
    some 100 kB a passage, for sweeps over what is done with them.
    """

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(
            embedder.id,
            embedder.encoder,
            embedder.preset,
            embedder.tokenizer,
            revision=embedder.revision,
            quantised=embedder.quantised,
        )
        self._known: dict[str, TokenVectors] = {}

    def token_vectors(self, texts: Sequence[str]) -> list[TokenVectors]:
        """As the embedder's; half precision in memory, which moves no score above 1e-3."""
        missing = sorted({text for text in texts if text not in self._known}, key=len)
        for text, read in zip(missing, super().token_vectors(missing), strict=True):
            self._known[text] = TokenVectors(
                read.ids, read.vectors.astype(np.float16), read.offsets
            )
        return [
            TokenVectors(k.ids, k.vectors.astype(np.float32), k.offsets)
            for k in (self._known[text] for text in texts)
        ]
