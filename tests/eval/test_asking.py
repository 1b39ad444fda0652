"""Questions with and without what answers them, put to the real starter profile."""

from contextlib import closing

import pytest

from eval.asking import Question, check_there, pick, put
from eval.datasets import Dataset
from eval.squad import holds
from rag import collection as shelf
from rag.errors import InvalidInput
from rag.generate import LanguageModelGenerator
from rag.models.load import resolve
from rag.models.torch_lm import TorchCausalLM
from rag.sources import Source
from tests.tiny_models import llama

HATTERAS = "How far was the Cape Hatteras Lighthouse moved in 1999?"
JEDDAH = "How tall is the Jeddah Light in Saudi Arabia?"
SET = Dataset(
    "lights",
    {},
    {},
    {"q1": HATTERAS, "q2": JEDDAH, "q3": f"  {HATTERAS.upper()} ", "q4": "Why?", "q5": "Who?"},
    {
        "q1": {"american-lighthouses.md": 1, "fog-signals.md": 0},
        "q2": {"lighthouse-records.xlsx": 2},
        "q3": {"american-lighthouses.md": 1},
        "q4": {"fog-signals.md": 0},
        "q5": {"grace-darling.txt": 1},
    },
    {"q1": ["2,900 feet"], "q2": ["133"], "q3": ["2,900 feet"], "q4": ["Fog"]},
)


def test_half_are_answerable_and_no_question_comes_twice():
    """q3 is q1 in other letters, q4 has no relevant document, q5 no accepted answer."""
    picked = pick(SET, None, seed=0)
    assert sorted(question.id for question in picked) == ["q1", "q2"]
    assert sorted(question.answerable for question in picked) == [False, True]
    held_out = next(question for question in picked if not question.answerable)
    judged = {"q1": ("american-lighthouses.md",), "q2": ("lighthouse-records.xlsx",)}
    assert held_out.held_out == judged[held_out.id]


def test_the_seed_decides_which():
    texts = {f"q{n}": f"Question {n}?" for n in range(50)}
    many = Dataset("many", {}, {}, texts, {q: {"d": 1} for q in texts}, {q: ["a"] for q in texts})
    assert pick(many, 10, seed=1) == pick(many, 10, seed=1) != pick(many, 10, seed=2)
    assert sum(question.answerable for question in pick(many, 10, seed=1)) == 5


def test_more_than_there_are_is_refused():
    with pytest.raises(InvalidInput, match="lights has 2 different questions"):
        pick(SET, 3, seed=0)


def test_an_answer_is_kept_with_what_it_rests_on(lighthouse):
    row = put(lighthouse, "lighthouse", SET, Question("q1", HATTERAS))
    assert row.answerable
    assert not row.abstained
    assert holds(row.text, ["2,900 feet"])
    assert "[" not in row.text
    assert row.in_context
    assert row.cited[0].document == "american-lighthouses.md"
    assert row.sentences == row.marked == len(row.cited)
    assert 0.5 < row.support <= 1
    assert 0 < row.context_tokens <= 1500
    assert row.forced is None  # nothing was held back
    assert type(row).of(row.as_dict()) == row


TEXTS = {
    "american-lighthouses.md": "The Cape Hatteras Lighthouse was moved by 2,900 feet in 1999.",
    "boston": "Boston Light was first lit on 14 September 1716 on Little Brewster Island.",
    "darling": "Grace Darling was born at Bamburgh on 24 November 1815.",
}


def test_what_is_held_out_is_as_if_it_had_never_been_there(rag):
    """The filter gives what `Dataset.without` would: the same passages, and the same answer."""
    (held_out,) = gone = ("american-lighthouses.md",)
    for collection, left_out in (("with", ""), ("without", held_out)):
        shelf.create(rag.parts, rag.scope, collection)
        for id_, text in TEXTS.items():
            if id_ != left_out:
                rag.add(Source(id_, id_, id=id_, text=text), collection=collection)
    there = rag.ask(HATTERAS, collection="without")
    row = put(rag, "with", SET, Question("q1", HATTERAS, gone))
    assert not row.answerable
    assert not row.in_context
    assert row.forced is None
    assert row.context_tokens == sum(passage.tokens for passage in there.passages) > 0
    assert row.abstained == there.abstained
    assert row.text == there.text
    # The weights of the question's tokens know one chunk more.
    assert row.support == pytest.approx(there.support, abs=0.02)
    assert put(rag, "with", SET, Question("q1", HATTERAS)).cited[0].document == held_out


def test_an_abstention_from_what_is_there_is_asked_again_whatever_the_support(rag):
    shelf.create(rag.parts, rag.scope, "strict", settings={"least_support": 1.0})
    text = "The Cape Hatteras Lighthouse was moved by 2,900 feet."
    rag.add(Source("a", "a", id="american-lighthouses.md", text=text), collection="strict")
    row = put(rag, "strict", SET, Question("q1", HATTERAS))
    assert row.abstained
    assert row.text.startswith("I don't know")
    assert row.forced == text
    assert row.support < 1.0


def test_a_language_models_tokens_are_counted(rag, tmp_path):
    """A tiny random LM talks nonsense: wrong, but answered, and counted by its own tokenizer."""
    shelf.create(rag.parts, rag.scope, "hatteras")
    text = TEXTS["american-lighthouses.md"]
    rag.add(Source("a", "a", id="american-lighthouses.md", text=text), collection="hatteras")
    with closing(TorchCausalLM(resolve(str(llama(tmp_path / "llama"))))) as model:
        model.context_window = 4096  # random weights read nonsense at any position
        rag.parts._loaded["generator"] = LanguageModelGenerator(model, default_new_tokens=8)
        row = put(rag, "hatteras", SET, Question("q1", HATTERAS))
    assert row.in_context
    assert not row.abstained
    assert 1 <= row.completion_tokens <= 8
    assert row.prompt_tokens > row.context_tokens > 0


def test_a_relevant_document_that_is_not_there_is_named(lighthouse):
    check_there(lighthouse, "lighthouse", SET, [Question("q1", HATTERAS)])
    gone = Dataset("gone", {}, {}, {"q": "?"}, {"q": {"no.md": 1}}, {"q": ["x"]})
    with pytest.raises(InvalidInput, match=r"'no\.md', judged for question 'q', is not in"):
        check_there(lighthouse, "lighthouse", gone, [Question("q", "?")])


def test_without_accepted_answers_the_file_is_named():
    bare = Dataset("made", {}, {}, {"q": "Who?"}, {"q": {"d": 1}})
    with pytest.raises(InvalidInput, match="has no question with a relevant document") as found:
        pick(bare, None, 0)
    assert "answers.jsonl" in found.value.hint


def test_none_is_no_number_of_questions():
    judged = Dataset("x", {}, {}, {"q": "Who?"}, {"q": {"d": 1}}, {"q": ["she"]})
    with pytest.raises(InvalidInput, match="0 cannot be asked"):
        pick(judged, 0, 0)
