"""Tuning from end to end: on simulated retrieval where the truth is known, and in Ragstone."""

import json

import numpy as np
import pytest
from rich.console import Console

from eval import tune as tuning
from eval.adopt import adopt, back
from eval.choose import tuning_half
from eval.datasets import Dataset
from eval.experiments import find
from eval.tune import (
    Terms,
    check_trustworthy,
    defaults,
    show,
    tune,
    tune_collection,
    written,
)
from rag import collection as shelf
from rag.choices import Choices, choices
from rag.errors import InvalidInput, NotFound
from rag.orchestrator import Orchestrator
from rag.pace import Pace
from rag.sources import Source
from rag.types import Chunk, Hit, Scores

ASKED = {f"q{n:03d}": f"What is thing number {n}?" for n in range(140)}
CANDIDATES = 30


class Simulated:
    """Retrieval over 30 passages a question, of which the one named after it answers it.

    Scores are noise with the right one's higher: that of the retrievers by 1.5 deviations, that of
    the reranker by `quality`. Each question has a generator of its own, so that runs repeat.
    """

    name = "simulated"

    def __init__(self, quality: float, ms_each: float = 1.0) -> None:
        self.reranker = Relevance(quality)
        self._quality = quality
        self._seconds = ms_each / 1000

    def fingerprint(self):
        return {"simulated": self._quality}

    def frequencies(self, tokens):  # noqa: ARG002 - no chunk holds any
        return {}, 0

    def count_tokens(self, texts):
        return [10 for _ in texts]

    def retrieve(self, question, limit):  # noqa: ARG002 - there are fewer
        rng = generator(question)
        right = np.arange(CANDIDATES) == 0
        dense, bm25 = (rng.normal(0, 1, CANDIDATES) + 1.5 * right for _ in range(2))
        hits = [
            Hit(
                f"{question}-{at:02d}",
                Chunk(f"{question}-{at:02d}", 1, 0, "", f"{question}-{at:02d}", 0, 9, 9),
                0.0,
                Scores(dense=float(dense[at]), bm25=float(bm25[at])),
            )
            for at in rng.permutation(CANDIDATES)
        ]
        return hits, {"embed": self._seconds, "search": self._seconds}


class Relevance:
    """Relevance that knows the right passage by so many deviations."""

    id, blend = "simulated", 0.5

    def __init__(self, quality: float) -> None:
        self.pace = Pace()
        self._quality = quality

    def relevance(self, question, passages, frequencies):  # noqa: ARG002 - late interaction's
        rng = generator(f"{question} reranked")
        noise = dict(zip(range(CANDIDATES), rng.normal(0, 1, CANDIDATES), strict=True))
        ranks = [int(passage.rsplit("-", 1)[1]) for passage in passages]
        return np.array([noise[at] + self._quality * (at == 0) for at in ranks], np.float32)

    def bytes_read(self, question, passage):  # noqa: ARG002 - read once for all
        return len(passage)

    def kept(self):
        return 0

    def forget(self):
        pass


@pytest.fixture(autouse=True)
def one_depth(monkeypatch):
    """A quarter of the grid: its size changes nothing that is looked at here."""
    monkeypatch.setattr("eval.tune.DEPTHS", (10,))


def generator(text: str) -> np.random.Generator:
    return np.random.default_rng(list(text.encode()))


def judged(count: int = len(ASKED)) -> Dataset:
    asked = dict(list(ASKED.items())[:count])
    return Dataset("things", {}, {}, asked, {q: {f"{t}-00": 1} for q, t in asked.items()})


def test_a_reranker_whose_scores_are_noise_is_given_up(tmp_path):
    """Present settings rerank 20 by it: going without is better on both halves."""
    source = Simulated(quality=0.0)
    found = tune(judged(), source, Choices("dbsf"), Terms(), home=tmp_path, progress=False)
    assert found.chosen.choices.rerank_limit == 0
    assert found.p > 0.05
    assert found.passed
    assert found.settings["rerank_limit"] == 0
    assert "rerank_blend" not in found.settings


def test_a_reranker_that_knows_is_used_and_proven_on_the_other_half(tmp_path):
    source = Simulated(quality=5.0)
    none = Choices("dbsf", rerank_limit=0)
    found = tune(judged(), source, none, Terms(), home=tmp_path, progress=False)
    assert found.settings["rerank_limit"] == 10
    assert found.passed
    assert all(gate.lower > 0.1 for gate in found.gates)
    rows = {row.title: row for row in found.rows}
    assert rows["chosen"].held_out.mean > rows["no reranking"].held_out.mean + 0.1
    assert rows["present settings"].system.choices == Choices(
        "dbsf", rerank_limit=0, rerank_blend=0.5
    )


