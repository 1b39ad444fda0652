"""A set of the sample collection, by the real starter models; and what the command writes."""

import json
from collections import Counter

import pytest
from rich.console import Console
from typer.testing import CliRunner

from eval.balance import judge
from eval.collection import Shelved
from eval.datasets import Dataset, load_judgements
from eval.experiments import every
from eval.made_command import check_collection, make_collection, review
from eval.make import HELD_OUT, make
from eval.makers import (
    LM,
    Question,
    Shelf,
    by_lm,
    by_rules,
    shelf_of_collection,
    shelf_of_dataset,
    without_near_duplicates,
)
from eval.pool import LIMIT
from eval.review import REVIEW, about_made
from rag.errors import InvalidInput
from rag.generate import FixedText
from rag.parse import text_document

NAME = "lighthouse"


@pytest.fixture(scope="module")
def shelf(lighthouse):
    return shelf_of_collection(lighthouse, NAME)


@pytest.fixture(scope="module")
def made(lighthouse, shelf):
    return make(
        Shelved(lighthouse, NAME), shelf, lighthouse.parts.embedder, questions=10, show=False
    )


def test_every_question_has_its_evidence_in_its_document(shelf, made):
    assert 3 <= len(made.questions) <= 10
    for one in made.questions:
        assert one.document in shelf.ids
        assert one.relevant[0] == one.document
        assert one.evidence in " ".join(shelf.read(one.document).text.split())
    assert made.dataset("x").qrels.keys() == {one.id for one in made.questions}


def test_the_set_is_in_balance(lighthouse, made):
    """Asked again, neither retriever is ahead by more than one question."""
    source = Shelved(lighthouse, NAME)
    again = [judge(one, source.retrieve(one.text, LIMIT)[0]) for one in made.questions]
    assert abs(sum(one.difference for one in again)) <= 1
    assert not any(one.dense == one.bm25 == 1 for one in again)


def test_the_same_seed_makes_the_same_set(lighthouse, shelf, made):
    embedder = lighthouse.parts.embedder
    again = make(Shelved(lighthouse, NAME), shelf, embedder, questions=10, show=False)
    assert again == made
    first, other = (by_rules(shelf, embedder, 15, seed, show=False) for seed in (0, 1))
    assert {one.id for one in other} != {one.id for one in first}


def test_some_are_asked_again_without_their_documents(made):
    assert len(made.held_out) == -(-len(made.questions) * HELD_OUT // 1)
    assert set(made.held_out) <= {one.id for one in made.questions}


def test_near_duplicates_are_left_out_and_counted(lighthouse):
    texts = ["Who lit the lamp at Rye?", "Who lit the lamp in Rye?", "What does the ferry cost?"]
    questions = [Question(str(n), text, "span", "d", "e") for n, text in enumerate(texts)]
    left_out = Counter()
    kept = without_near_duplicates(questions, lighthouse.parts.embedder, left_out)
    assert [one.id for one in kept] == ["0", "2"]
    assert left_out == {"near-duplicate of another question": 1}
    assert without_near_duplicates([], lighthouse.parts.embedder, left_out) == []


def test_kinds_come_in_turn_and_documents_too(lighthouse, shelf):
    found = by_rules(shelf, lighthouse.parts.embedder, 60, 0, show=False)
    assert len({one.document for one in found}) == len(shelf.ids)
    assert {one.how.split(",")[0] for one in found} == {"heading", "definition", "span", "keywords"}


def test_nothing_can_be_asked_of_nothing(lighthouse):
    shelf = Shelf(["d1"], lambda _: text_document("Fog. Fog. Fog."))
    source, embedder = Shelved(lighthouse, NAME), lighthouse.parts.embedder
    with pytest.raises(InvalidInput, match="No questions in balance could be made of"):
        make(source, shelf, embedder, questions=5, show=False)


class Written:
    """A language model whose text is known; the strict reading of it is what is tested."""

    id = "written"

    def stream(self, prompt, _):
        passage = prompt[0].content.split("<passage>\n")[1].split("\n</passage>")[0]
        row = {"question": "What warned the ships?", "quote": passage[:30]}
        return FixedText([json.dumps(row), "And another one:"])


def test_a_language_model_asks_too_and_its_mistakes_are_counted():
    shelf = Shelf(["d1"], lambda _: text_document("A bell warned ships of the rock for years."))
    left_out = Counter()
    (found,) = by_lm(shelf, Written(), 5, 0, left_out, show=False)
    assert (found.how, found.document, found.evidence) == (
        LM,
        "d1",
        "A bell warned ships of the roc",
    )
    assert left_out == {"language model: no JSON": 1}


def test_passages_of_a_test_collection_are_documents():
    dataset = Dataset("x", {"a": "T", "b": ""}, {"a": "A text.", "b": " "}, {}, {})
    shelf = shelf_of_dataset(dataset)
    assert shelf.read("a").title == "T"
    assert [id_ for id_, _ in shelf.documents("", show=False)] == ["a"], "b is blank"


def test_the_command_makes_checks_and_applies_a_review(lighthouse, tmp_path):
    console = Console(record=True, width=200)
    folder = tmp_path / "set"
    made = make_collection(console, lighthouse, NAME, folder, 6, 0)
    assert len(load_judgements(folder).qrels) == len(made.questions)
    assert about_made(folder)["made_from"] == NAME
    with pytest.raises(InvalidInput, match="holds a set already"):
        make_collection(console, lighthouse, NAME, folder, 6, 0)
    check_collection(console, lighthouse, NAME, made, folder, tmp_path / "home", 0)
    assert -1 <= about_made(folder)["self_check"]["tau"] <= 1
    assert len(list(every(tmp_path / "home"))) == 1
    lines = (folder / REVIEW).read_text("utf8").splitlines()
    lines[1] = lines[1].replace("keep", "drop", 1)
    (folder / REVIEW).write_text("\n".join(lines) + "\n", "utf8")
    review(console, folder / REVIEW, folder)
    assert len(load_judgements(folder).qrels) == len(made.questions) - 1
    said = console.export_text()
    assert "it cannot say which of the two is better" in said
    assert "1 dropped" in said
    assert "self_check" not in about_made(folder)
    left = review(console, folder / REVIEW, folder)
    check_collection(console, lighthouse, NAME, left, folder, tmp_path / "home", 0)
    assert -1 <= about_made(folder)["self_check"]["tau"] <= 1, "a review can be checked as well"
    states = [one.state for one in every(tmp_path / "home")]
    assert states == ["done", "done"], "another set is another experiment"


def test_the_command_line_says_what_is_missing():
    from services.eval_command import app

    result = CliRunner().invoke(app, ["make"])
    assert isinstance(result.exception, InvalidInput)
    assert "Of which collection?" in str(result.exception)
    result = CliRunner().invoke(app, ["make", "--reviewed", "review.tsv", "--check"])
    assert "Of which collection?" in str(result.exception), "before anything is written"
