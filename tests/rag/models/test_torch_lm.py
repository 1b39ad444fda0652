import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BloomConfig, BloomForCausalLM

from rag.errors import InvalidInput, ModelUnavailable, Overloaded
from rag.models.chat import INTRO
from rag.models.load import ModelFiles
from rag.models.stream import Detokenizer
from rag.models.torch_engines import BatchLimits, ContinuousEngine, SequentialEngine, best_engine
from rag.models.torch_lm import TorchCausalLM
from rag.sampling import Sampling
from rag.types import Message, Usage
from tests import tiny_models

LMS = ("qwen2", "llama", "gpt_neox", "gpt2")
PROMPT = "The ferry leaves"
GREEDY = Sampling(do_sample=False, max_new_tokens=24)


def files(folder):
    return ModelFiles(str(folder), folder, "")


def load(folder, *, continuous=False, **options):
    # Pages so small that every prompt takes several: what must be put together again, is.
    limits = BatchLimits(page_tokens=8)
    options = {"limits": limits, "device": "cpu", "continuous": continuous} | options
    return TorchCausalLM(files(folder), **options)


@pytest.fixture(scope="module", params=[False, True], ids=["sequential", "continuous"])
def continuous(request):
    """Both engines are held to the same answers."""
    return request.param


@pytest.fixture(scope="module")
def lms(tiny, continuous):
    loaded = {name: load(tiny[name], continuous=continuous) for name in LMS}
    yield loaded
    for lm in loaded.values():
        lm.close()


@pytest.fixture
def lm(tiny, continuous):
    """A model of the test's own, whose forward passes it may count and hold up."""
    loaded = load(tiny["qwen2"], continuous=continuous)
    yield loaded
    loaded.close()


@pytest.fixture
def one_by_one(tiny):
    loaded = load(tiny["qwen2"])
    yield loaded
    loaded.close()


@pytest.fixture
def together(tiny):
    loaded = load(tiny["qwen2"], continuous=True)
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


def test_unset_values_come_from_the_models_own_configuration(tiny, tmp_path, continuous):
    folder = shutil.copytree(tiny["qwen2"], tmp_path / "model")
    own = {
        "do_sample": True, "temperature": 1.3, "top_k": 7, "top_p": 0.8, "min_p": 0.01,
        "repetition_penalty": 1.2, "eos_token_id": 0, "max_new_tokens": 18,
    }  # fmt: skip
    (folder / "generation_config.json").write_text(json.dumps(own), "utf-8")
    lm = load(folder, continuous=continuous)
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
    lm._engine._model.register_forward_hook(lambda *_: calls.append(1))
    return calls


def hold_at(lm, call):
    """Make the model wait within its n-th forward pass: (calls, it is there, let it go on)."""
    calls, reached, release = [], threading.Event(), threading.Event()

    def hook(*_):
        calls.append(1)
        if len(calls) == call:
            reached.set()
            assert release.wait(10)

    lm._engine._model.register_forward_hook(hook)
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


def test_a_request_that_waits_can_be_closed_at_once(one_by_one):
    lm = one_by_one
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

    hook = lm._engine._model.register_forward_hook(fail)
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

    lm._engine._model.register_forward_hook(hook)


@pytest.mark.parametrize(("name", "end"), [("qwen2", "<|endoftext|>"), ("gpt_neox", "### End")])
def test_the_end_token_ends_the_answer_and_is_not_shown(tiny, continuous, name, end):
    form = "dolly" if name == "gpt_neox" else None
    lm = load(tiny[name], continuous=continuous, form=form)
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


# --- requests at the same time


def cases(count):
    """Prompts and answers of different lengths, every second one drawn."""
    return [
        (
            f"{PROMPT} {'heron ' * i}",
            Sampling(1.2, 0.95, max_new_tokens=20 + i, do_sample=i % 2 == 1, seed=i),
        )
        for i in range(count)
    ]