def test_without_proof_nothing_is_written(tmp_path):
    """A margin below 0 asks for a gain that reranking by noise cannot give."""
    source = Simulated(quality=0.0)
    terms = Terms(margin=-0.2)
    found = tune(judged(), source, Choices("dbsf"), terms, home=tmp_path, progress=False)
    assert not found.passed
    assert found.settings == {}


def test_what_takes_too_long_is_not_on_offer(tmp_path):
    """Embedding and searching take 2 ms by the simulated clock, whatever reranking does."""
    source = Simulated(quality=5.0)
    terms = Terms(budget_ms=2.0001, percentile=0)
    found = tune(judged(), source, Choices("dbsf"), terms, home=tmp_path, progress=False)
    assert found.chosen.choices.rerank_limit == 0
    assert found.chosen.choices.rerank_limit == found.settings.get("rerank_limit", 0)
    with pytest.raises(InvalidInput, match="2 ms without any reranking, the budget is 1 ms"):
        tune(judged(), source, Choices("dbsf"), Terms(budget_ms=1), home=tmp_path, progress=False)


def test_the_experiment_keeps_the_whole_grid_and_the_models_are_asked_once(tmp_path, monkeypatch):
    source = Simulated(quality=5.0)
    first = tune(judged(), source, Choices("dbsf"), Terms(), home=tmp_path, progress=False)
    lines = (first.experiment.folder / "grid.jsonl").read_text().splitlines()
    assert len(lines) == 11 * (1 + 6) + 2  # with the fixed defaults and the present settings
    rows = [json.loads(line) for line in lines]
    assert {"nDCG@10", "ms", "fusion", "rerank_limit"} <= set(rows[0])
    about = find(first.experiment.id, tmp_path).about()
    assert about["kind"] == "tune"
    assert about["settings"] == first.settings
    questions, values = first.experiment.values()
    mine = tuning_half(ASKED, 0)
    held_out = [
        v for q, v in zip(questions, values["chosen"]["nDCG@10"], strict=True) if q not in mine
    ]
    assert np.mean(held_out) == next(r for r in first.rows if r.title == "chosen").held_out.mean

    asked = []
    monkeypatch.setattr(Relevance, "relevance", lambda *_: asked.append(1) or np.zeros(20))
    again = tune(
        judged(), source, Choices("dbsf"), Terms(budget_ms=1e6), home=tmp_path, progress=False
    )
    assert again.chosen == first.chosen
    assert not asked, "nor is a question asked to warm the models up where none is left to time"


def test_too_few_questions_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="things has 99 different questions, tuning needs 100"):
        tune(judged(99), Simulated(1.0), Choices("dbsf"), Terms(), home=tmp_path)
    with pytest.raises(InvalidInput, match="fewer than 20 questions is chance: --least 5"):
        tune(judged(99), Simulated(1.0), Choices("dbsf"), Terms(least=5), home=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "about",
    [{"tau": 0.42}, {"self_check": {"tau": 0.42}}, {"tau": 0.42, "self_check": {"tau": 0.9}}],
)
def test_a_made_set_that_orders_systems_otherwise_is_refused(tmp_path, about):
    check_trustworthy(tmp_path)  # people wrote it
    (tmp_path / "made.json").write_text(json.dumps({"tau": 0.6}))
    check_trustworthy(tmp_path)
    (tmp_path / "made.json").write_text(json.dumps(about))
    with pytest.raises(InvalidInput, match=r"a tau of 0\.42 only, tuning needs 0\.6"):
        check_trustworthy(tmp_path)


@pytest.mark.parametrize("text", ["{}", '{"tau": null}', "no JSON", '{"tau": NaN}'])
def test_a_made_set_that_does_not_say_is_refused(tmp_path, text):
    (tmp_path / "made.json").write_text(text)
    with pytest.raises(InvalidInput, match="tau"):
        check_trustworthy(tmp_path)


def test_only_choices_that_matter_are_written():
    assert written(Choices("rrf", 0.3, rerank_limit=0, rerank_blend=0.5)) == {
        "fusion": "rrf", "rerank_limit": 0,
    }  # fmt: skip
    assert written(Choices("weighted", 0.3, rerank_limit=10, rerank_blend=0.8)) == {
        "fusion": "weighted", "dense_weight": 0.3, "rerank_limit": 10, "rerank_blend": 0.8,
    }  # fmt: skip


