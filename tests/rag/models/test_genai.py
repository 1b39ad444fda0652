import json
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rag.errors import InvalidInput, ModelUnavailable, Overloaded
from rag.models import genai
from rag.models.cache import NotConvertible
from rag.models.cpu import Cpu
from rag.models.genai import Description, OpenVINOCausalLM, load_causal_lm, token_tensor
from rag.models.load import ModelFiles, resolve
from rag.models.stream import Detokenizer
from rag.sampling import MAX_SEED, Sampling
from rag.types import Message, Usage
from rag.work import Priority, Work, working
from tests import tiny_models

LMS = ("qwen2", "llama", "gpt_neox")
PROMPT = "The ferry leaves"
GREEDY = Sampling(do_sample=False, max_new_tokens=24)


@pytest.fixture(scope="module")
def load(tiny, lm_cache):
    def load(name, **options):
        cpu = Cpu(cache=lm_cache, precision="f32")
        return load_causal_lm(resolve(str(tiny[name])), cpu, **options)

    return load


@pytest.fixture(scope="module")
def lms(load):
    loaded = {name: load(name) for name in LMS}
    yield loaded
    for lm in loaded.values():
        lm.close()


class Held:
    """A pipeline that waits before its n-th step."""

    def __init__(self, pipeline, step=1):
        self.pipeline, self.at, self.steps = pipeline, step, 0
        self.reached, self.release = threading.Event(), threading.Event()
        self.failing = False

    def step(self):
        self.steps += 1
        if self.steps == self.at:
            self.reached.set()
            assert self.release.wait(10)
        if self.failing:
            raise RuntimeError("out of memory")
        self.pipeline.step()

    def __getattr__(self, name):
        return getattr(self.pipeline, name)


@pytest.fixture
def lm(load):
    """A model of the test's own, whose steps it may count and hold up."""
    loaded = load("qwen2", waiting=1)
    yield loaded
    loaded.close()


def hold(lm, step=1):
    lm._engine._pipeline = Held(lm._engine._pipeline, step)
    return lm._engine._pipeline


@pytest.fixture
def changed(load, lm_cache, tmp_path):
    """Load a converted model with another description."""
    opened = []

    def changed(name, *, kv_cache_mb=16, form=None, **fields):
        load(name).close()
        (source,) = (path.parent for path in lm_cache.glob(f"{name}-*/lm.json"))
        folder = Path(shutil.copytree(source, tmp_path / f"{name}-{len(opened)}"))
        about = Description.load(folder)
        generation = about.generation | fields.pop("generation", {})
        replace(about, generation=generation, **fields).save(folder)
        model = OpenVINOCausalLM(name, folder, kv_cache_mb=kv_cache_mb, waiting=4, form=form)
        opened.append(model)
        return model

    yield changed
    for model in opened:
        model.close()


def text(stream):
    return "".join(stream)


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
    assert "".join(pieces) == piecewise(tokenizer, ids)
    assert len(pieces) > 5
    assert stream.usage == Usage(lms[name].count_tokens(PROMPT), len(ids))
    assert stream.finish_reason == "length"
    assert stream.notes == ()


@pytest.mark.parametrize("name", LMS)
def test_a_prefix_in_the_cache_changes_no_text(lms, name):
    long = " ".join(tiny_models.CORPUS[:2])  # over a block of 32 tokens
    assert lms[name].count_tokens(long) > genai.BLOCK_TOKENS
    sampled = Sampling(1.2, 0.9, 16, do_sample=True, seed=4)
    for sampling in (Sampling(do_sample=False, max_new_tokens=16), sampled):
        first = text(lms[name].stream(long, sampling))
        assert text(lms[name].stream(long, sampling)) == first


def test_a_seed_repeats_and_another_draws_otherwise(lms):
    lm = lms["qwen2"]

    def drawn(seed):
        return text(lm.stream(PROMPT, Sampling(1.5, 1.0, 20, do_sample=True, seed=seed)))

    assert drawn(11) == drawn(11)
    assert drawn(0) == drawn(0)
    assert drawn(MAX_SEED) == drawn(MAX_SEED)
    assert len({drawn(seed) for seed in range(5)}) == 5
    assert len({drawn(None) for _ in range(3)}) > 1


