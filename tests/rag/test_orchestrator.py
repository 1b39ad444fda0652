"""The two paths, whole, with the real starter models."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from rag import collection as shelf
from rag.demo import questions
from rag.embed import Embedder
from rag.errors import InvalidInput, NotFound, StorageFull, TooLarge
from rag.generate import LanguageModelGenerator
from rag.models.load import resolve
from rag.models.torch_lm import TorchCausalLM
from rag.orchestrator import Orchestrator
from rag.sampling import Sampling
from rag.sources import Source
from rag.types import Answer, Citation, Message, Retrieved, Scope, TextPiece
from tests.tiny_models import llama

FACT = "The Bell Rock Lighthouse was first lit on the first of February 1811."
OTHER = "The Smalls Lighthouse stands on a rock west of Pembrokeshire and was painted in stripes."


def note(text: str, **more) -> Source:
    return Source(name="note.txt", origin="note.txt", id="note", text=text, **more)


@pytest.mark.parametrize("question", questions(), ids=lambda q: q.kind)
def test_the_demo_questions(lighthouse, question):
    answer = lighthouse.ask(question.question, collection="lighthouse")
    assert list(question.faults(answer)) == []
    for citation in answer.citations:
        text = lighthouse.text(citation.document_id, collection="lighthouse")
        assert text[citation.start : citation.end] == citation.quote
        assert f"[{citation.marker}]" in answer.text


def test_an_answer_says_how_it_was_made(lighthouse):
    answer = lighthouse.ask(questions()[0].question, collection="lighthouse")
    assert set(answer.timings) >= {"embed", "retrieve", "rerank", "pack", "generate", "cite"}
    assert answer.models["generator"] == "quote"
    assert answer.citations[0].scores.rerank is not None
    assert any("1500 tokens" in cut.why for cut in answer.cuts)  # 20 hits do not fit


def test_events_come_in_order_and_add_up(lighthouse):
    events = list(lighthouse.stream(questions()[0].question, collection="lighthouse"))
    kinds = [type(event) for event in events]
    assert kinds[0] is Retrieved
    assert kinds[-1] is Answer
    assert Citation in kinds
    pieces = "".join(event.text for event in events if isinstance(event, TextPiece))
    assert pieces == events[-1].text


def test_the_same_again_is_no_work_and_a_change_replaces(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    assert rag.add(note(FACT)).status == "ingested"
    assert rag.add(note(FACT)).status == "unchanged"
    assert rag.add(note(OTHER)).status == "replaced"
    index = shelf.index_of(rag.parts.catalog.collection(rag.scope, "default"))
    assert rag.parts.store.count(rag.scope, index) == 1  # the old point is gone
    hits = rag.search("Bell Rock").hits
    assert [hit.chunk.text for hit in hits] == [OTHER]


def test_metadata_and_filters(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(replace(note(FACT), id="a", metadata={"sea": "north"}))
    rag.add(replace(note(OTHER), id="b", metadata={"sea": "irish"}))
    hits = rag.search("a lighthouse on a rock", filter={"sea": "irish"}).hits
    assert [hit.chunk.document_id for hit in hits] == ["b"]


def test_a_deleted_document_is_gone_from_answers(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(note(FACT))
    assert "1811" in rag.ask("When was the Bell Rock Lighthouse first lit?").text
    rag.delete("note")
    after = rag.ask("When was the Bell Rock Lighthouse first lit?")
    assert after.abstained
    assert after.hits == ()
    with pytest.raises(NotFound):
        rag.delete("note")
    kept = [path for path in (rag.parts.settings.data / "objects").rglob("*") if path.is_file()]
    assert kept == []  # original and text are gone as well


def test_a_failing_file_stops_no_other(rag, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "good.txt").write_text(FACT)
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(bytes(range(256)) * 40)
    reports = {Path(report.source).name: report for report in rag.ingest(folder)}
    assert reports["good.txt"].status == "ingested"
    assert reports["empty.txt"].status == "failed"
    assert "empty" in reports["empty.txt"].error
    assert reports["binary.txt"].status == "failed"
    assert len(rag.parts.catalog.documents(rag.scope, "default")) == 1


def test_a_scope_sees_only_its_own(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(note(FACT))
    with pytest.raises(NotFound):
        rag.within(Scope("somebody else")).search("Bell Rock")
    with pytest.raises(NotFound):
        rag.within(Scope("default", collections=frozenset())).search("Bell Rock")


def test_a_collection_keeps_the_embedder_that_it_was_built_with(rag):
    """Another one is configured later: for new collections."""
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(note(FACT))
    built = rag.parts.embedder
    other = Embedder("other/model", built.encoder, built.preset, built.tokenizer, revision="x")
    rag.parts._loaded["embedder"] = other
    rag.parts.settings = rag.parts.settings.model_copy(update={"embedder": "other/model"})
    answer = rag.ask("When was the Bell Rock Lighthouse first lit?")
    assert (answer.models["embedder"], answer.abstained) == (built.id, False)
    rag.add(note(FACT.replace("1811", "1812")))
    assert "1812" in rag.ask("When was the Bell Rock Lighthouse first lit?").text
    made = shelf.create(rag.parts, rag.scope, "new")
    assert made.pipeline["embedder"]["id"] == "other/model"


def test_too_large_is_refused_before_any_work(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    with pytest.raises(TooLarge, match="RAG_MAX_QUESTION_CHARS"):
        rag.ask("x" * 2_000_000)
    with pytest.raises(TooLarge):
        rag.add(Source(name="big.txt", origin="big.txt", content=b"word " * 10_000_001))
    with pytest.raises(InvalidInput, match="temperature"):
        rag.ask("x", sampling=Sampling(temperature=-1))
    with pytest.raises(InvalidInput, match="empty"):
        rag.search("  ")


def test_text_in_another_language_is_warned_about(rag):
    shelf.ensure(rag.parts, rag.scope, "default")
    german = "Der Leuchtturm steht seit zweihundert Jahren auf einem Felsen vor der Küste. " * 5
    report = rag.add(note(german))
    assert any("'de'" in warning for warning in report.warnings)


def test_a_language_model_answers_from_the_same_context(rag, tmp_path):
    """A tiny random LM talks nonsense; what is checked is that it runs and nothing is invented."""
    shelf.ensure(rag.parts, rag.scope, "default")
    rag.add(note(FACT))
    model = TorchCausalLM(resolve(str(llama(tmp_path / "llama"))))
    model.context_window = 4096  # random weights read nonsense at any position
    rag.parts._loaded["generator"] = LanguageModelGenerator(model, default_new_tokens=8)
    greedy = Sampling(do_sample=False, max_new_tokens=8)
    question = "When was the Bell Rock Lighthouse first lit?"
    answer = rag.ask(question, sampling=greedy)
    again = rag.ask(question, sampling=greedy)
    assert 1 <= answer.usage.completion_tokens <= 8
    assert answer.usage.prompt_tokens > 50  # instructions and the passage were in it
    assert answer.text == again.text
    assert all(citation.quote in FACT for citation in answer.citations)
    history = [Message("user", "Hello"), Message("assistant", "Hi")]
    followed = rag.ask(question, sampling=greedy, history=history)
    assert followed.timings["condense"] > 10 * answer.timings["condense"]  # the model rewrote it


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(rag, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500m", "tmpfs", str(disk)], check=False
    )
    if mount.returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    ballast = disk / "ballast"
    try:
        with Orchestrator.open(disk / "data", profile="starter", min_free_bytes=2**26) as small:
            for name in ("embedder", "reranker", "generator", "late interaction"):
                small.parts._loaded[name] = rag.parts._loaded[name]
            shelf.ensure(small.parts, small.scope, "default")
            small.add(note(FACT))
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            ballast.write_bytes(b"\0" * (free - 2**25))
            with pytest.raises(StorageFull, match="free"):
                small.add(replace(note(OTHER), id="second"))
            assert [d.id for d in small.parts.catalog.documents(small.scope, "default")] == ["note"]
            assert "1811" in small.ask("When was the Bell Rock Lighthouse first lit?").text
        with Orchestrator.open(disk / "data", profile="starter", min_free_bytes=2**26) as small:
            small.parts._loaded["embedder"] = rag.parts._loaded["embedder"]
            with pytest.raises(StorageFull, match="free"):
                small.search("Bell Rock")  # opening the shard would write, and kill the process
        ballast.unlink()
        with Orchestrator.open(disk / "data", profile="starter", min_free_bytes=2**26) as small:
            for name in ("embedder", "reranker", "generator", "late interaction"):
                small.parts._loaded[name] = rag.parts._loaded[name]
            assert small.add(replace(note(OTHER), id="second")).status == "ingested"
            index = shelf.index_of(small.parts.catalog.collection(small.scope, "default"))
            assert small.parts.store.count(small.scope, index) == 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
