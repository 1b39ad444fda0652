import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from rag.errors import InvalidInput, ModelUnavailable
from rag.models.chat import INTRO
from rag.models.load import ModelFiles
from rag.models.presets import embedder_preset
from rag.models.stream import Detokenizer
from rag.models.tokens import load_tokenizer
from rag.models.torch import TorchCausalLM, TorchCrossEncoder, TorchEncoder
from rag.sampling import Sampling
from rag.types import Message, Usage
from tests import tiny_models

LMS = ("qwen2", "llama", "gpt_neox", "gpt2")
PROMPT = "The ferry leaves"
GREEDY = Sampling(do_sample=False, max_new_tokens=24)
TEXTS = [*tiny_models.CORPUS, "", "The heron. " * 40, "Fähre"]


def files(folder):
    return ModelFiles(str(folder), folder, "")


def encoder(folder, **options):
    return TorchEncoder(files(folder), embedder_preset("acme/x", folder), device="cpu", **options)


# --- encoders


@pytest.fixture(scope="module")
def bge(tiny):
    return encoder(tiny["bge"])


@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens", "lasttoken"])
def test_vectors_are_those_of_sentence_transformers(tiny, tmp_path, pooling):
    folder = shutil.copytree(tiny["bge"], tmp_path / "model")
    tiny_models.write_pooling(folder, pooling)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    vectors = encoder(folder).encode(TEXTS, max_tokens=64)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), 32)
    assert ((vectors * expected).sum(axis=1) > 0.99999).all()
    # Random weights, yet different texts must be told apart, or the line above shows nothing.
    assert (vectors @ vectors.T)[~np.eye(len(TEXTS), dtype=bool)].max() < 0.999


def test_batching_changes_neither_vectors_nor_order(tiny, bge):
    one_by_one = np.concatenate([bge.encode([text], max_tokens=64) for text in TEXTS])
    small = encoder(tiny["bge"], batch_tokens=100).encode(TEXTS, max_tokens=64)
    np.testing.assert_allclose(bge.encode(TEXTS, max_tokens=64), one_by_one, atol=1e-5)
    np.testing.assert_allclose(small, one_by_one, atol=1e-5)


