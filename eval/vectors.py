"""Embeddings kept on disk by content, so that a sweep over settings costs one pass."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from rag.embed import Embedder


def passage_vectors(
    embedder: Embedder, texts: Sequence[str], cache: Path, *, block: int = 1024
) -> NDArray[np.float32]:
    """Vectors of `texts`, float32 (n, dim); computed once for each (model, text)."""
    cache.mkdir(parents=True, exist_ok=True)
    # Sorted by length so that a block pads little; the cache file names the whole list.
    key = hashlib.sha256("\0".join([str(embedder.fingerprint), *texts]).encode()).hexdigest()[:24]
    path = cache / f"{key}.npy"
    if path.exists():
        return np.load(path)
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    vectors = np.zeros((len(texts), embedder.dim), dtype=np.float32)
    for at in track(range(0, len(order), block), description="embedding"):
        part = order[at : at + block]
        vectors[part] = embedder.embed_passages([texts[i] for i in part])
    np.save(path, vectors)
    return vectors
