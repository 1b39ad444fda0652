"""`rag eval tune` as the command line calls it."""

import json
from dataclasses import replace

import pytest
from ir_measures import nDCG
from typer.testing import CliRunner

from eval.adopt import adopt
from eval.collection import Shelved, check_judged
from eval.datasets import Dataset
from eval.retrieval import evaluate
from eval.systems import standard
from rag import collection as shelf
from rag.errors import InvalidInput, NotFound
from rag.orchestrator import Orchestrator
from rag.sources import Source
from services.eval_command import app


def call(*arguments: str) -> str:
    """What a command prints. Raises what it raises."""
    done = CliRunner().invoke(app, ["tune", *arguments], catch_exceptions=False)
    return done.output


def test_there_has_to_be_something_to_do():
    with pytest.raises(InvalidInput, match="needs a folder with questions, or --back and none"):
        call("c")
    with pytest.raises(InvalidInput, match="or --back and none"):
        call("c", "folder", "--back")


def test_back_returns_to_what_was_before_and_says_what(tmp_path):
    where = ("--data", str(tmp_path), "--profile", "starter")
    with Orchestrator.open(tmp_path, profile="starter") as rag:
        shelf.create(rag.parts, rag.scope, "c", settings={"fusion": "rrf"})
        assert adopt(rag, "c", {"fusion": "weighted", "rerank_limit": 0})
    assert '{"fusion": "rrf"}' in call("c", "--back", *where)
    with Orchestrator.open(tmp_path, profile="starter") as rag:
        found = rag.parts.catalog.collection(rag.scope, "c")
        assert dict(found.settings) == {"fusion": "rrf"}
    with pytest.raises(NotFound, match="keeps no settings of before a tuning"):
        call("c", "--back", *where)


def test_too_few_questions_are_refused_before_anything_is_asked(tmp_path):
    with Orchestrator.open(tmp_path / "data", profile="starter") as rag:
        shelf.create(rag.parts, rag.scope, "c")
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "Who?"}))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    where = ("--data", str(tmp_path / "data"), "--profile", "starter", "--out", str(tmp_path))
    with pytest.raises(InvalidInput, match="has 1 different questions, tuning needs 100"):
        call("c", str(folder), *where)
    (folder / "made.json").write_text(json.dumps({"tau": 0.31}))
    with pytest.raises(InvalidInput, match=r"a tau of 0\.31 only"):
        call("c", str(folder), "--write", *where)


def test_judgements_of_another_collection_are_refused_not_counted_as_failures(tmp_path):
    with Orchestrator.open(tmp_path, profile="starter") as rag:
        shelf.create(rag.parts, rag.scope, "c")
        rag.add(Source(name="a", origin="a", id="a b", text="The heron wades."), collection="c")
        judged = Dataset("j", {}, {}, {"q": "What wades?"}, {"q": {"a b": 1, "gone": 1, "x": 0}})
        assert check_judged(rag, "c", judged).startswith("1 of 2 relevant documents are not in c")
        whole = replace(judged, qrels={"q": {"a b": 1}})
        assert check_judged(rag, "c", whole) == ""
        with pytest.raises(InvalidInput, match="holds none of the 1 documents that j judges"):
            check_judged(rag, "c", replace(judged, qrels={"q": {"gone": 1}}))
        _, rows = evaluate(whole, Shelved(rag, "c"), standard(0.5, ()), [nDCG @ 10], tmp_path)
    assert {row.quality["nDCG@10"].mean for row in rows} == {1.0}, "an id with a space is no hurdle"
