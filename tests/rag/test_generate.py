"""What a language model is given to read: never more than its window, by construction."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import collection as shelf
from rag.condense import condense
from rag.errors import InvalidInput
from rag.generate import LanguageModelGenerator, Request
from rag.models.load import resolve
from rag.models.torch_lm import TorchCausalLM
from rag.sampling import Sampling
from rag.sources import Source
from rag.types import Context, Message, Passage, Scores
from tests.tiny_models import qwen2

NEW = 4
GREEDY = Sampling(do_sample=False, max_new_tokens=NEW)
LINES = st.lists(
    st.sampled_from(["The ferry waits.", "Bread rises.", "word", "Lübeck!"]),
    min_size=1,
    max_size=30,
).map(" ".join)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    made = TorchCausalLM(resolve(str(qwen2(tmp_path_factory.mktemp("lm") / "qwen2"))))
    yield made
    made.close()


@pytest.fixture(scope="module")
def shelved(lighthouse):
    return lighthouse.parts.catalog.collection(lighthouse.scope, "lighthouse")


def passage(number: int, text: str) -> Passage:
    return Passage(
        number, f"d{number}", f"Title {number}", text, 100, 100 + len(text), len(text), None, (),
        "", Scores(),
    )  # fmt: skip


def request(collection, question="Who?", history=(), texts=()) -> Request:
    passages = tuple(passage(n, text) for n, text in enumerate(texts, 1))
    context = Context(passages, sum(one.tokens for one in passages))
    turns = tuple(
        Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(history)
    )
    return Request(question, context, lambda _: ({}, 0), GREEDY, turns, collection)


def tokens(model, messages) -> int:
    return model.count_tokens(model.render(messages))


def fixed(model, shelved) -> int:
    """Tokens of a prompt of instructions and question alone."""
    return tokens(model, LanguageModelGenerator(model, default_new_tokens=8)._messages(
        request(shelved)
    ))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, max_size=6), st.lists(LINES, max_size=4), st.integers(0, 400))
def test_the_prompt_fits_whatever_there_is(model, shelved, history, texts, more):
    window = model.context_window = fixed(model, shelved) + NEW + more
    generator = LanguageModelGenerator(model, default_new_tokens=8)
    asked = request(shelved, history=history, texts=texts)
    read = generator._fit(asked, window - NEW)
    messages = generator._messages(read)
    assert tokens(model, messages) <= window - NEW
    assert list(read.history) == list(asked.history)[len(asked.history) - len(read.history) :]
    for before, after in zip(asked.context.passages, read.context.passages, strict=False):
        assert before.text.startswith(after.text)
        assert after.end - after.start == len(after.text)
    if read.history != asked.history or read.context != asked.context:
        assert read.context.passages == asked.context.passages or not read.history, "history first"


def test_what_is_left_out_is_said(model, shelved):
    history, texts = ["The ferry waits. " * 20] * 4, ["Bread rises. " * 20] * 3
    model.context_window = fixed(model, shelved) + NEW + 100
    generator = LanguageModelGenerator(model, default_new_tokens=8)
    made = generator.answer(request(shelved, history=history, texts=texts))
    with made.stream as pieces:
        assert list(pieces)
    assert [cut.what for cut in made.cuts] == [
        "the oldest 4 messages of the history", "2 passages", "the end of passage 1",
    ]  # fmt: skip
    assert made.prompt[-1].content.count("<passage ") == 1
    assert made.context.passages[0].text in made.prompt[-1].content


def test_a_question_that_is_too_long_by_itself_is_refused(model, shelved):
    model.context_window = fixed(model, shelved) + NEW + 10
    generator = LanguageModelGenerator(model, default_new_tokens=8)
    with pytest.raises(InvalidInput, match="tokens"):
        generator.answer(request(shelved, question="The ferry waits. " * 50, texts=["Bread."]))


def test_a_follow_up_is_rewritten_within_a_small_window(model):
    history = [Message("user", "The ferry waits. " * 100), Message("assistant", "Bread. " * 400)]
    model.context_window = 300
    asked, notes = condense("Who?", history, LanguageModelGenerator(model, default_new_tokens=8))
    assert asked
    assert any("rewritten without the oldest 1 of 2 messages" in note for note in notes)


@pytest.mark.parametrize("kind", ["quote", "lm"])
def test_two_hundred_turns_do_not_fail(rag, model, kind):
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(Source(name="n", origin="n", id="n", text="The Bell Rock light was lit in 1811."))
    if kind == "lm":
        model.context_window = 2048
        rag.parts._loaded["generator"] = LanguageModelGenerator(model, default_new_tokens=8)
    history = [
        turn
        for n in range(200)
        for turn in (
            Message("user", f"How bright was the Bell Rock light in year {n}?"),
            Message("assistant", f"It was lit in 1811, the keepers wrote in year {n}."),
        )
    ]
    answer = rag.ask("When was it lit?", history=history, sampling=GREEDY)
    trace = rag.parts.traces.trace(rag.scope, answer.trace_id)
    assert any("of 400 messages of the history" in cut.what for cut in trace.answer.cuts)
    assert len(trace.asked.history) == 400
    if kind == "quote":
        assert "1811" in answer.text
        assert answer.question == "When was it lit? Bell Rock"
    else:
        assert answer.usage.prompt_tokens <= 2048 - NEW