@pytest.mark.parametrize("name", LMS)
def test_sixteen_at_once_are_as_they_would_be_alone(lms, name):
    """Different prompts, lengths, temperatures, seeds and stop strings in one batch."""
    lm = lms[name]
    cases = [
        (
            prompt,
            Sampling(
                temperature=1.0 + n / 10,
                top_p=0.9,
                max_new_tokens=10 + n,
                do_sample=bool(n % 2),
                seed=n,
                stop=("e",) if n % 3 == 0 else (),
            ),
        )
        for n, prompt in enumerate(tiny_models.CORPUS * 2)
    ]
    alone = [text(lm.stream(*case)) for case in cases]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(lambda case: text(lm.stream(*case)), cases)) == alone


def test_unset_values_come_from_the_models_own_configuration(tiny, changed):
    own = {"repetition_penalty": 1.3, "max_new_tokens": 18}
    lm = changed("qwen2", generation=own)
    stream = lm.stream(PROMPT, Sampling())
    expected = reference(tiny["qwen2"], PROMPT, do_sample=False, **own)
    assert text(stream) == piecewise(*expected)
    assert stream.usage.completion_tokens == 18
    plain = reference(tiny["qwen2"], PROMPT, do_sample=False, max_new_tokens=18)
    assert piecewise(*plain) != piecewise(*expected)


def test_tokens_are_drawn_from_transformers_distribution(tiny, changed):
    """The first token, 600 times: the tokens that the warpers leave, about as often as they say."""
    own = {"do_sample": True, "temperature": 1.6, "top_k": 9, "top_p": 0.9, "min_p": 0.04}
    lm = changed("qwen2", generation=own)
    ids = lm._prompt_ids(PROMPT)
    configs = [lm._config(Sampling(seed=seed), 1) for seed in range(600)]
    results = lm._engine._pipeline.generate([token_tensor(ids)] * 600, configs)
    counts = Counter(result.m_generation_ids[0][0] for result in results)

    model = AutoModelForCausalLM.from_pretrained(tiny["qwen2"])
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[:, -1]
    warpers = [
        TemperatureLogitsWarper(1.6), TopKLogitsWarper(9), TopPLogitsWarper(0.9),
        MinPLogitsWarper(0.04),
    ]  # fmt: skip
    expected = LogitsProcessorList(warpers)(torch.tensor([ids]), logits).softmax(-1)[0]
    left = expected.nonzero()[:, 0].tolist()
    assert 2 < len(left) < 9  # top_p or min_p cut as well
    assert set(counts) <= set(left)
    distance = sum(abs(counts[token] / 600 - float(expected[token])) for token in left) / 2
    assert distance < 0.08  # 600 fair draws of 8 values are 0.04 away on average


@pytest.mark.parametrize("count", [1, 2, 9])
def test_max_new_tokens_is_exact(lms, count):
    stream = lms["qwen2"].stream(PROMPT, Sampling(do_sample=False, max_new_tokens=count))
    text(stream)
    assert stream.usage.completion_tokens == count
    assert stream.finish_reason == "length"


@pytest.mark.parametrize("name", LMS)
def test_a_stop_string_across_tokens_cuts_exactly(lms, name):
    pieces = list(lms[name].stream(PROMPT, GREEDY))
    whole = "".join(pieces)
    stop = pieces[3][-1] + pieces[4][:1]  # the end of one token and the beginning of the next
    stream = lms[name].stream(PROMPT, replace(GREEDY, stop=(stop,)))
    assert text(stream) == whole[: whole.index(stop)]
    assert stream.finish_reason == "stop"
    assert stream.usage.completion_tokens < 24


def test_a_stop_string_costs_no_further_step(lm):
    pieces = list(lm.stream(PROMPT, GREEDY))
    held = hold(lm, step=0)
    stream = lm.stream(PROMPT, replace(GREEDY, stop=(pieces[4],)))
    text(stream)
    lm.close()
    # One more step lets the pipeline drop the request, and computes nothing.
    assert held.steps == stream.usage.completion_tokens + 1 < 24


def test_the_end_token_ends_the_answer_and_is_not_shown(tiny, changed):
    tokenizer, ids = reference(tiny["qwen2"], PROMPT, do_sample=False, max_new_tokens=24)
    end = next(token for n, token in enumerate(ids) if n > 3 and token not in ids[:n])
    at = ids.index(end)
    lm = changed("qwen2", generation={"eos_token_ids": [end]})
    stream = lm.stream(PROMPT, GREEDY)
    assert text(stream) == piecewise(tokenizer, ids[:at])
    assert (stream.finish_reason, stream.usage.completion_tokens) == ("stop", at + 1)


def test_dollys_end_mark_is_an_end_token(lms, changed):
    lm = changed("gpt_neox", form="dolly")
    (mark,) = lm._encode("### End", special=False)
    assert lm._end_ids == {0, mark}
    assert lms["gpt_neox"]._end_ids == {0}


