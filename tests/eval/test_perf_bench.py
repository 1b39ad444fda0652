"""Sides that take turns, and Ragstone's own side on tiny models, all in real processes."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from eval.perf import bench as benches
from eval.perf import end_to_end, ingest, peers, rerank
from eval.perf.bench import QUICK, Bench, Side, variants
from eval.perf.figures import Section
from eval.perf.places import PEERS
from eval.perf.texts import Texts, load_texts
from eval.perf.workers import WorkerFailed
from rag.parts import open_parts
from rag.settings import load_settings
from tests import tiny_models

PASSAGES = tuple(f"{text} {n}" for n in range(3) for text in tiny_models.CORPUS)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Tiny models and no peer installed."""
    monkeypatch.setattr(peers, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(peers, "WORK", tmp_path / "work")
    monkeypatch.setattr(rerank, "WORK", tmp_path)
    monkeypatch.setattr(end_to_end, "WORK", tmp_path)
    monkeypatch.setattr(ingest, "WORK", tmp_path)
    monkeypatch.setenv("RAG_ENGINE", "torch")  # nothing to convert
    monkeypatch.setattr(tiny_models, "CONTEXT_WINDOW", 2048)  # for prompts with passages
    texts = Texts(PASSAGES, tuple((f"Who waits {n}?", PASSAGES[:4]) for n in range(20)), "here")
    return Bench(
        texts,
        replace(QUICK, documents=6, asked={2: 3}, new_tokens=3, candidates=4),
        2,
        Console(file=io.StringIO()),
        tiny_models.bge(tmp_path / "bge"),
        tiny_models.reranker(tmp_path / "reranker"),
        tiny_models.qwen2(tmp_path / "qwen2"),
        None,
    )


class Turns:
    """Stands for a worker where only the order of calls matters."""

    def __init__(self, fails_from: int = 99) -> None:
        self.fails_from = fails_from


def test_sides_alternate_and_one_that_fails_is_noted_and_left_out(bench):
    section, order = Section("embed"), []

    def call(side, worker, number):
        order.append((side, number))
        if number >= worker.fails_from:
            raise WorkerFailed("out of memory")
        return number

    found = bench.alternate(section, {"a": Turns(), "b": Turns(1), "c": Turns()}, "bge", call)
    assert order == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("c", 1)]
    assert found == {"a": [0, 1], "c": [0, 1]}  # one round of two is no figure
    assert [(a.side, a.why) for a in section.absent] == [("b, bge", "out of memory")]


def test_a_peer_that_is_not_installed_is_reported_with_what_to_do(bench):
    section = Section("rerank")
    with bench.opened(section, [Side("FlagReranker", "flagembedding", "rerank")]) as workers:
        assert workers == {}
    assert section.absent[0].why == "not installed: run `python -m eval.perf install flagembedding`"


@pytest.mark.usefixtures("bench")
def test_a_peer_that_does_not_install_is_reported_with_the_error():
    folder = peers.VENVS / "flagembedding"
    folder.mkdir(parents=True)
    (folder / peers.FAILED).write_text("ERROR: No matching distribution found")
    with pytest.raises(peers.PeerMissing, match="does not install: ERROR: No matching"):
        peers.python_of("flagembedding")


@pytest.mark.usefixtures("bench")
def test_changed_requirements_ask_for_a_new_install():
    folder = peers.VENVS / "fastembed"
    folder.mkdir(parents=True)
    (folder / peers.INSTALLED).write_text("\n".join(peers.requirements("fastembed")))
    assert peers.python_of("fastembed") == folder / "bin" / "python"
    (folder / peers.INSTALLED).write_text("fastembed==0.0.1")
    with pytest.raises(peers.PeerMissing, match="install fastembed"):
        peers.python_of("fastembed")


def test_every_peer_pins_what_it_installs_and_has_a_worker():
    for name in peers.NAMES:
        assert all("==" in pin for pin in peers.requirements(name)), name
        assert (PEERS / name / "worker.py").is_file()


