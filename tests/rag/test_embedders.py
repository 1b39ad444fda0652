"""Embedders beside the configured one: loaded when they are needed, kept while they are used."""

import gc
from datetime import UTC, datetime

import numpy as np
import pytest

from rag.catalog import Collection
from rag.embed import Embedder
from rag.embedders import REFUSED_SECONDS, OtherEmbedders
from rag.errors import ModelUnavailable, PipelineMismatch
from rag.models.presets import EmbedderPreset
from rag.models.tokens import load_tokenizer
from tests import tiny_models


class Encoder:
    """One that knows whether it was closed."""

    dim = 2

    def __init__(self):
        self.closed = 0

    def encode(self, texts, *, max_tokens):  # noqa: ARG002 - as an Encoder is called
        return np.zeros((len(texts), self.dim), dtype=np.float32)

    def token_vectors(self, texts, *, max_tokens):  # noqa: ARG002
        return []

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(tiny_models.bge(tmp_path_factory.mktemp("tokenizer") / "bge"))


class Shelf:
    """Models by (id, revision): what is to be had."""

    def __init__(self, tokenizer, *there: tuple[str, str]):
        self.there = list(there)
        self.tokenizer = tokenizer
        self.asked: list[tuple[str, str | None]] = []
        self.encoders: list[Encoder] = []

    def __call__(self, model_id, *, revision=None, quantised=None):
        self.asked.append((model_id, revision))
        for name, known in self.there:
            if name == model_id and revision in (None, known):
                self.encoders.append(Encoder())
                return Embedder(
                    name, self.encoders[-1], EmbedderPreset("cls", 64), self.tokenizer,
                    revision=known, quantised="int8" if quantised else "",
                )  # fmt: skip
        raise ModelUnavailable(f"There is no {model_id}.")


def built_with(shelf: Shelf, model_id: str, revision: str, **more) -> Collection:
    made = Embedder(
        model_id, Encoder(), EmbedderPreset("cls", 64), shelf.tokenizer, revision=revision
    )
    pipeline = {"embedder": made.fingerprint | more}
    return Collection(1, "t", "docs", "p", pipeline, {}, "", "", 0, datetime.now(UTC))


def test_a_model_is_loaded_once_and_so_many_are_kept(tokenizer):
    shelf = Shelf(tokenizer, ("a", "1"), ("b", "1"), ("c", "1"))
    others = OtherEmbedders(shelf, most=2, blend=0.5)
    a, b, c = (built_with(shelf, name, "1") for name in "abc")
    assert others.of(a) is others.of(a)
    others.of(b)
    others.of(a)  # used last: b goes when c comes
    others.of(c)
    gc.collect()
    assert [encoder.closed for encoder in shelf.encoders] == [0, 1, 0]
    others.of(a)
    assert [name for name, _ in shelf.asked] == ["a", "b", "c"]
    others.of(b)
    assert [name for name, _ in shelf.asked] == ["a", "b", "c", "b"]
    others.close()
    gc.collect()
    assert [encoder.closed for encoder in shelf.encoders] == [1, 1, 1, 1]


def test_who_uses_a_model_keeps_it(tokenizer):
    shelf = Shelf(tokenizer, ("a", "1"), ("b", "1"))
    others = OtherEmbedders(shelf, most=1, blend=0.5)
    held = others.of(built_with(shelf, "a", "1")).embedder
    others.of(built_with(shelf, "b", "1"))
    gc.collect()
    assert shelf.encoders[0].closed == 0
    assert held.embed_passages(["x"]).shape == (1, 2)
    del held
    gc.collect()
    assert shelf.encoders[0].closed == 1


def test_an_older_revision_is_looked_for_and_another_model_refused(tokenizer):
    shelf = Shelf(tokenizer, ("a", "new"), ("a", "old"))
    others = OtherEmbedders(shelf, most=2, blend=0.5)
    assert others.of(built_with(shelf, "a", "old")).embedder.revision == "old"
    assert shelf.asked == [("a", None), ("a", "old")]
    with pytest.raises(PipelineMismatch, match="revision") as raised:
        others.of(built_with(shelf, "a", "gone"))
    assert "rag migrate docs --to a" in raised.value.hint
    with pytest.raises(PipelineMismatch, match="query_instruction"):
        others.of(built_with(shelf, "a", "new", query_instruction="Find: "))


def test_what_cannot_be_loaded_is_not_tried_for_every_question(tokenizer):
    now = [100.0]
    shelf = Shelf(tokenizer)
    others = OtherEmbedders(shelf, most=2, blend=0.5, clock=lambda: now[0])
    a = built_with(shelf, "a", "1")
    for _ in range(3):
        with pytest.raises(ModelUnavailable):
            others.of(a)
    assert len(shelf.asked) == 1
    shelf.there.append(("a", "1"))
    now[0] += REFUSED_SECONDS
    assert others.of(a).embedder.id == "a"


def test_a_collection_of_int8_vectors_gets_them_again(tokenizer):
    shelf = Shelf(tokenizer, ("a", "1"))
    others = OtherEmbedders(shelf, most=2, blend=0.5)
    assert others.of(built_with(shelf, "a", "1", quantised="int8")).embedder.quantised == "int8"


def test_a_name_that_is_loaded_already_is_one_model(tokenizer):
    shelf = Shelf(tokenizer, ("a", "1"))
    others = OtherEmbedders(shelf, most=2, blend=0.5)
    assert others.named("a") is others.of(built_with(shelf, "a", "1"))
    assert others.named("a") is others.of(built_with(shelf, "a", "1"))
    assert [encoder.closed for encoder in shelf.encoders] == [0, 1]