def test_cancelling_stops_with_the_token_in_work(lm):
    held = hold(lm, step=3)
    stream = lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    stream.cancel()
    held.release.set()
    stream.close()
    lm.close()
    assert held.steps == 4  # the last one only drops the request
    assert stream.finish_reason == "cancelled"
    assert stream.usage.completion_tokens == 2
    assert list(stream) == []


def test_a_stream_that_nobody_holds_stops_the_model(lm):
    held = hold(lm, step=2)
    stream = lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    del stream
    held.release.set()
    lm.close()
    assert held.steps == 3


def test_work_that_is_cancelled_stops_the_model(lm):
    held, work = hold(lm, step=2), Work()
    with working(work):
        stream = lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    work.cancelled.set()
    held.release.set()
    assert len(list(stream)) <= 1
    assert stream.finish_reason == "cancelled"


def test_a_request_that_waits_can_be_closed_at_once(lm, monkeypatch):
    monkeypatch.setattr(genai, "MAX_RUNNING", 1)
    held = hold(lm)
    first, second = lm.stream(PROMPT, GREEDY), lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    second.close()
    assert second.finish_reason == "cancelled"
    assert list(second) == []
    held.release.set()
    assert text(first)
    assert first.finish_reason == "length"


def test_too_many_waiting_requests_are_refused_until_one_has_left(lm, monkeypatch):
    monkeypatch.setattr(genai, "MAX_RUNNING", 1)
    held = hold(lm)
    first, second = lm.stream(PROMPT, GREEDY), lm.stream(PROMPT, GREEDY)
    with pytest.raises(Overloaded, match=r"1 requests to .* wait already") as refused:
        lm.stream(PROMPT, GREEDY)
    assert refused.value.retry_after >= 1
    assert lm.load == (1, 1)
    second.close()
    assert lm.load == (1, 0)
    third = lm.stream(PROMPT, GREEDY)
    held.release.set()
    assert text(third) == text(first)


def test_interactive_requests_go_before_bulk(load, monkeypatch):
    monkeypatch.setattr(genai, "MAX_RUNNING", 1)
    lm = load("qwen2", waiting=2)
    held = hold(lm)
    order = []
    first = lm.stream(PROMPT, GREEDY)
    with working(Work(Priority.BULK)):
        bulk = lm.stream(PROMPT, GREEDY)
    question = lm.stream(PROMPT, GREEDY)
    for name, stream in (("first", first), ("bulk", bulk), ("question", question)):
        stream._future.add_done_callback(lambda _, name=name: order.append(name))
    held.release.set()
    lm.close()
    assert order == ["first", "question", "bulk"]


def test_close_waits_for_all_and_refuses_more(load):
    lm = load("qwen2")
    streams = [lm.stream(PROMPT, GREEDY) for _ in range(3)]
    lm.close()
    assert {stream.finish_reason for stream in streams} == {"length"}
    with pytest.raises(ModelUnavailable, match="closed"):
        lm.stream(PROMPT, GREEDY)


def test_what_the_engine_raises_reaches_every_reader(lm):
    held = hold(lm)
    first = lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    second = lm.stream(PROMPT, GREEDY)
    held.failing = True
    held.release.set()
    for stream in (first, second):
        with pytest.raises(RuntimeError, match="out of memory"):
            text(stream)
    held.failing = False
    assert text(lm.stream(PROMPT, GREEDY))


def test_a_request_that_the_pipeline_refuses_fails_alone(lm, lms):
    held = hold(lm)
    first = lm.stream(PROMPT, GREEDY)
    assert held.reached.wait(10)
    refused = lm.stream(PROMPT, Sampling(do_sample=True, max_new_tokens=8))
    refused_config = lm._engine._starting[0].config
    refused_config.temperature = -1.0  # what no caller can ask for
    held.release.set()
    with pytest.raises(RuntimeError, match="temperature"):
        text(refused)
    assert text(first) == text(lms["qwen2"].stream(PROMPT, GREEDY))


def test_greedy_says_that_temperature_had_no_effect(lms):
    stream = lms["qwen2"].stream(PROMPT, Sampling(0.5, 0.5, 8, do_sample=False))
    assert stream.notes == ("do_sample is off, so temperature and top_p had no effect.",)
    assert text(stream) == text(lms["qwen2"].stream(PROMPT, replace(GREEDY, max_new_tokens=8)))