def answers(lm, requests):
    """All in one batch, at the latest from the second forward pass on: text, end and usage."""
    _, reached, release = hold_at(lm, 1)
    streams = [lm.stream(*request) for request in requests]
    assert reached.wait(10)
    release.set()
    return [answer(stream) for stream in streams]


def answer(stream):
    return "".join(stream), stream.finish_reason, stream.usage


def alone(lm, requests):
    return [answer(lm.stream(*request)) for request in requests]


def engine_parts(lm):
    """transformers' scheduler and cache."""
    processor = lm._engine._processor
    return processor.scheduler, processor.cache


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_eight_requests_in_one_batch_answer_as_each_alone(tiny, name):
    one_by_one, together = load(tiny[name]), load(tiny[name], continuous=True)
    calls = count_calls(together)
    requests = cases(8)
    found = answers(together, requests)
    assert found == alone(one_by_one, requests)
    # Each pass makes a token of every answer that is there: all of them from the second pass on.
    longest = max(usage.completion_tokens for _, _, usage in found)
    assert longest <= len(calls) <= longest + 1 < 30
    one_by_one.close()
    together.close()


@pytest.mark.parametrize(
    "limits",
    [
        BatchLimits(page_tokens=8, batch_tokens=12),  # prompts are read in pieces
        BatchLimits(page_tokens=8, requests=2),  # the others wait
    ],
    ids=["pieces", "two at a time"],
)
def test_limits_change_no_answer(tiny, one_by_one, limits):
    together = load(tiny["qwen2"], continuous=True, limits=limits)
    widths, rows = [], []

    def look(_, __, inputs):
        widths.append(inputs["input_ids"].shape[1])
        rows.append(len(inputs["cu_seq_lens_q"]) - 1)

    together._engine._model.register_forward_pre_hook(look, with_kwargs=True)
    assert answers(together, cases(6)) == alone(one_by_one, cases(6))
    assert max(widths) <= limits.batch_tokens
    assert max(rows) == min(6, limits.requests)
    together.close()


def test_a_request_that_loses_its_place_in_a_full_cache_goes_on_later(tiny, tmp_path):
    folder = shutil.copytree(tiny["qwen2"], tmp_path / "model")
    # Needs all that was generated so far: what is lost with the place must come back.
    own = {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 9}
    (folder / "generation_config.json").write_text(json.dumps(own), "utf-8")
    limits = BatchLimits(page_tokens=16, cache_tokens=160)
    one_by_one, together = load(folder), load(folder, continuous=True, limits=limits)
    scheduler, _ = engine_parts(together)
    put_out = []
    together._engine._model.register_forward_hook(
        lambda *_: put_out.append(scheduler.block_new_requests)
    )
    # 8 x (8 to 15 prompt tokens and 20 to 27 new ones): twice what the cache holds.
    assert answers(together, cases(8)) == alone(one_by_one, cases(8))
    assert any(put_out)
    one_by_one.close()
    together.close()


def test_cancelling_one_frees_its_cache_and_lets_the_others_go_on(together):
    expected = alone(together, cases(3))  # these were "0" to "2", so "3" to "5" are next
    scheduler, cache = engine_parts(together)
    (allocator,) = cache.cache_allocators.values()
    cache.evict_cached_blocks()  # prefixes kept for later are no leak
    free = cache.compute_free_capacity()
    _, begun, all_there = hold_at(together, 1)
    _, reached, release = hold_at(together, 4)
    passes = []
    together._engine._model.register_forward_hook(
        lambda *_: passes.append((set(scheduler.active_requests), set(allocator.block_table)))
    )
    first, second, third = [together.stream(*request) for request in cases(3)]
    assert begun.wait(10)
    all_there.set()
    assert reached.wait(10)
    second.cancel()
    release.set()
    second.close()
    made = sum("4" in active for active, _ in passes[:3])  # and the fourth pass is for nothing
    assert (second.finish_reason, second.usage.completion_tokens) == ("cancelled", made)
    assert [answer(first), answer(third)] == [expected[0], expected[2]]
    assert passes[3] == ({"3", "4", "5"}, {"3", "4", "5"})
    assert passes[4] == ({"3", "5"}, {"3", "5"})
    first.close()
    third.close()
    cache.evict_cached_blocks()
    assert cache.compute_free_capacity() == free
    assert (scheduler.active_requests, scheduler.waiting_requests) == ({}, {})


