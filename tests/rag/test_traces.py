"""Traces of answers, made by the real starter profile over real documents."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from rag import collection as shelf
from rag import traces as module
from rag.errors import InvalidInput, NotFound, StoreUnreachable
from rag.orchestrator import Orchestrator
from rag.prove import delete_proved
from rag.sampling import Sampling
from rag.sources import Source
from rag.tables import feedback, trace_documents, traces
from rag.traces import MAX_FEEDBACK_CHARS, Traces
from rag.types import Message, Scope

FACTS = {
    "bell": "The Bell Rock Lighthouse was first lit on the first of February 1811.",
    "smalls": "The Smalls Lighthouse stands on a rock west of Pembrokeshire, painted in stripes.",
    "bread": "Bread is baked from flour, water, salt and yeast in a very hot oven.",
}
ASKED = "When was the Bell Rock Lighthouse first lit?"


@pytest.fixture
def shelved(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    for name, text in FACTS.items():
        rag.add(Source(name=f"{name}.txt", origin=f"{name}.txt", id=name, text=text))
    return rag


def trace_of(rag, answer):
    return rag.parts.traces.trace(rag.scope, answer.trace_id)


def rows(rag):
    with rag.parts.database.read() as connection:
        count = sa.func.count()
        return {
            table.name: connection.execute(sa.select(count).select_from(table)).scalar_one()
            for table in (traces, trace_documents, feedback)
        }


def test_a_trace_holds_the_answer_and_all_that_was_asked(shelved):
    history = (Message("user", "Hello"), Message("assistant", "Good day."))
    answer = shelved.ask(ASKED, history=history, sampling=Sampling(seed=3), limit=2)
    kept = trace_of(shelved, answer)
    assert kept.answer == replace(answer, hits=(), passages=())
    assert kept.asked.question == ASKED
    assert kept.asked.history == history
    assert (kept.asked.sampling.seed, kept.asked.limit) == (3, 2)
    assert kept.choices.rerank_limit == shelved.parts.settings.rerank_limit
    assert kept.written == answer.text
    assert kept.fingerprints["pipeline"]["embedder"] == shelved.parts.embedder.fingerprint
    assert kept.fingerprints["reranker"].startswith("late-interaction@")
    assert kept.fingerprints["generator"] == "quote"


def test_every_candidate_says_what_became_of_it(shelved):
    answer = shelved.ask(ASKED, limit=2)
    found = trace_of(shelved, answer).candidates
    assert {one.document_id for one in found} == set(FACTS)
    assert found[0].document_id == "bell"
    assert (found[0].passage, found[0].cited, found[0].why) == (1, True, "")
    assert (found[2].passage, found[2].why) == (None, "not among the best 2")
    for one in found:
        assert one.scores.rerank is not None
        assert one.scores.fused is not None
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_reasons_name_the_stage_that_cut(shelved):
    own = {"rerank_limit": 1, "context_tokens": 64}
    texts = {f"more{n}": f"{FACTS['bell']} Keeper {n} wrote it down in the book." for n in range(9)}
    for name, text in texts.items():
        shelved.add(Source(name=f"{name}.txt", origin=f"{name}.txt", id=name, text=text))
    answer = shelved.ask(ASKED, instead=own, limit=5)
    why = [one.why for one in trace_of(shelved, answer).candidates]
    assert "the context holds 64 tokens" in why
    assert why.count("reranking reads the best 5") == 7  # of 12
    assert why.count("") >= 1


def test_an_abstention_is_traced_too(shelved):
    answer = shelved.ask("What is the capital of Mongolia?", instead={"least_support": 1.0})
    assert answer.abstained
    kept = trace_of(shelved, answer)
    assert kept.answer.abstained
    assert len(kept.candidates) == 3


def test_a_private_collection_leaves_none_and_neither_does_the_setting(shelved):
    shelf.update(shelved.parts, shelved.scope, "default", settings={"private": True})
    assert shelved.ask(ASKED).trace_id == ""
    assert rows(shelved)["traces"] == 0
    with pytest.raises(InvalidInput, match="private must be true or false"):
        shelf.update(shelved.parts, shelved.scope, "default", settings={"private": "yes"})
    shelf.update(shelved.parts, shelved.scope, "default", settings={"private": None})
    shelved.parts.settings = shelved.parts.settings.model_copy(update={"traces_kept_days": 0.0})
    assert shelved.ask(ASKED).trace_id == ""


def test_what_shows_a_document_goes_with_it(shelved):
    about_bell = shelved.ask(ASKED, limit=1)
    about_bread = shelved.ask("How is bread baked?", limit=1)
    shelved.parts.traces.say(shelved.scope, about_bell.trace_id, "up")
    shelved.delete("bell")
    with pytest.raises(NotFound, match="no trace"):
        trace_of(shelved, about_bell)
    left = trace_of(shelved, about_bread).candidates
    assert {one.document_id for one in left} == {"smalls", "bread"}, "found, and not read"
    assert rows(shelved) == {"traces": 1, "trace_documents": 2, "feedback": 0}


def test_a_proved_deletion_counts_traces(shelved):
    shelved.ask(ASKED, limit=1)
    shelved.ask("How is bread baked?", limit=1)
    proof = delete_proved(shelved.parts, shelved.scope, "default", "bell")
    (place,) = [one for one in proof.places if one.what == "traces of answers"]
    assert (place.before, place.after) == (2, 0)
    assert proof.gone


def test_a_document_deleted_while_it_is_answered_from_leaves_no_trace(shelved):
    events = shelved.stream(ASKED)
    next(events)  # found; not yet written
    shelved.delete("bell")
    *_, answer = events
    assert answer.trace_id == ""
    assert any("deleted meanwhile" in note for note in answer.notes)
    assert rows(shelved)["traces"] == 0


def test_an_answer_comes_although_its_trace_cannot_be_kept(shelved, monkeypatch):
    def away(*_):
        raise StoreUnreachable("The catalog's database does not answer.")

    monkeypatch.setattr(Traces, "keep", away)
    answer = shelved.ask(ASKED)
    assert "1811" in answer.text
    assert answer.trace_id == ""
    assert any("no trace was kept: The catalog's" in note for note in answer.notes)


def test_a_dropped_collection_takes_its_traces(shelved):
    answer = shelved.ask(ASKED)
    shelved.parts.traces.say(shelved.scope, answer.trace_id, "down")
    shelf.drop(shelved.parts, shelved.scope, "default")
    assert rows(shelved) == {"traces": 0, "trace_documents": 0, "feedback": 0}


def test_another_scope_sees_none_of_it(shelved):
    answer = shelved.ask(ASKED)
    kept = shelved.parts.traces
    for other in (Scope("other"), Scope("default", collections=frozenset())):
        assert kept.rows(other) == []
        for call in (kept.trace, kept.delete):
            with pytest.raises(NotFound):
                call(other, answer.trace_id)
        with pytest.raises(NotFound):
            kept.say(other, answer.trace_id, "up")


def test_they_are_listed_newest_first_page_by_page(shelved):
    ids = [shelved.ask(f"{ASKED} {n}").trace_id for n in range(5)]
    kept = shelved.parts.traces
    first = kept.rows(shelved.scope, limit=3)
    rest = kept.rows(shelved.scope, before=first[-1].id, limit=3)
    assert [row.id for row in (*first, *rest)] == ids[::-1]
    assert first[0].question == f"{ASKED} 4"
    kept.say(shelved.scope, ids[0], "up")
    kept.say(shelved.scope, ids[0], "down")
    assert kept.rows(shelved.scope)[-1].rating == "down", "the latest"
    assert kept.rows(shelved.scope, collection="another") == []


def test_feedback_is_tied_to_its_trace(shelved):
    answer = shelved.ask(ASKED)
    kept = shelved.parts.traces
    said = kept.say(shelved.scope, answer.trace_id, "down", correction="In 1811.", comment="Late")
    assert trace_of(shelved, answer).feedback == (said,)
    shelved.ask("How is bread baked?")  # has none
    assert [one.id for one in kept.rated(shelved.scope, "default")] == [answer.trace_id]
    long = "x" * (MAX_FEEDBACK_CHARS + 1)
    with pytest.raises(InvalidInput, match="correction has"):
        kept.say(shelved.scope, answer.trace_id, "up", correction=long)


def test_postgres_keeps_them_as_well(shelved, postgres_url):
    """The same steps, in the other database."""
    with Orchestrator.open(
        shelved.parts.settings.data.parent / "other", profile="starter", database_url=postgres_url
    ) as other:
        other.parts._loaded |= shelved.parts._loaded
        shelf.ensure(other.parts, other.scope, "default")
        for name, text in FACTS.items():
            other.add(Source(name=name, origin=name, id=name, text=text))
        about_bell = other.ask(ASKED, limit=1).trace_id
        about_bread = other.ask("How is bread baked?", limit=1).trace_id
        kept = other.parts.traces
        kept.say(other.scope, about_bread, "down", correction="In an oven.")
        listed = [(row.id, row.rating) for row in kept.rows(other.scope)]
        assert listed == [(about_bread, "down"), (about_bell, None)]
        assert [row.id for row in kept.rows(other.scope, before=about_bread)] == [about_bell]
        other.delete("bell")
        assert [row.id for row in kept.rows(other.scope)] == [about_bread]
        found = kept.trace(other.scope, about_bread)
        assert {one.document_id for one in found.candidates} == {"smalls", "bread"}
        assert found.feedback[0].correction == "In an oven."
        later = datetime.now(UTC) + timedelta(days=1)
        assert kept.forget(later, later) == 1
        other.parts._loaded.clear()  # they are the other one's to close


def test_old_ones_are_forgotten_those_with_feedback_later(shelved, monkeypatch):
    plain, rated = shelved.ask(ASKED).trace_id, shelved.ask("How is bread baked?").trace_id
    kept = shelved.parts.traces
    kept.say(shelved.scope, rated, "up")
    later = datetime.now(UTC) + timedelta(days=1)
    earlier = later - timedelta(days=400)
    assert kept.forget(earlier, earlier) == 0
    assert kept.forget(later, earlier) == 1
    assert [row.id for row in kept.rows(shelved.scope)] == [rated]
    assert kept.forget(later, later) == 1
    monkeypatch.setattr(module, "_AT_ONCE", 2)  # of a transaction
    for _ in range(5):
        shelved.ask(ASKED)
    assert kept.forget(later, later) == 5
    assert plain != rated
    assert rows(shelved) == {"traces": 0, "trace_documents": 0, "feedback": 0}
