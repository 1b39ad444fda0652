import csv

import pytest

from eval.datasets import load_judgements
from eval.make import MadeSet
from eval.makers import Question, question_id
from eval.review import REVIEW, about_made, apply_review, note, read_review, write_made
from rag.errors import InvalidInput


def question(text, document, *also):
    return Question(
        question_id(text, document), text, "span", document, f'"{text}" it says', (document, *also)
    )


QUESTIONS = [
    question("Who lit the lamp?", "d1"),
    question('What is a "weir"?', "d 2", "d1"),
    question("How deep is it?", "d3"),
]


@pytest.fixture
def folder(tmp_path):
    made = MadeSet(QUESTIONS, [QUESTIONS[1].id, QUESTIONS[2].id], {"no question": 3})
    write_made(tmp_path / "set", made, {"made_from": "towers"})
    note(tmp_path / "set", tau=0.8)
    return tmp_path / "set"


def edit(path, change):
    with path.open(encoding="utf8", newline="") as file:
        rows = list(csv.reader(file, "excel-tab"))
    change(rows)
    with path.open("w", encoding="utf-8-sig", newline="") as file:  # as spreadsheets save it
        csv.writer(file, "excel-tab").writerows(rows)


def test_a_set_is_read_as_judgements(folder):
    found = load_judgements(folder)
    assert list(found.queries.values()) == [one.text for one in QUESTIONS]
    assert found.qrels[QUESTIONS[1].id] == {"d 2": 1, "d1": 1}
    held_out = (folder / "held_out.jsonl").read_text("utf8").splitlines()
    assert len(held_out) == 2
    assert '"without": ["d 2", "d1"]' in held_out[0]
    about = about_made(folder)
    assert (about["made_from"], about["questions"], about["how"]) == ("towers", 3, {"span": 3})


def test_an_untouched_review_keeps_everything(folder):
    assert read_review(folder / REVIEW).questions == QUESTIONS


def test_a_review_drops_and_rewords_and_can_be_repeated(folder, tmp_path):
    def change(rows):
        rows[1][0] = "drop"
        rows[2][1] = "What is a weir for?"

    edit(folder / REVIEW, change)
    for _ in range(2):
        found = apply_review(folder / REVIEW, folder)
        assert (len(found.questions), found.dropped, found.reworded) == (2, 1, 1)
        judged = load_judgements(folder)
        reworded = question_id("What is a weir for?", "d 2")
        assert judged.queries[reworded] == "What is a weir for?"
        assert judged.qrels[reworded] == {"d 2": 1, "d1": 1}
        assert QUESTIONS[0].id not in judged.queries
        assert about_made(folder)["held_out"] == 2, "reworded, it is still asked without"
        assert "tau" not in about_made(folder), "that was another set's"
    apply_review(folder / REVIEW, tmp_path / "elsewhere")
    assert load_judgements(tmp_path / "elsewhere").qrels == judged.qrels


def break_line(at, value, row=1):
    return lambda rows: rows[row].__setitem__(at, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (break_line(0, "maybe"), r"review.tsv:2: the first column is keep or drop, not 'maybe'"),
        (break_line(1, " ", row=3), r"review.tsv:4: the question or its document is missing"),
        (break_line(3, "d1", row=2), r"review.tsv:3: `also relevant` is not a list"),
        (break_line(0, "decision", row=0), r"review.tsv:1: the columns must be keep, question"),
        (lambda rows: rows[2].pop(), r"review.tsv:3: a line has 7 columns, this one has 6"),
        (lambda rows: rows.append(rows[1]), r"review.tsv:5: this question is kept twice"),
        (lambda rows: rows.__delitem__(slice(1, None)), "keeps no question"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(folder, change, said):
    edit(folder / REVIEW, change)
    with pytest.raises(InvalidInput, match=said):
        read_review(folder / REVIEW)


def test_a_review_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_review(tmp_path / REVIEW)


def test_ids_that_no_line_can_hold_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="tabs or line breaks"):
        write_made(tmp_path, MadeSet([question("Who lit it?", "d\t1")], [], {}), {})


def test_a_table_in_another_encoding_is_named(folder):
    text = (folder / REVIEW).read_text("utf8")
    (folder / REVIEW).write_text(text, "utf-16")  # as "Unicode text" of a spreadsheet is
    with pytest.raises(InvalidInput, match="is not encoded in UTF-8"):
        read_review(folder / REVIEW)