def test_the_defaults_are_those_of_the_settings_whatever_is_configured(monkeypatch):
    monkeypatch.setenv("RAG_FUSION", "rrf")
    assert defaults(Relevance(0)) == Choices("dbsf", rerank_limit=20, rerank_blend=0.5)
    assert defaults(None).rerank_limit == 0


def test_a_tuned_collection_goes_back_after_a_restart(tmp_path):
    before = {"fusion": "rrf", "context_tokens": 900}
    with Orchestrator.open(tmp_path, profile="starter") as rag:
        shelf.create(rag.parts, rag.scope, "c", settings={"bm25_language": "german", **before})
        assert adopt(rag, "c", {"fusion": "weighted", "dense_weight": 0.3, "rerank_limit": 0})
    with Orchestrator.open(tmp_path, profile="starter") as rag:
        found = rag.parts.catalog.collection(rag.scope, "c")
        made = choices(found, rag.parts.settings)
        assert (made.fusion, made.dense_weight, made.rerank_limit) == ("weighted", 0.3, 0)
        assert made.context_tokens == 900  # tuning said nothing of it
        same = {"fusion": "weighted", "dense_weight": 0.3, "rerank_limit": 0}
        assert not adopt(rag, "c", same)  # or there would be no way back
        assert back(rag, "c") == before
        settings = rag.parts.catalog.collection(rag.scope, "c").settings
        assert settings == {"bm25_language": "german", **before}
        with pytest.raises(NotFound, match="keeps no settings of before a tuning"):
            back(rag, "c")


@pytest.mark.parametrize("wrong", [["rrf"], {"color": 1}, {"fusion": "sum"}])
def test_what_was_before_tuning_has_to_be_choices(rag, wrong):
    with pytest.raises(InvalidInput):
        shelf.create(rag.parts, rag.scope, "c", settings={shelf.BEFORE_TUNING: wrong})


def test_a_collection_in_ragstone_is_tuned_with_its_own_models(rag, tmp_path):
    """With a margin of 1 every gate passes, so that all that is chosen is written."""
    shelf.ensure(rag.parts, rag.scope, "c")
    towns = ("Dover", "Hull", "Oban", "Deal", "Rye", "Wick")
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    queries, answers, qrels = [], [], ["query-id\tcorpus-id\tscore"]
    for year, town in enumerate(towns, start=1801):
        text = f"The ferry of {town} first sailed in {year}. Its harbour master is Ann {town}son."
        rag.add(Source(town, town, id=town, text=text), collection="c")
        for at, (asked, answer) in enumerate([
            (f"When did the ferry of {town} first sail?", str(year)),
            (f"Since which year has {town} had a ferry?", str(year)),
            (f"Who is the harbour master at {town}?", f"Ann {town}son"),
            (f"Which person is in charge of the harbour of {town}?", f"Ann {town}son"),
        ]):  # fmt: skip
            queries.append(json.dumps({"_id": f"{town}{at}", "text": asked}))
            answers.append(json.dumps({"_id": f"{town}{at}", "answers": [answer]}))
            qrels.append(f"{town}{at}\t{town}\t1")
    (folder / "queries.jsonl").write_text("\n".join(queries))
    (folder / "answers.jsonl").write_text("\n".join(answers))
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels))

    terms = Terms(budget_ms=60_000, margin=1.0, least=24)
    found = tune_collection(rag, "c", folder, terms, home=tmp_path / "kept", progress=False)
    assert found.passed
    # Two dozen questions choose how to rank, but neither a context nor a threshold.
    assert "answers are in any context, 25 needed" in found.budget.why
    assert "answerable, 25 needed" in found.threshold.why
    assert adopt(rag, "c", found.settings)
    now = choices(rag.parts.catalog.collection(rag.scope, "c"), rag.parts.settings)
    assert now.rerank_limit == found.chosen.choices.rerank_limit
    assert now.fusion == found.chosen.choices.fusion
    show(Console(), found, "c")


def test_every_option_of_the_module_reaches_the_terms(monkeypatch):
    given = ["--budget-ms", "7", "--percentile", "8", "--margin", "0.9", "--least", "30"]
    monkeypatch.setattr("sys.argv", ["tune", "f", *given, "--seed", "4", "--timed", "5"])
    assert tuning._terms(tuning._options()) == Terms(7.0, 8.0, 0.9, 30, 4, 5)


def test_what_is_said_of_reranking_follows_its_p():
    assert tuning._of_reranking(0.0048).startswith("reranking is better than going without")
    assert tuning._of_reranking(0.3).startswith("reranking is not shown to be better")
