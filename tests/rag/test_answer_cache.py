"""Answers given again: to the same question of the same documents, and to nothing else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag import collection as shelf
from rag.answer_cache import AnswerCache, Kept, key_of
from rag.generate import LanguageModelGenerator
from rag.models.load import resolve
from rag.models.torch_lm import TorchCausalLM
from rag.orchestrator import Orchestrator
from rag.prove import delete_proved
from rag.question import Asked
from rag.sampling import Sampling
from rag.sources import Source
from rag.types import Answer, Message, Scope, Usage
from tests.tiny_models import llama

NOTE = "from the answer cache"
ASKED = "When was the Bell Rock Lighthouse first lit?"


@pytest.fixture(scope="module")
def caching(tmp_path_factory, lighthouse):
    """Ragstone with an answer cache and the models that are loaded already."""
    data = tmp_path_factory.mktemp("caching")
    with Orchestrator.open(data, profile="starter", answer_cache=50) as opened:
        for name in ("embedder", "reranker", "generator", "late interaction"):
            getattr(lighthouse.parts, name.replace(" ", "_"))
            opened.parts._loaded[name] = lighthouse.parts._loaded[name]
        yield opened


@pytest.fixture
def shelved(caching):
    shelf.ensure(caching.parts, caching.scope, "default")
    for number in range(3):
        add(caching, number, 1811)
    yield caching
    shelf.drop(caching.parts, caching.scope, "default")
    caching.parts.answers.forget()


def add(rag, number, year, name="Bell Rock"):
    text = f"The {name} Lighthouse was first lit in {year}. It is the tower of note {number}."
    rag.add(Source(name=f"n{number}", origin=f"n{number}", id=f"n{number}", text=text))


def cached(answer: Answer) -> bool:
    return any(note.startswith(NOTE) for note in answer.notes)


def test_the_same_question_is_answered_again(shelved):
    first = shelved.ask(ASKED)
    second = shelved.ask(f"  {ASKED.upper()} ")
    assert (cached(first), cached(second)) == (False, True)
    assert (second.text, second.citations, second.hits) == (
        first.text, first.citations, first.hits,
    )  # fmt: skip


def test_an_answer_that_is_given_again_is_traced(shelved):
    first, second = shelved.ask(ASKED), shelved.ask(ASKED)
    assert first.trace_id != second.trace_id
    traces = [shelved.parts.traces.trace(shelved.scope, one.trace_id) for one in (first, second)]
    assert traces[1].candidates == traces[0].candidates
    assert any(note.startswith(NOTE) for note in traces[1].answer.notes)
    shelved.delete("n0")  # whose text it holds
    assert shelved.parts.traces.rows(shelved.scope) == []


@pytest.mark.parametrize(
    ("question", "near"),
    [
        ("When was the Bell Rock Lighthouse lit first?", True),
        ("When was the Fastnet Lighthouse first lit?", False),  # another name
        ("Where was the Bell Rock Lighthouse first lit?", False),  # another question word
        ("When was the Bell Rock Lighthouse last lit?", False),  # the opposite
        ("When was the Bell Rock Lighthouse not first lit?", False),
    ],
)
def test_a_near_question_is_one_that_asks_the_same(shelved, question, near):
    shelved.ask(ASKED)
    answer = shelved.ask(question)
    assert cached(answer) is near
    if near:
        assert answer.question == question
        # Somebody else may have asked it before, in words that are theirs.
        assert ASKED not in repr(
            [answer, shelved.parts.traces.trace(shelved.scope, answer.trace_id)]
        )


@pytest.mark.parametrize(
    "more",
    [
        {"filter": {"document_id": "n1"}},
        {"limit": 1},
        {"instead": {"rerank_limit": 0}},
        {"sampling": Sampling(seed=4)},
        {"history": [Message("user", "Who lit Fastnet?"), Message("assistant", "Nobody.")]},
    ],
)
def test_other_parameters_are_another_key(shelved, more):
    shelved.ask(ASKED)
    assert not cached(shelved.ask(ASKED, **more))
    assert cached(shelved.ask(ASKED, **more))


def test_another_tenant_and_another_prompt_are_another_key(shelved):
    found = shelved.parts.catalog.collection(shelved.scope, "default")
    quote = shelved.parts.generator_for(found)
    key = key_of(shelved.scope, Asked(ASKED), (), found, quote)
    others = [
        key_of(Scope("other"), Asked(ASKED), (), found, quote),
        key_of(Scope("default", frozenset({"staff"})), Asked(ASKED), (), found, quote),
        key_of(shelved.scope, Asked(ASKED), (), replace(found, system_prompt="Be brief."), quote),
        key_of(shelved.scope, Asked(ASKED), (), replace(found, version=found.version + 1), quote),
        key_of(shelved.scope, Asked(ASKED), (), replace(found, physical="x"), quote),
    ]
    assert len({key, *others}) == 6


def test_what_is_drawn_at_random_is_not_kept(shelved, tmp_path):
    found = shelved.parts.catalog.collection(shelved.scope, "default")
    lm = TorchCausalLM(resolve(str(llama(tmp_path / "llama"))))
    generator = LanguageModelGenerator(lm, default_new_tokens=4)

    def key(**sampling):
        asked = Asked(ASKED, sampling=Sampling(**sampling))
        return key_of(shelved.scope, asked, (), found, generator)

    assert key() is None
    assert key(temperature=0.7) is None
    assert key(do_sample=False) is not None
    assert key(temperature=0.7, seed=1) is not None
    lm.close()


def test_without_token_vectors_only_the_same_words_are_the_same_question(shelved):
    found = shelved.parts.catalog.collection(shelved.scope, "default")
    near = "When was the Bell Rock Lighthouse lit first?"
    assert shelved.parts.same_question_for(found)(ASKED, near)
    settings = shelved.parts.settings.model_copy(update={"embedder_url": "tei+http://127.0.0.1:1"})
    served = replace(shelved.parts, settings=settings)
    assert not served.same_question_for(found)(ASKED, near)


def test_a_proved_deletion_empties_it(shelved):
    shelved.ask(ASKED)
    proof = delete_proved(shelved.parts, shelved.scope, "default", "n0")
    (place,) = [one for one in proof.places if one.what.startswith("cached answers")]
    assert (place.before, place.after) == (1, 0)


def test_it_is_off_by_default(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    add(rag, 0, 1811)
    rag.ask(ASKED)
    assert not cached(rag.ask(ASKED))
    assert len(rag.parts.answers) == 0


def test_the_one_not_asked_for_longest_goes():
    cache = AnswerCache(2)

    def find(question):
        return cache.find("k", question, lambda: np.ones(1), 2.0, lambda *_: False)

    answer = Answer("", (), False, "", (), {}, {}, Usage(), "")
    for question in ("a", "b"):
        cache.keep("k", Kept(question, np.ones(1, np.float32), answer, None))
    assert find("a") is not None
    cache.keep("k", Kept("c", np.ones(1, np.float32), answer, None))
    assert find("b") is None
    assert find("a") is not None


STEP = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(1800, 1803)),
    st.tuples(st.just("delete"), st.integers(0, 3), st.just(0)),
    st.tuples(st.just("patch"), st.integers(0, 3), st.integers(0, 2)),
    st.tuples(st.just("ask"), st.just(0), st.just(0)),
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(STEP, min_size=4, max_size=14))
def test_whatever_happened_to_the_documents_it_answers_as_without_it(shelved, steps):
    """The same documents are asked with the cache, and past it."""
    there = {record.id for record in shelved.parts.catalog.documents(shelved.scope, "default")}
    for what, number, value in [*steps, ("ask", 0, 0), ("ask", 0, 0)]:
        name = f"n{number}"
        if what == "add":
            add(shelved, number, value)
            there.add(name)
        elif what == "delete" and name in there and len(there) > 1:
            shelved.delete(name)
            there.remove(name)
        elif what == "patch" and name in there:
            shelved.patch(name, {"title": f"Title {value}"})
        elif what == "ask":
            made, uncached = shelved.ask(ASKED), past_the_cache(shelved)
            assert (made.text, made.citations) == (uncached.text, uncached.citations)
    assert cached(made), "the last but one kept it, and nothing happened since"


def past_the_cache(rag) -> Answer:
    """The answer as it is made anew."""
    settled = rag.parts.settings
    rag.parts.settings = settled.model_copy(update={"answer_cache": 0})
    try:
        return rag.ask(ASKED)
    finally:
        rag.parts.settings = settled
