"""A small collection through the real store and models, interrupted and gone on with."""

import json
import subprocess
import sys

import numpy as np
import pytest

from eval import pool as pools
from eval.collection import SCOPE, Shelved, indexed
from eval.datasets import Dataset, write_dataset
from eval.experiments import begin, every, find
from eval.measures import parse_measures
from eval.pool import Pool
from eval.retrieval import evaluate
from eval.runs import read_run
from eval.systems import rank, standard
from eval.vectors import VectorCache
from rag import collection as shelf
from rag.errors import InvalidInput, NotFound
from rag.rerank import LateInteractionReranker
from rag.sources import Source

TEXTS = {
    "heron": "The heron is a wading bird that stands still in shallow water until a fish comes.",
    "ferry": "The ferry to the island leaves from the northern pier at noon and at six.",
    "lamp": "The lamp of the lighthouse was lit for the first time on 1 February 1811.",
    "bread": "Bread rises because yeast turns sugar into gas.",
    "fog": "In fog a horn sounds every thirty seconds to warn ships of the rocks.",
}
QUERIES = {
    "q1": "Which bird waits for fish?",
    "q2": "When does the boat to the island go?",
    "q3": "When was the light first lit?",
    "q4": "Why does dough become larger?",
}
QRELS = {"q1": {"heron": 1}, "q2": {"ferry": 1}, "q3": {"lamp": 1}, "q4": {"bread": 1}}
SMALL = Dataset("small", dict.fromkeys(TEXTS, ""), TEXTS, QUERIES, QRELS)
MEASURES = parse_measures(["nDCG@10", "R@1"])
SYSTEMS = standard(0.5, (3,))


@pytest.fixture(scope="module")
def embedder(lighthouse):
    return lighthouse.parts.embedder


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def collection(embedder, cache):
    reranker = LateInteractionReranker(embedder)
    with indexed(SMALL, embedder, reranker, cache=cache, show=False) as opened:
        yield opened


def measured(source, home, **options):
    return evaluate(SMALL, source, SYSTEMS, MEASURES, home, progress=False, **options)


def test_meaning_is_found_and_kept(collection, tmp_path):
    experiment, rows = measured(collection, tmp_path)
    quality = {row.system: row.quality["nDCG@10"].mean for row in rows}
    assert quality["dense"] == 1.0, "each question shares its meaning with one passage"
    assert quality["bm25"] < 1.0, "'boat', 'dough' and 'waits' are in no passage"
    reranked = rows[-1]
    assert set(reranked.stages) == {"embed", "search", "rerank"}
    assert reranked.ms == pytest.approx(sum(reranked.stages.values()))
    assert reranked.tokens > 0 == rows[0].tokens
    assert experiment.about()["rows"][0]["system"] == "dense"
    questions, values = experiment.values()
    assert questions == ["q1", "q2", "q3", "q4"]
    assert values["dense"]["R@1"].tolist() == [1, 1, 1, 1]
    assert read_run(experiment.run_path("dense")).ordered("q1")[0] == "heron"


def test_the_same_again_asks_nothing_and_gives_the_same(collection, tmp_path, monkeypatch):
    first, _ = measured(collection, tmp_path)
    before = (first.folder / "values.jsonl").read_bytes()
    asked = []
    monkeypatch.setattr(pools, "ask", lambda *_: asked.append(1))
    again, _ = measured(collection, tmp_path)
    assert (again, asked) == (first, [])
    assert (again.folder / "values.jsonl").read_bytes() == before


def test_other_inputs_are_another_experiment(collection, tmp_path):
    first, _ = measured(collection, tmp_path)
    other, _ = measured(collection, tmp_path, seed=1)
    assert first.id != other.id
    assert {one.id for one in every(tmp_path)} == {first.id, other.id}
    assert find(first.id[:-2], tmp_path) == first
    with pytest.raises(InvalidInput, match="may be"):
        find("retrieval-small", tmp_path)
    with pytest.raises(NotFound, match="no experiment"):
        find("retrieval-large", tmp_path)