def test_cancelling_while_others_were_put_out_of_the_cache_lets_those_back_in(tiny):
    # transformers lets nobody in after it has put a request out, until one finishes; a cancelled
    # one does not count there, so with nobody left to finish those put out would wait for ever.
    limits = BatchLimits(page_tokens=16, cache_tokens=96)
    lm = load(tiny["qwen2"], continuous=True, limits=limits)
    scheduler, _ = engine_parts(lm)
    requests = [(prompt, Sampling(do_sample=False, max_new_tokens=60)) for prompt, _ in cases(4)]
    expected = alone(lm, requests)
    put_out, release = threading.Event(), threading.Event()

    def wait_when_full(*_):
        if scheduler.block_new_requests and not put_out.is_set():
            put_out.set()
            assert release.wait(10)

    lm._engine._model.register_forward_hook(wait_when_full)
    streams = [lm.stream(*request) for request in requests]
    assert put_out.wait(10)
    outside = {int(name) - 4 for name in scheduler.waiting_requests}  # four ran before
    assert 0 < len(outside) < 4
    for i in set(range(4)) - outside:
        streams[i].cancel()
    release.set()
    for i in outside:
        assert "".join(streams[i]) == expected[i][0]
    lm.close()


def test_a_request_that_waits_for_a_place_in_the_batch_can_be_closed(tiny):
    lm = load(tiny["qwen2"], continuous=True, limits=BatchLimits(page_tokens=8, requests=1))
    _, reached, release = hold_at(lm, 2)
    _, _, go_on = hold_at(lm, 6)
    first = lm.stream(PROMPT, GREEDY)
    assert reached.wait(10)
    second = lm.stream(PROMPT, GREEDY)
    release.set()
    second.close()  # while the first is still in its sixth pass of 24
    assert first.finish_reason is None
    go_on.set()
    assert (second.finish_reason, second.usage.completion_tokens) == ("cancelled", 0)
    assert "".join(first)
    assert (first.finish_reason, first.usage.completion_tokens) == ("length", 24)
    lm.close()


def test_a_prompt_prefix_is_read_once(together):
    prompt = "heron " * 20
    widths = []
    together._engine._model.register_forward_pre_hook(
        lambda _, __, inputs: widths.append(inputs["input_ids"].shape[1]), with_kwargs=True
    )
    first = "".join(together.stream(prompt, GREEDY))
    count = together.count_tokens(prompt)
    assert widths[0] == count
    widths.clear()
    assert "".join(together.stream(prompt, GREEDY)) == first
    assert widths[0] <= 8  # no more than the last page of the prompt


def test_what_the_engine_raises_reaches_all_readers_and_the_next_is_served(together):
    expected = alone(together, cases(3))

    def fail(*_):
        raise RuntimeError("out of memory")

    hook = together._engine._model.register_forward_hook(fail)
    streams = [together.stream(*request) for request in cases(3)]
    for stream in streams:
        with pytest.raises(RuntimeError, match="out of memory"):
            list(stream)
    hook.remove()
    assert answers(together, cases(3)) == expected


def test_what_one_request_cannot_be_given_fails_that_one_alone(together, monkeypatch):
    expected = alone(together, cases(3))
    prepare = type(together._engine)._own_processors

    def refuse_the_second(engine, job):
        if job.config.max_new_tokens == 21:
            raise ValueError("no such processor")
        return prepare(engine, job)

    monkeypatch.setattr(type(together._engine), "_own_processors", refuse_the_second)
    first, second, third = [together.stream(*request) for request in cases(3)]
    with pytest.raises(ValueError, match="no such processor"):
        list(second)
    assert ["".join(first), "".join(third)] == [expected[0][0], expected[2][0]]


