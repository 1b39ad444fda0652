"""The torch engines on a GPU, where the CPU's answers are the right ones.

`test_torch.py` and `test_torch_lm.py` hold the CPU to sentence-transformers and `generate`; here
the GPU is held to the CPU. Half precision rounds, so vectors and logits are compared as closely as
its bits allow, and LMs run in float32.
"""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from rag.models import torch_lm
from rag.models.batching import PASS_TOKENS
from rag.models.encoders import LocalCrossEncoder, LocalEncoder, Queueing
from rag.models.engine import Engines
from rag.models.load import ModelFiles
from rag.models.presets import embedder_preset
from rag.models.tokens import load_tokenizer
from rag.models.torch import TorchCrossEncoder, TorchEncoder, load_model
from rag.models.torch_engines import BatchLimits, ContinuousEngine
from rag.models.torch_lm import TorchCausalLM
from rag.sampling import Sampling
from tests import tiny_models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device.")

TEXTS = [*tiny_models.CORPUS, "", "The heron. " * 40, "Fähre"]
PROMPTS = ["The ferry leaves", "A heron", "The lighthouse keeper of the island", "Why"]
GREEDY = Sampling(do_sample=False, max_new_tokens=24)


def files(folder):
    return ModelFiles(str(folder), folder, "")


def test_a_gpu_is_found_and_used():
    assert not Engines().on_cpu


def test_vectors_are_the_cpus_up_to_bfloat16(tiny):
    preset = embedder_preset("acme/x", tiny["bge"])

    def vectors(device):
        engine = TorchEncoder(files(tiny["bge"]), preset, device=device)
        encoder = LocalEncoder("x", engine, load_tokenizer(tiny["bge"]), Queueing())
        try:
            return engine.precision, encoder.encode(TEXTS, max_tokens=64)
        finally:
            encoder.close()

    precision, half = vectors("cuda")
    _, exact = vectors("cpu")

    assert precision == "bfloat16"
    assert (half * exact).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)


def test_a_pass_is_worth_more_tokens_than_on_a_cpu(tiny):
    preset = embedder_preset("acme/x", tiny["bge"])
    engine = TorchEncoder(files(tiny["bge"]), preset, device="cuda")

    assert PASS_TOKENS < engine.pass_tokens <= engine.batch_tokens


def test_scores_are_the_cpus_up_to_float16(tiny):
    def logits(device):
        engine = TorchCrossEncoder(files(tiny["reranker"]), device=device)
        reranker = LocalCrossEncoder("x", engine, load_tokenizer(tiny["reranker"]), Queueing())
        try:
            return reranker.logits("When does the ferry leave?", TEXTS)
        finally:
            reranker.close()

    np.testing.assert_allclose(logits("cuda"), logits("cpu"), atol=5e-3)


@pytest.fixture
def open_lm(monkeypatch):
    """Opens LMs in float32, whose greedy answers do not depend on the order of additions."""

    def in_float32(auto_class, found, device, **options):
        return load_model(auto_class, found, device, half=torch.float32, **options)

    monkeypatch.setattr(torch_lm, "load_model", in_float32)
    opened = []

    def open_(folder, **options):
        opened.append(TorchCausalLM(files(folder), **options))
        return opened[-1]

    yield open_
    for lm in opened:
        lm.close()


def read(lm, prompt, sampling=GREEDY):
    with lm.stream(prompt, sampling) as stream:
        return "".join(stream)


@pytest.mark.parametrize("name", ["qwen2", "llama", "gpt_neox", "gpt2"])
def test_requests_at_once_get_the_answers_of_the_cpu(tiny, open_lm, name):
    alone = open_lm(tiny[name], device="cpu", continuous=False)
    lm = open_lm(tiny[name], device="cuda", limits=BatchLimits(page_tokens=8))

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: read(lm, prompt), PROMPTS))

    assert answers == [read(alone, prompt) for prompt in PROMPTS]


def test_a_gpu_runs_requests_in_one_batch(tiny, open_lm):
    assert isinstance(open_lm(tiny["qwen2"], device="cuda")._engine, ContinuousEngine)


def test_a_seed_repeats(tiny, open_lm):
    lm = open_lm(tiny["qwen2"], device="cuda")
    drawn = Sampling(do_sample=True, temperature=1.5, seed=3, max_new_tokens=24)

    assert read(lm, "The ferry", drawn) == read(lm, "The ferry", drawn)
    assert read(lm, "The ferry", drawn) != read(lm, "The ferry", GREEDY)


def test_a_cancelled_request_leaves_the_others_alone(tiny, open_lm):
    lm = open_lm(tiny["qwen2"], device="cuda")
    expected = read(lm, PROMPTS[0])
    begun = threading.Event()

    def cancelled():
        with lm.stream(PROMPTS[1], Sampling(do_sample=False, max_new_tokens=40)) as stream:
            next(stream, None)
            begun.set()

    with ThreadPoolExecutor(2) as pool:
        leaving = pool.submit(cancelled)
        assert begun.wait(60)
        assert read(lm, PROMPTS[0]) == expected
        leaving.result(60)


def test_closing_gives_the_memory_back(tiny):
    gc.collect()
    before = torch.cuda.memory_allocated()
    lm = TorchCausalLM(files(tiny["qwen2"]), device="cuda")
    read(lm, PROMPTS[0])
    assert torch.cuda.memory_allocated() > before

    lm.close()

    # 33 MiB stayed, by their size cuBLAS's workspace; the cache was gigabytes.
    assert torch.cuda.memory_allocated() - before < 64 << 20