def test_a_pass_that_was_cut_off_goes_on_behind_its_last_whole_line(collection, tmp_path):
    whole, _ = measured(collection, tmp_path / "whole")
    lines = whole.pool.read_bytes().splitlines(keepends=True)
    torn = tmp_path / "pool.jsonl"
    torn.write_bytes(b"".join(lines[:2]) + lines[2][:40])
    Pool(torn).fill(collection, QUERIES, SYSTEMS, show=False)
    kept, made = [list(Pool(path)) for path in (whole.pool, torn)]
    assert [one.query for one in made] == ["q1", "q2", "q3", "q4"]
    for a, b in zip(kept, made, strict=True):
        assert [point for point, _ in rank(a, SYSTEMS[-1])] == [
            point for point, _ in rank(b, SYSTEMS[-1])
        ]


def test_what_a_system_reranks_is_scored_and_nothing_else(collection, tmp_path):
    pool = Pool(tmp_path / "pool.jsonl")
    pool.fill(collection, {"q1": QUERIES["q1"]}, standard(0.5, (2,)), show=False)
    (one,) = pool
    assert len(one.relevance) == 2
    assert set(one.relevance) < set(one.documents)
    assert json.loads(pool.path.read_text())["tokens"] == one.tokens > 0


def test_an_index_is_built_once_and_a_torn_one_again(embedder, cache, monkeypatch):
    with indexed(SMALL, embedder, cache=cache, show=False) as opened:
        assert opened.chunks == len(TEXTS)
        counts = cache / "indexes" / opened.key / "counts.json"
    counts.unlink()
    with indexed(SMALL, embedder, cache=cache, show=False) as opened:
        hits, _ = opened.retrieve("Which bird?")
        assert hits[0].chunk.document_id == "heron"
        assert opened.store.count(SCOPE, opened.index) == len(TEXTS)
    monkeypatch.setattr("eval.collection._build", None)  # it is not built a third time
    with indexed(SMALL, embedder, cache=cache, show=False) as opened:
        assert opened.frequencies([0])[1] == len(TEXTS)


def test_vectors_are_kept_and_what_a_kill_left_is_cut_off(embedder, tmp_path, monkeypatch):
    texts = list(TEXTS.values())
    made = VectorCache(embedder, tmp_path).embed(texts[:3], show=False)
    (path,) = tmp_path.glob("*.bin")
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:100])
    opened = VectorCache(embedder, tmp_path)
    assert path.read_bytes() == whole
    found = opened.embed([*texts[3:], *texts[:3]], show=False)
    np.testing.assert_array_equal(found[-3:], made)
    assert len(path.read_bytes()) == len(whole) // 3 * 5
    monkeypatch.setattr(type(embedder), "embed_passages", None)  # nothing is computed twice
    np.testing.assert_array_equal(
        VectorCache(embedder, tmp_path).embed(texts[:3], show=False), made
    )


def test_a_users_collection_is_asked_as_it_is(rag, tmp_path):
    shelf.create(rag.parts, rag.scope, "birds")
    for name, text in TEXTS.items():
        rag.add(Source(f"{name}.txt", f"{name}.txt", id=name, text=text), collection="birds")
    source = Shelved(rag, "birds")
    before = source.fingerprint()
    _, rows = measured(source, tmp_path)
    assert rows[0].quality["nDCG@10"].mean == 1.0
    rag.delete("fog", collection="birds")
    assert source.fingerprint() != before, "other documents, other candidates"


def test_the_command(tmp_path):
    write_dataset(tmp_path / "small", SMALL)
    command = [sys.executable, "-m", "eval.retrieval", str(tmp_path / "small"), "--depth", "2",
               "--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]  # fmt: skip
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "small, 4 questions" in ran.stdout
    (experiment,) = every(tmp_path / "out")
    assert experiment.about()["versions"]["ragstone"]
    assert len(list((experiment.folder / "runs").glob("*.trec"))) == 6


def test_an_experiment_says_what_it_was_made_from(tmp_path):
    made = begin("retrieval", "A name / with signs", {"a": 1}, tmp_path)
    assert made.id.startswith("retrieval-a-name-with-signs-")
    about = made.about()
    assert about["made_from"] == {"a": 1}
    assert {"versions", "machine", "begun"} <= set(about)
    assert begin("retrieval", "A name / with signs", {"a": 1}, tmp_path) == made