def test_a_batch_stays_within_its_token_budget(tiny):
    small, shapes = encoder(tiny["bge"], batch_tokens=100), []
    small._model.register_forward_pre_hook(
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
def reranker(tiny):
    return TorchCrossEncoder(files(tiny["reranker"]), device="cpu", batch_tokens=200)


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


def test_a_broken_model_is_named(tiny, tmp_path):
    folder = shutil.copytree(tiny["bge"], tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        encoder(folder)


# --- causal LMs


@pytest.fixture(scope="module")
def lms(tiny):
    loaded = {name: TorchCausalLM(files(tiny[name]), device="cpu") for name in LMS}
    yield loaded
    for lm in loaded.values():
        lm.close()


@pytest.fixture
def lm(tiny):
    """A model of the test's own, whose forward passes it may count and hold up."""
    loaded = TorchCausalLM(files(tiny["qwen2"]), device="cpu")
    yield loaded
    loaded.close()


def reference(folder, prompt, **options):
    """(tokenizer, new token ids) of transformers' own generate."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
    ids = model.generate(**inputs, pad_token_id=0, **options)[0, inputs["input_ids"].shape[1] :]
    return tokenizer, ids.tolist()


def piecewise(tokenizer, ids):
    """The text of ids that may hold bad UTF-8, which decodes otherwise in one piece."""
    detokenizer = Detokenizer(lambda part: tokenizer.decode(part, skip_special_tokens=True))
    return "".join(map(detokenizer.push, ids)) + detokenizer.flush()


@pytest.mark.parametrize("name", LMS)
def test_greedy_text_is_that_of_generate(tiny, lms, name):
    tokenizer, ids = reference(tiny[name], PROMPT, do_sample=False, max_new_tokens=24)
    stream = lms[name].stream(PROMPT, GREEDY)
    pieces = list(stream)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(pieces) > 5
    prompt_tokens = lms[name].count_tokens(PROMPT)
    assert stream.usage == Usage(prompt_tokens, len(ids))
    assert stream.finish_reason == "length"
    assert stream.notes == ()


@pytest.mark.parametrize("name", LMS)
def test_a_seed_repeats_and_draws_as_generate_does(tiny, lms, name):
    sampling = Sampling(0.9, 0.95, 20, do_sample=True, seed=11)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        drawn = reference(
            tiny[name], PROMPT, do_sample=True, temperature=0.9, top_p=0.95, max_new_tokens=20
        )
    text = piecewise(*drawn)
    assert "".join(lms[name].stream(PROMPT, sampling)) == text
    assert "".join(lms[name].stream(PROMPT, sampling)) == text
    other = Sampling(0.9, 0.95, 20, do_sample=True, seed=12)
    assert "".join(lms[name].stream(PROMPT, other)) != text
    unseeded = Sampling(2.0, 1.0, 20, do_sample=True)
    assert len({"".join(lms[name].stream(PROMPT, unseeded)) for _ in range(3)}) > 1


def test_unset_values_come_from_the_models_own_configuration(tiny, tmp_path):
    folder = shutil.copytree(tiny["qwen2"], tmp_path / "model")
    own = {
        "do_sample": True, "temperature": 1.3, "top_k": 7, "top_p": 0.8, "min_p": 0.01,
        "repetition_penalty": 1.2, "eos_token_id": 0, "max_new_tokens": 18,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(own), "utf-8")
    lm = TorchCausalLM(files(folder), device="cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = reference(folder, PROMPT)
    stream = lm.stream(PROMPT, Sampling(seed=3))
    assert "".join(stream) == piecewise(*drawn)
    assert stream.usage.completion_tokens == 18
    lm.close()


@pytest.mark.parametrize("name", LMS)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_max_new_tokens_is_exact(lms, name, count):
    stream = lms[name].stream(PROMPT, Sampling(do_sample=False, max_new_tokens=count))
    text = "".join(stream)
    assert stream.usage.completion_tokens == count
    assert stream.finish_reason == "length"
    assert "".join(lms[name].stream(PROMPT, GREEDY)).startswith(text.rstrip("\ufffd"))


@pytest.mark.parametrize("name", LMS)
def test_a_stop_string_across_tokens_cuts_exactly(lms, name):
    pieces = list(lms[name].stream(PROMPT, GREEDY))
    text = "".join(pieces)
    stop = pieces[3][-1] + pieces[4][:1]  # the end of one token and the beginning of the next
    expected = text[: text.index(stop)]
    stream = lms[name].stream(PROMPT, Sampling(max_new_tokens=24, do_sample=False, stop=(stop,)))
    assert "".join(stream) == expected
    assert stream.finish_reason == "stop"
    assert stream.usage.completion_tokens < 24


def test_a_stop_string_costs_no_further_forward_pass(lm):
    calls = count_calls(lm)
    stream = lm.stream(PROMPT, Sampling(do_sample=False, max_new_tokens=24))
    pieces = list(stream)
    calls.clear()
    stream = lm.stream(PROMPT, Sampling(do_sample=False, max_new_tokens=24, stop=(pieces[4],)))
    list(stream)
    assert len(calls) == stream.usage.completion_tokens < 24


def count_calls(lm):
    calls = []
    lm._model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def hold_at(lm, call):
    """Make the model wait within its n-th forward pass: (calls, it is there, let it go on)."""
    calls, reached, release = [], threading.Event(), threading.Event()

    def hook(*_):
        calls.append(1)
        if len(calls) == call:
            reached.set()
            assert release.wait(10)

    lm._model.register_forward_hook(hook)
    return calls, reached, release


def test_cancelling_stops_with_the_token_in_work(lm):
    calls, reached, release = hold_at(lm, 3)
    stream = lm.stream(PROMPT, GREEDY)
    assert reached.wait(10)
    stream.cancel()
    release.set()
    stream.close()
    assert len(calls) == 3
    assert stream.finish_reason == "cancelled"
    assert stream.usage.completion_tokens == 2
    assert list(stream) == []


def test_close_returns_when_the_model_has_stopped(lm):
    calls, reached, release = hold_at(lm, 2)
    stream = lm.stream(PROMPT, GREEDY)
    assert reached.wait(10)
    closer = threading.Thread(target=stream.close)
    closer.start()
    closer.join(0.05)
    assert closer.is_alive()  # the forward pass is still running
    release.set()
    closer.join(10)
    assert not closer.is_alive()
    assert len(calls) == 2


def test_a_request_that_waits_can_be_closed_at_once(lm):
    _, reached, release = hold_at(lm, 1)
    first = lm.stream(PROMPT, GREEDY)
    second = lm.stream(PROMPT, GREEDY)
    assert reached.wait(10)
    second.close()
    assert second.finish_reason == "cancelled"
    assert list(second) == []
    release.set()
    assert len("".join(first)) > 0
    assert first.finish_reason == "length"


def test_a_stream_that_nobody_holds_stops_the_model(lm):
    calls, reached, release = hold_at(lm, 2)
    stream = lm.stream(PROMPT, GREEDY)
    assert reached.wait(10)
    del stream
    release.set()
    lm.close()  # waits for the request in flight
    assert len(calls) == 2


def test_what_the_engine_raises_reaches_the_reader(lm):
    def fail(*_):
        raise RuntimeError("out of memory")

    hook = lm._model.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        list(lm.stream(PROMPT, GREEDY))
    hook.remove()
    assert list(lm.stream(PROMPT, GREEDY))


@pytest.mark.parametrize("name", LMS)
def test_requests_at_the_same_time_do_not_mix(lms, name):
    lm = lms[name]
    cases = [
        (prompt, Sampling(1.5, 1.0, 16, do_sample=True, seed=seed))
        for seed, prompt in enumerate(tiny_models.CORPUS[:3])
    ]
    expected = ["".join(lm.stream(*case)) for case in cases]
    with ThreadPoolExecutor(3) as threads:
        got = list(threads.map(lambda case: "".join(lm.stream(*case)), cases * 3))
    assert got == expected * 3


def test_two_models_at_the_same_time_keep_their_seeds(lms):
    sampling = Sampling(1.5, 1.0, 24, do_sample=True, seed=5)
    expected = {name: "".join(lms[name].stream(PROMPT, sampling)) for name in LMS}
    streams = {name: lms[name].stream(PROMPT, sampling) for name in LMS}  # all four run now
    assert {name: "".join(stream) for name, stream in streams.items()} == expected


def force(lm, call, token):
    """Make the model's n-th forward pass choose `token`."""
    calls = []

    def hook(_, __, output):
        calls.append(1)
        if len(calls) == call:
            output.logits[..., token] = 1e9

    lm._model.register_forward_hook(hook)


@pytest.mark.parametrize(("name", "end"), [("qwen2", "<|endoftext|>"), ("gpt_neox", "### End")])
def test_the_end_token_ends_the_answer_and_is_not_shown(tiny, name, end):
    form = "dolly" if name == "gpt_neox" else None
    lm = TorchCausalLM(files(tiny[name]), device="cpu", form=form)
    whole = "".join(lm.stream(PROMPT, GREEDY))
    (token,) = AutoTokenizer.from_pretrained(tiny[name]).encode(end)
    force(lm, 4, token)
    stream = lm.stream(PROMPT, GREEDY)
    text = "".join(stream)
    assert whole.startswith(text.rstrip("\ufffd"))
    assert (stream.finish_reason, stream.usage.completion_tokens) == ("stop", 4)
    lm.close()


def test_greedy_says_that_temperature_and_top_p_had_no_effect(lms):
    lm = lms["qwen2"]
    both = lm.stream(PROMPT, Sampling(0.5, 0.5, 8, do_sample=False))
    assert both.notes == ("do_sample is off, so temperature and top_p had no effect.",)
    unset = lm.stream(PROMPT, Sampling(temperature=0.5, max_new_tokens=8))
    assert unset.notes == ("do_sample is off, so temperature had no effect.",)
    plain = lm.stream(PROMPT, Sampling(do_sample=False, max_new_tokens=8))
    assert "".join(both) == "".join(unset) == "".join(plain)
    assert lm.stream(PROMPT, Sampling(0, max_new_tokens=8, do_sample=False)).notes == ()


def test_a_prompt_that_leaves_too_little_room_names_both_numbers(lms):
    lm = lms["gpt2"]
    assert lm.context_window == 128
    prompt = "heron " * 20
    count = lm.count_tokens(prompt)
    fits = lm.stream(prompt, Sampling(do_sample=False, max_new_tokens=128 - count))
    assert fits.usage.prompt_tokens == count
    fits.close()
    message = rf"{count} tokens and max_new_tokens is {129 - count}, .* 128"
    with pytest.raises(InvalidInput, match=message):
        lm.stream(prompt, Sampling(max_new_tokens=129 - count))
    with pytest.raises(InvalidInput, match="max_new_tokens is 1"):
        lm.stream("heron " * 200, Sampling())


def test_without_a_length_the_answer_fills_what_is_left_at_most(lms):
    lm = lms["gpt2"]
    prompt = "heron " * 20
    stream = lm.stream(prompt, Sampling(do_sample=False))
    list(stream)
    assert stream.usage.completion_tokens == 128 - lm.count_tokens(prompt)


def test_an_empty_prompt_is_refused(lms):
    with pytest.raises(InvalidInput, match="prompt is empty"):
        lms["gpt2"].stream("", GREEDY)


TALK = (Message("system", "Be brief."), Message("user", "Hello"))


def test_messages_go_through_the_chat_template(lms):
    prompt = lms["qwen2"].render(TALK)
    assert prompt == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert "".join(lms["qwen2"].stream(TALK, GREEDY)) == "".join(
        lms["qwen2"].stream(prompt, GREEDY)
    )


def test_messages_without_a_chat_template_take_the_instruction_form(tiny, lms):
    alpaca = f"{INTRO}\n\nBe brief.\n\n### Instruction:\nHello\n\n### Response:"
    assert lms["llama"].render(TALK) == alpaca
    dolly = TorchCausalLM(files(tiny["gpt_neox"]), device="cpu", form="dolly")
    assert dolly.render(TALK) == alpaca + "\n"
    dolly.close()


def with_template(tiny, folder, template):
    shutil.copytree(tiny["qwen2"], folder)
    (folder / "chat_template.jinja").write_text(template, "utf-8")
    return TorchCausalLM(files(folder), device="cpu")


def test_a_template_without_a_system_role_gets_it_in_the_first_turn(tiny, tmp_path):
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    lm = with_template(tiny, tmp_path / "model", refuse + "{{ messages[0]['content'] }}")
    assert lm.render(TALK) == "Be brief.\n\nHello"
    lm.close()


def test_a_conversation_that_the_template_refuses_is_invalid(tiny, tmp_path):
    lm = with_template(tiny, tmp_path / "model", "{{ raise_exception('only poems') }}")
    with pytest.raises(InvalidInput, match="refuses this conversation: only poems"):
        lm.render(TALK)
    lm.close()


@pytest.mark.parametrize("text", [*tiny_models.CORPUS, "naïve 東京 😀 end"])
def test_sentencepiece_spaces_survive_streaming(lms, text):
    lm = lms["llama"]
    ids = lm._encode(text, special=False)
    detokenizer = Detokenizer(lm._decode)
    pieces = [detokenizer.push(token) for token in ids]
    assert "".join(pieces) + detokenizer.flush() == text
    assert not any("\ufffd" in piece for piece in pieces)