def test_our_vectors_in_the_benchmark_are_those_of_the_package(bench, tmp_path):
    (ours, *_) = variants("embed", {"RAG_EMBEDDER": str(bench.embedder)})
    texts = list(PASSAGES[:5])
    with bench.opened(Section("embed"), [ours]) as workers:
        spent = workers["ours"].call("encode", texts=texts, save=str(tmp_path / "ours.npz"))
    assert spent["seconds"] > 0
    with np.load(tmp_path / "ours.npz") as stored:
        vectors = stored["values"]
    settings = load_settings(data=tmp_path / "data", embedder=str(bench.embedder), engine="torch")
    parts = open_parts(settings)
    np.testing.assert_allclose(vectors, parts.embedder.embed_passages(texts), atol=1e-5)
    parts.close()


def test_a_variant_with_an_unknown_setting_is_not_measured_as_if_it_had_worked(bench):
    side = Side("ours magic", peers.OURS, "embed", {}, {"RAG_MAGIC": "on"})
    section = Section("embed")
    with bench.opened(section, [side]) as workers:
        assert workers == {}
    assert "this version of Ragstone has no setting RAG_MAGIC" in section.absent[0].why


def test_end_to_end_over_http_on_tiny_models(bench, monkeypatch):
    monkeypatch.setitem(benches.VARIANTS, "pipeline", {"ours": {}})
    section = end_to_end.measure(bench)
    assert [a.side for a in section.absent] == ["LangChain", "LlamaIndex", "Haystack"]
    rows = section.rows()
    for measure in ("answer, p50", "answer, p95", "first token, p50", "throughput"):
        (figure,) = rows["2 at a time", measure]
        assert len(figure.values) == 2  # rounds
        assert min(figure.values) > 0
    # Every answer has the tokens that were asked for, or the section says which have not.
    assert not [note for note in section.notes if "other than" in note]


def test_ingestion_through_the_journal_on_tiny_models(bench, monkeypatch):
    monkeypatch.setattr(ingest, "PARAGRAPHS", 5)
    section = ingest.measure(bench)
    assert [a.side for a in section.absent] == ["LangChain", "LlamaIndex"]
    rows = section.rows()
    for workload in ("many small", "few large"):
        for measure in ("documents", "chunks", "embedder busy", "of the embedder alone"):
            (figure,) = rows[workload, measure]
            assert len(figure.values) == 2  # rounds
            assert min(figure.values) > 0
        (busy,) = rows[workload, "embedder busy"]
        assert max(busy.values) <= 100
    assert any("flip" in note for note in section.notes)  # where the time went


def test_no_question_is_put_twice(bench):
    # Each round reranks its own questions, and end to end every concurrency asks others.
    rounds = [question for number in range(3) for question, _ in bench.asked(number)]
    assert len(set(rounds)) == len(rounds) == 3 * bench.sizes.questions
    # 8 to warm up, and per round (one of them to spare) the 3 of a concurrency of 2.
    assert bench.sizes.distinct_questions(2) == 8 + 3 * 3


def test_texts_fall_back_to_the_demo_and_say_so(tmp_path):
    texts = load_texts(tmp_path, passages=200, questions=3, candidates=5)
    assert len(texts.passages) == len(set(texts.passages)) == 200
    assert len(texts.asked) == 3
    assert all(len(passages) == 5 for _, passages in texts.asked)
    assert "no retrieval sets" in texts.origin


def test_texts_come_from_the_sets_that_are_there(tmp_path):
    folder = tmp_path / "xquad-en"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "title": "T", "text": f"Text {n}."} for n in range(12)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "Which?"}')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td7\t1\n")
    texts = load_texts(tmp_path, passages=10, questions=1, candidates=6)
    assert len(texts.passages) == 10
    ((question, passages),) = texts.asked
    assert question == "Which?"
    assert "Text 7." in passages  # the right one is always among them
    assert len(passages) == len(set(passages)) == 6
