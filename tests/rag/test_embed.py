import subprocess
import sys

import numpy as np
import pytest

from rag.embed import Embedder, load_embedder
from rag.models.engine import Engines
from rag.models.load import BUNDLED_ID, BUNDLED_SHA256
from rag.models.presets import EmbedderPreset
from rag.models.tokens import load_tokenizer
from tests import tiny_models


class Recorder:
    """An encoder that keeps what it was given."""

    dim = 2

    def __init__(self):
        self.seen = []

    def encode(self, texts, *, max_tokens):
        self.seen.append((list(texts), max_tokens))
        return np.zeros((len(texts), self.dim), dtype=np.float32)

    def token_vectors(self, texts, *, max_tokens):
        self.seen.append((list(texts), max_tokens))
        return []


@pytest.fixture
def recorded(tmp_path):
    preset = EmbedderPreset("cls", 64, query_instruction="Q: ", passage_instruction="P: ")
    tokenizer = load_tokenizer(tiny_models.bge(tmp_path / "model"))
    return Embedder("acme/x", Recorder(), preset, tokenizer, revision="abc")


@pytest.fixture(scope="module")
def minilm():
    return load_embedder(BUNDLED_ID, engines=Engines(name="torch"))


def test_each_side_gets_its_own_instruction_once(recorded):
    recorded.embed_queries(["ferry", "Q: ferry"])
    recorded.embed_passages(["heron"])
    recorded.token_vectors(["tide"])
    # A text that begins like the instruction is still only a text.
    assert recorded.encoder.seen == [
        (["Q: ferry", "Q: Q: ferry"], 64),
        (["P: heron"], 64),
        (["tide"], 64),
    ]


def test_counted_tokens_include_special_ones_and_the_passage_instruction(recorded):
    own = recorded.tokenizer.encode("P: the ferry").tokens
    assert own[0] == "[CLS]"
    assert recorded.count_tokens(["the ferry", "the " * 100]) == [len(own), 104]
    assert recorded.max_tokens == 64  # the second one would be cut


def test_the_fingerprint_names_all_that_changes_vectors(recorded):
    assert recorded.fingerprint == {
        "id": "acme/x",
        "revision": "abc",
        "pooling": "cls",
        "normalize": True,
        "query_instruction": "Q: ",
        "passage_instruction": "P: ",
        "max_tokens": 64,
    }


def test_a_local_bge_puts_its_instruction_before_questions_only(tmp_path):
    embedder = load_embedder(
        str(tiny_models.bge(tmp_path / "bge-small-en")), engines=Engines(name="torch")
    )
    text = "How long does the crossing take?"
    instruction = "Represent this sentence for searching relevant passages: "
    asked, with_instruction = embedder.encoder.encode([text, instruction + text], max_tokens=64)
    np.testing.assert_allclose(embedder.embed_passages([text])[0], asked, atol=1e-6)
    np.testing.assert_allclose(embedder.embed_queries([text])[0], with_instruction, atol=1e-6)
    assert not np.allclose(asked, with_instruction, atol=1e-3)


def test_meaning_with_the_bundled_model(minilm):
    question = minilm.embed_queries(["When do cats sleep?"])
    passages = minilm.embed_passages(
        ["Felines doze for most of the day.", "My dog barks at night.", "Share prices fell."]
    )
    near, middle, far = (question @ passages.T)[0]
    assert near > middle > far
    np.testing.assert_allclose(np.linalg.norm(passages, axis=1), 1, atol=1e-5)


def test_the_bundled_model_is_what_it_says(minilm):
    assert (minilm.dim, minilm.max_tokens) == (384, 256)
    assert minilm.fingerprint["revision"] == BUNDLED_SHA256
    assert minilm.count_tokens(["hello world", ""]) == [4, 2]


def test_token_vectors_of_the_bundled_model(minilm):
    text = "Rivers freeze in WINTER."
    (vectors,) = minilm.token_vectors([text])
    words = [text[start:end] for start, end in vectors.offsets]
    assert words == ["Rivers", "freeze", "in", "WINTER", "."]
    assert vectors.vectors.shape == (5, 384)
    assert vectors.ids.tolist() == minilm.tokenizer.encode(text).ids[1:-1]
    np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1, atol=1e-5)


def test_the_tokenizer_neither_cuts_nor_pads(minilm):
    assert (minilm.tokenizer.truncation, minilm.tokenizer.padding) == (None, None)
    assert minilm.count_tokens(["word " * 400]) == [402]


def test_nothing_heavy_is_imported_before_a_model_is_loaded():
    modules = "rag.embed, rag.sampling, rag.models.presets, rag.models.load, rag.models.stream"
    heavy = "{'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'openvino'}"
    code = f"import sys, {modules}; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