def test_beam_search_is_not_done_and_said(changed):
    lm = changed("qwen2", generation={"num_beams": 4})
    (note,) = lm.stream(PROMPT, GREEDY).notes
    assert "one beam was used" in note


def test_a_prompt_that_leaves_too_little_room_names_both_numbers(lms):
    lm = lms["qwen2"]
    assert lm.context_window == tiny_models.CONTEXT_WINDOW
    count = lm.count_tokens(PROMPT)
    room = lm.context_window - count
    assert text(lm.stream(PROMPT, Sampling(do_sample=False, max_new_tokens=room)))
    with pytest.raises(InvalidInput, match=f"{count} tokens and max_new_tokens is {room + 1}"):
        lm.stream(PROMPT, Sampling(do_sample=False, max_new_tokens=room + 1))


def test_an_empty_prompt_is_refused(lms):
    with pytest.raises(InvalidInput, match="empty"):
        lms["qwen2"].stream("", GREEDY)


def test_the_memory_for_keys_and_values_bounds_the_window(changed):
    endless = {"eos_token_ids": []}
    roomy = changed("qwen2", generation=endless)
    # A block is said to take half of the budget: room for two blocks, 64 tokens.
    lm = changed("qwen2", generation=endless, block_bytes=2**19, kv_cache_mb=1)
    assert lm.context_window == 2 * genai.BLOCK_TOKENS
    room = Sampling(do_sample=False, max_new_tokens=64 - lm.count_tokens(PROMPT))
    with pytest.raises(InvalidInput, match="more than the 64"):
        lm.stream(PROMPT, replace(room, max_new_tokens=room.max_new_tokens + 1))
    # Each takes all of it, so they run one after the other, and neither is thrown out.
    streams = [lm.stream(PROMPT, room) for _ in range(3)]
    assert {text(stream) for stream in streams} == {text(roomy.stream(PROMPT, room))}
    assert {stream.finish_reason for stream in streams} == {"length"}


def test_a_budget_below_one_block_is_an_error(changed):
    with pytest.raises(ModelUnavailable, match="holds not even 32 tokens"):
        changed("qwen2", block_bytes=2**21, kv_cache_mb=1)


def test_messages_go_through_the_chat_template(lms):
    messages = (Message("system", "Be brief."), Message("user", "Hello"))
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    lm = lms["qwen2"]
    assert lm.render(messages) == expected
    assert text(lm.stream(messages, GREEDY)) == text(lm.stream(expected, GREEDY))


def test_messages_without_a_chat_template_take_the_instruction_form(lms):
    assert (
        lms["gpt_neox"]
        .render((Message("user", "Hello"),))
        .endswith("### Instruction:\nHello\n\n### Response:")
    )


def test_bf16_is_refused_where_the_cpu_has_none(tiny, lm_cache, monkeypatch):
    monkeypatch.setattr(genai, "native_float", lambda: "f32")
    with pytest.raises(InvalidInput, match="does not compute bf16"):
        load_causal_lm(resolve(str(tiny["qwen2"])), Cpu(cache=lm_cache, precision="bf16"))


def test_a_model_that_did_not_convert_is_not_tried_again(tiny, lm_cache):
    files, cpu = resolve(str(tiny["gpt2"])), Cpu(cache=lm_cache, precision="f32")
    with pytest.raises(NotConvertible, match=r"refuses the graph of .*GPT2LMHeadModel") as first:
        load_causal_lm(files, cpu)
    gone = ModelFiles(files.id, Path("/nowhere"), files.revision)
    with pytest.raises(NotConvertible) as second:
        load_causal_lm(gone, cpu)
    assert str(first.value) == str(second.value)


def test_a_converted_model_needs_neither_torch_nor_transformers(tiny, lms, lm_cache):
    program = """
        import json, sys
        from pathlib import Path
        from rag.models.cpu import Cpu
        from rag.models.genai import load_causal_lm
        from rag.models.load import resolve
        from rag.sampling import Sampling

        folder, cache, prompt = sys.argv[1:]
        lm = load_causal_lm(resolve(folder), Cpu(cache=Path(cache), precision="f32"))
        text = "".join(lm.stream(prompt, Sampling(do_sample=False, max_new_tokens=24)))
        lm.close()
        loaded = sorted({"torch", "transformers", "nncf"} & sys.modules.keys())
        print(json.dumps([text, loaded]))
    """
    arguments = [str(tiny["qwen2"]), str(lm_cache), PROMPT]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [text(lms["qwen2"].stream(PROMPT, GREEDY)), []]
