"""Precisions are kept apart: else a comparison of two would compare one with itself."""

from eval.collection import CHUNK_TOKENS, _key
from eval.vectors import VectorCache, computed_in
from rag.embed import load_embedder
from rag.models.engine import Engines
from tests.small_experiment import small_dataset
from tests.tiny_models import bge


def test_vectors_and_indexes_of_another_precision_are_others(tmp_path):
    dataset = small_dataset(tmp_path / "small")
    embedder = load_embedder(str(bge(tmp_path / "bge")), engines=TORCH)
    assert computed_in(embedder) == "float32"
    kept = VectorCache(embedder, tmp_path / "cache")._path
    index = _key(dataset, embedder, CHUNK_TOKENS)
    assert VectorCache(embedder, tmp_path / "cache")._path == kept
    embedder.encoder.engine.precision = "bf16"
    assert VectorCache(embedder, tmp_path / "cache")._path != kept
    assert _key(dataset, embedder, CHUNK_TOKENS) != index
    embedder.close()


TORCH = Engines(name="torch", device="cpu")


def test_no_texts_have_no_vectors(lighthouse, tmp_path):
    embedder = lighthouse.parts.embedder
    assert VectorCache(embedder, tmp_path).embed([]).shape == (0, embedder.dim)