def test_closing_waits_for_every_request_and_takes_no_more(tiny, continuous):
    lm = load(tiny["qwen2"], continuous=continuous)
    streams = [lm.stream(*request) for request in cases(4)]
    lm.close()
    assert [stream.finish_reason for stream in streams] == ["length"] * 4
    assert [stream.usage.completion_tokens for stream in streams] == [20, 21, 22, 23]
    with pytest.raises(RuntimeError, match="shutdown"):
        lm.stream(PROMPT, GREEDY)


@pytest.mark.parametrize(
    ("continuous", "running"), [(False, 1), (True, 2)], ids=["sequential", "continuous"]
)
def test_more_than_may_wait_are_refused_until_a_place_is_free(tiny, continuous, running):
    limits = BatchLimits(page_tokens=8, requests=2)
    lm = load(tiny["qwen2"], continuous=continuous, limits=limits, waiting=1)
    _, reached, release = hold_at(lm, 1)
    streams = [lm.stream(PROMPT, GREEDY) for _ in range(running + 1)]
    assert reached.wait(10)
    with pytest.raises(Overloaded, match=f"{running + 1} answers") as refused:
        lm.stream(PROMPT, GREEDY)
    assert 1 <= refused.value.retry_after <= 60
    assert lm.load == (running, 1)
    release.set()
    texts = {"".join(stream) for stream in streams}
    for stream in streams:
        stream.close()
    assert texts == {"".join(lm.stream(PROMPT, GREEDY))}
    lm.close()


def test_what_does_not_fit_into_the_cache_is_refused_before_it_runs(tiny):
    lm = load(tiny["qwen2"], continuous=True, limits=BatchLimits(page_tokens=8, cache_tokens=64))
    assert lm.context_window == 64  # the model alone could hold 128
    count = lm.count_tokens(PROMPT)
    with pytest.raises(InvalidInput, match=f"{count} tokens .* the 64"):
        lm.stream(PROMPT, Sampling(max_new_tokens=65 - count))
    stream = lm.stream(PROMPT, Sampling(max_new_tokens=64 - count, do_sample=False))
    assert "".join(stream)
    assert stream.usage.completion_tokens == 64 - count
    lm.close()


# --- which engine


def test_a_cpu_answers_one_after_another_unless_asked_otherwise(tiny):
    lm = load(tiny["qwen2"], continuous=None)
    assert isinstance(lm._engine, SequentialEngine)
    lm.close()


def tiny_bloom(_):
    sizes = {"vocab_size": 64, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    return BloomForCausalLM(BloomConfig(**sizes))


def eager(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")


def guided(folder):
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.generation_config.guidance_scale = 1.5
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        # ALiBi in its own attention code: the paged cache would be ignored without a word.
        (tiny_bloom, "its attention cannot read a paged cache"),
        (eager, "its attention is eager, not sdpa"),
        (guided, "guidance_scale takes a second forward pass"),
    ],
)
def test_what_cannot_be_batched_runs_one_after_another_and_the_log_says_why(
    tiny, caplog, build, reason
):
    model = build(tiny["llama"])
    with pytest.raises(ModelUnavailable, match=f"cannot be batched: {reason}"):
        ContinuousEngine(model, model.generation_config, 128, BatchLimits())
    engine = best_engine(model, model.generation_config, 128, BatchLimits())
    assert isinstance(engine, SequentialEngine)
    assert reason in caplog.text
    engine.close()


def test_the_best_engine_is_the_continuous_one(tiny, caplog):
    model = AutoModelForCausalLM.from_pretrained(tiny["gpt_neox"])
    engine = best_engine(model, model.generation_config, 128, BatchLimits())
    assert isinstance(engine, ContinuousEngine)
    assert caplog.records == []
    engine.close()


def test_no_memory_for_the_cache_is_said_at_the_start(tiny):
    limits = BatchLimits(page_tokens=8, memory_share=1e-9)
    with pytest.raises(ModelUnavailable, match="cannot be batched: Memory footprint"):
        load(tiny["qwen2"], continuous=True, limits=limits)
