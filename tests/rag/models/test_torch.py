import shutil

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rag.errors import ModelUnavailable
from rag.models.batching import PASS_TOKENS
from rag.models.encoders import LocalCrossEncoder, LocalEncoder, Queueing
from rag.models.load import ModelFiles
from rag.models.presets import embedder_preset
from rag.models.tokens import load_tokenizer
from rag.models.torch import (
    TorchCrossEncoder,
    TorchEncoder,
    launch_tokens,
    measured_pass_tokens,
)
from tests import tiny_models

TEXTS = [*tiny_models.CORPUS, "", "The heron. " * 40, "Fähre"]


def files(folder):
    return ModelFiles(str(folder), folder, "")


@pytest.fixture(scope="module")
def opened():
    """What `encoder` and `cross_encoder` opened, closed at the end."""
    models = []
    yield models
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def encoder(opened):
    def open_encoder(folder, **options):
        preset = embedder_preset("acme/x", folder)
        engine = TorchEncoder(files(folder), preset, device="cpu", **options)
        tokenizer = load_tokenizer(folder, lower_case=preset.lower_case)
        opened.append(LocalEncoder("acme/x", engine, tokenizer, Queueing()))
        return opened[-1]

    return open_encoder


# --- encoders


@pytest.fixture(scope="module")
def bge(tiny, encoder):
    return encoder(tiny["bge"])


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens", "lasttoken"])
def test_vectors_are_those_of_sentence_transformers(tiny, tmp_path, encoder, pooling):
    folder = shutil.copytree(tiny["bge"], tmp_path / "model")
    tiny_models.write_pooling(folder, pooling)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    vectors = encoder(folder).encode(TEXTS, max_tokens=64)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 32)
    assert ((vectors * expected).sum(axis=1) > 0.99999).all()
    # Random weights, yet different texts must be told apart, or the line above shows nothing.
    assert (vectors @ vectors.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.999


def test_batching_changes_neither_vectors_nor_order(tiny, encoder, bge):
    one_by_one = np.concatenate([bge.encode([text], max_tokens=64) for text in TEXTS])
    small = encoder(tiny["bge"], batch_tokens=100).encode(TEXTS, max_tokens=64)
    np.testing.assert_allclose(bge.encode(TEXTS, max_tokens=64), one_by_one, atol=1e-5)
    np.testing.assert_allclose(small, one_by_one, atol=1e-5)


def test_a_batch_stays_within_its_token_budget(tiny, encoder):
    small, shapes = encoder(tiny["bge"], batch_tokens=100), []
    small.engine.model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    small.encode(TEXTS, max_tokens=64)
    assert max(rows * width for rows, width in shapes) <= 100
    assert sum(rows for rows, _ in shapes) == len(TEXTS)


def test_no_texts_make_no_vectors(bge):
    assert bge.encode([], max_tokens=64).shape == (0, 32)
    assert bge.token_vectors([], max_tokens=64) == []


def test_token_vectors_are_the_last_hidden_states_without_special_tokens(tiny, bge):
    found = bge.token_vectors(TEXTS, max_tokens=64)
    model = AutoModel.from_pretrained(tiny["bge"])
    tokenizer = AutoTokenizer.from_pretrained(tiny["bge"])
    for text, vectors in zip(TEXTS[:4], found, strict=False):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        expected = torch.nn.functional.normalize(states, dim=-1).numpy()
        np.testing.assert_allclose(vectors.vectors, expected, atol=1e-5)
        assert vectors.ids.tolist() == tokenizer(text)["input_ids"][1:-1]


def test_token_offsets_count_characters(bge):
    text = "Die FÄHRE, wartet"
    (vectors,) = bge.token_vectors([text], max_tokens=64)
    tokens = [text[start:end] for start, end in vectors.offsets]
    assert "".join(tokens) == text.replace(" ", "")
    assert (vectors.ids.dtype, vectors.offsets.dtype) == (np.int32, np.int32)
    assert vectors.vectors.dtype == np.float32


def test_token_vectors_of_nothing_and_of_too_much(bge):
    empty, long = bge.token_vectors(["", "the " * 100], max_tokens=64)
    assert (empty.vectors.shape, empty.offsets.shape) == ((0, 32), (0, 2))
    assert len(long.ids) == 62


# --- cross-encoders


@pytest.fixture(scope="module")
def reranker(tiny, opened):
    engine = TorchCrossEncoder(files(tiny["reranker"]), device="cpu", batch_tokens=200)
    tokenizer = load_tokenizer(tiny["reranker"])
    opened.append(LocalCrossEncoder("acme/x", engine, tokenizer, Queueing()))
    return opened[-1]


def test_logits_are_those_of_sentence_transformers(tiny, reranker):
    question = "When does the ferry leave?"
    reference = CrossEncoder(str(tiny["reranker"]), device="cpu")
    expected = reference.predict(
        [(question, text) for text in TEXTS], activation_fn=torch.nn.Identity()
    )
    logits = reranker.logits(question, TEXTS)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert logits.std() > 0.01  # the passages do make a difference
    assert reranker.max_tokens == 64


def test_a_question_too_long_leaves_a_quarter_to_the_passage(tiny, reranker):
    question, passage = "When does the ferry leave? " * 30, "A heron waits in the shallows. " * 30
    tokenizer = load_tokenizer(tiny["reranker"])
    asked = tokenizer.encode(question, add_special_tokens=False).ids
    read = tokenizer.encode(passage, add_special_tokens=False).ids
    # 64 tokens: 48 of the question, four special ones, 12 of the passage.
    ids = [0, *asked[:48], 2, 2, *read[:12], 2]
    model = AutoModelForSequenceClassification.from_pretrained(tiny["reranker"])
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(reranker.logits(question, [passage]), expected, atol=1e-5)


def test_no_passages_have_no_logits(reranker):
    assert reranker.logits("?", []).shape == (0,)


def test_a_classifier_of_several_labels_is_no_reranker(tmp_path):
    folder = tiny_models.reranker(tmp_path, labels=3)
    with pytest.raises(ModelUnavailable, match="classifier of 3 labels"):
        TorchCrossEncoder(files(folder), device="cpu")


def test_weights_that_are_missing_are_not_made_up(tiny):
    with pytest.raises(ModelUnavailable, match=r"has no weights for classifier"):
        TorchCrossEncoder(files(tiny["bge"]), device="cpu")


def test_a_broken_model_is_named(tiny, tmp_path, encoder):
    folder = shutil.copytree(tiny["bge"], tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        encoder(folder)


@pytest.mark.parametrize("name", ["bge", "reranker"])
def test_measuring_a_pass_stays_within_the_models_positions(tiny, name):
    """Tiny models have few; on a GPU one position too many ends the process."""
    auto = AutoModel if name == "bge" else AutoModelForSequenceClassification
    model = auto.from_pretrained(tiny[name]).eval()
    assert PASS_TOKENS <= measured_pass_tokens(model, 512) <= 512


def test_what_a_pass_costs_in_tokens():
    """8 ms and then 1,000,000 tokens a second: the launch is worth 8,000 tokens."""
    assert launch_tokens((16, 0.008016), (32_768, 0.040768)) == 8000
    assert launch_tokens((16, 0.008), (32_768, 0.008)) == 32_768, "both only launch"
    assert launch_tokens((16, 0.0001), (2048, 1.0)) == 128, "a pass is what is in it"
