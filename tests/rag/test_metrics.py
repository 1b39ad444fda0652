"""What is counted and timed, of real answers and real documents."""

import math
from contextlib import closing

import pytest

from rag import collection as shelf
from rag.answer_cache import AnswerCache
from rag.errors import EmptyDocument, NotFound
from rag.metrics import ANSWER_STAGES, Metrics
from rag.sources import Source
from rag.timing import Timings

BELL_ROCK = "The Bell Rock lighthouse was built by Robert Stevenson between 1807 and 1811."
QUESTION = "How many metres inland was the Cape Hatteras lighthouse moved?"


@pytest.fixture
def counted(lighthouse, monkeypatch):
    """The instruments of a test of its own, at 0, on the shared documents."""
    monkeypatch.setattr(lighthouse.parts, "metrics", Metrics())
    registry = lighthouse.parts.metrics.registry
    return lambda name, **labels: registry.get_sample_value(name, labels)


def test_an_answer_is_timed_whole_and_in_its_stages(lighthouse, counted):
    answer = lighthouse.ask(QUESTION, collection="lighthouse")
    assert counted("ragstone_answers_total", outcome="answered") == 1
    assert counted("ragstone_answer_seconds_count") == 1
    assert counted("ragstone_answer_first_token_seconds_count") == 1
    for stage in ANSWER_STAGES:
        seconds = counted("ragstone_answer_stage_seconds_sum", stage=stage)
        assert counted("ragstone_answer_stage_seconds_count", stage=stage) == 1, stage
        assert math.isclose(seconds, answer.timings[stage]), stage
    whole = counted("ragstone_answer_seconds_sum")
    assert counted("ragstone_answer_first_token_seconds_sum") <= whole
    assert sum(answer.timings.values()) <= whole
    supported = counted("ragstone_answer_sentences_total", support="supported")
    assert supported == len(answer.sentences) > 0


def test_every_value_of_a_label_is_there_from_the_beginning():
    registry = Metrics().registry
    assert registry.get_sample_value("ragstone_answers_total", {"outcome": "failed"}) == 0
    assert registry.get_sample_value("ragstone_tokens_total", {"kind": "completion"}) == 0
    Metrics()  # another one clashes with none


def test_each_end_of_an_answer_is_told_apart(lighthouse, counted):
    lighthouse.ask("What did the minister of finance say yesterday?", collection="lighthouse")
    with pytest.raises(NotFound):
        lighthouse.ask(QUESTION, collection="nowhere")
    with closing(lighthouse.stream(QUESTION, collection="lighthouse")) as events:
        next(events)
    # Whoever reads no further than the last event has the whole answer.
    with closing(lighthouse.stream(QUESTION, collection="lighthouse")) as events:
        next(event for event in events if getattr(event, "trace_id", ""))
    ends = ("answered", "abstained", "cancelled", "rejected", "overloaded", "failed")
    counts = [counted("ragstone_answers_total", outcome=end) for end in ends]
    assert counts == [1, 1, 1, 1, 0, 0]
    assert counted("ragstone_answer_seconds_count") == 2
    # The cancelled one came to its hits: these stages count, the later ones do not.
    assert counted("ragstone_answer_stage_seconds_count", stage="retrieve") == 3
    assert counted("ragstone_answer_stage_seconds_count", stage="generate") == 2


def test_what_fails_inside_is_a_failure(lighthouse, counted, monkeypatch):
    def broken(*_, **__):
        raise ValueError("a bug")

    monkeypatch.setattr("rag.orchestrator.retrieve", broken)
    with pytest.raises(ValueError, match="a bug"):
        lighthouse.ask(QUESTION, collection="lighthouse")
    assert counted("ragstone_answers_total", outcome="failed") == 1


def test_a_search_has_instruments_of_its_own(lighthouse, counted):
    found = lighthouse.search(QUESTION, collection="lighthouse")
    assert counted("ragstone_search_seconds_count") == 1
    took = counted("ragstone_search_stage_seconds_sum", stage="rerank")
    assert math.isclose(took, found.timings["rerank"])
    assert counted("ragstone_answer_stage_seconds_count", stage="rerank") == 0


def test_the_reranker_says_what_it_had_kept(lighthouse):
    (reranker,) = lighthouse.parts.loaded_rerankers()
    lighthouse.search(QUESTION, collection="lighthouse")
    hits, misses = reranker.lookups()
    lighthouse.search(QUESTION, collection="lighthouse")
    # All of it again: the question's token vectors and those of the twenty passages reranked.
    assert reranker.lookups() == (hits + 21, misses)


def test_an_answer_given_again_is_no_work(rag):
    rag.parts.settings = rag.parts.settings.model_copy(update={"answer_cache": 10})
    rag.parts.answers = AnswerCache(10)
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(Source("bell.txt", "bell.txt", text=BELL_ROCK))
    for _ in range(2):
        answer = rag.ask("Who built the Bell Rock lighthouse?")
    value = rag.parts.metrics.registry.get_sample_value
    assert value("ragstone_answer_cache_lookups_total", {"result": "miss"}) == 1
    assert value("ragstone_answer_cache_lookups_total", {"result": "hit"}) == 1
    assert value("ragstone_answers_total", {"outcome": "answered"}) == 2
    supported = value("ragstone_answer_sentences_total", {"support": "supported"})
    assert supported == len(answer.sentences) > 0
    assert value("ragstone_answer_stage_seconds_count", {"stage": "generate"}) == 1


def test_documents_are_counted_by_what_became_of_them(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    for text in (BELL_ROCK, BELL_ROCK, "Nothing of it is left."):
        rag.add(Source("bell.txt", "bell.txt", text=text))
    with pytest.raises(EmptyDocument):
        rag.add(Source("empty.txt", "empty.txt", text=" "))
    value = rag.parts.metrics.registry.get_sample_value
    for outcome in ("ingested", "replaced", "unchanged"):
        assert value("ragstone_ingest_documents_total", {"outcome": outcome}) == 1, outcome
    # The unchanged one came to no stage, the empty one to the first.
    for stage, count in {"parse": 3, "split": 2, "embed": 2, "store": 2}.items():
        assert value("ragstone_ingest_stage_seconds_count", {"stage": stage}) == count, stage


def test_waiting_for_items_is_timed_and_what_is_done_with_them_is_not():
    timings, now = Timings(), [0.0]

    def items():
        for number in range(3):
            now[0] += 2.0
            yield number

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("rag.timing.time.perf_counter", lambda: now[0])
        for _ in timings.each("embed", items()):
            with timings.stage("store"):
                now[0] += 5.0
    assert timings.seconds == {"embed": 6.0, "store": 15.0}
