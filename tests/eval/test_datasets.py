import json

import pytest

from eval.datasets import (
    Dataset,
    load_dataset,
    load_judgements,
    open_dataset,
    write_dataset,
    write_judgements,
)
from rag.errors import InvalidInput, MissingExtra

SMALL = Dataset(
    "small",
    titles={"d1": "Birds", "d2": ""},
    texts={"d1": "The heron wades.", "d2": "A line\u2028 and another."},
    queries={"q1": "What wades?", "q2": "What has two lines?"},
    qrels={"q1": {"d1": 1}, "q2": {"d2": 2}},
    answers={"q1": ["heron", "The heron"]},
)


@pytest.fixture
def folder(tmp_path):
    write_dataset(tmp_path / "small", SMALL)
    return tmp_path / "small"


def test_what_is_written_is_read(folder):
    assert load_dataset(folder) == open_dataset(str(folder)) == SMALL
    assert load_dataset(folder).fingerprint() == SMALL.fingerprint()


def test_another_text_is_another_fingerprint():
    changed = {**SMALL.texts, "d1": "The heron waded."}
    other = Dataset("small", SMALL.titles, changed, SMALL.queries, SMALL.qrels, SMALL.answers)
    assert other.fingerprint() != SMALL.fingerprint()


def test_documents_are_held_out_and_their_questions_stay():
    left = SMALL.without({"d1"}, "held out")
    assert set(left.texts) == set(left.titles) == {"d2"}
    assert left.qrels == {"q1": {}, "q2": {"d2": 2}}


def append(path, line):
    path.write_text(path.read_text("utf8") + line + "\n", "utf8")


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("corpus.jsonl", "{", r"corpus.jsonl:3: this is no JSON"),
        ("corpus.jsonl", '{"_id": "d3"}', r"corpus.jsonl:3: a line needs `_id` and `text`"),
        ("corpus.jsonl", '["d3"]', r"corpus.jsonl:3: a line needs"),
        ("queries.jsonl", '{"_id": "q1", "text": "?"}', r"queries.jsonl:3: 'q1' is there twice"),
        ("answers.jsonl", '{"_id": "q2", "text": "?"}', r"answers.jsonl:2: a line needs .*answers"),
        ("qrels/test.tsv", "q1\td1", r"test.tsv:4: a line is query, document"),
        ("qrels/test.tsv", "q1\td1\thigh", r"test.tsv:4"),
        ("qrels/test.tsv", "q9\td1\t1", r"question 'q9' is judged and not in queries.jsonl"),
        ("qrels/test.tsv", "q1\td9\t1", r"'d9', judged for question 'q1', is not in"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(folder, file, line, said):
    append(folder / file, line)
    with pytest.raises(InvalidInput, match=said):
        load_dataset(folder)


def test_a_wrong_header_a_missing_file_and_another_qrels(folder):
    (folder / "qrels" / "dev.tsv").write_text("q1\td1\t1\n")
    with pytest.raises(InvalidInput, match=r"dev\.tsv:1: the header must be"):
        load_dataset(folder, "dev")
    with pytest.raises(InvalidInput, match="cannot be read") as raised:
        load_dataset(folder, "train")
    assert raised.value.hint == "There are: dev, test."
    (folder / "queries.jsonl").unlink()
    with pytest.raises(InvalidInput, match=r"queries.jsonl cannot be read"):
        load_dataset(folder)


def test_empty_lines_do_not_matter(folder):
    append(folder / "corpus.jsonl", "")
    append(
        folder / "corpus.jsonl",
        json.dumps({"_id": 3, "text": "A number for an id.", "title": None}),
    )
    assert load_dataset(folder).texts["3"] == "A number for an id."


def test_ir_datasets_is_named_where_it_is_missing():
    with pytest.raises((MissingExtra, InvalidInput), match="ir_datasets"):
        open_dataset("ir_datasets:no/such/set")


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "judges no question"),
        ("queries.jsonl", '{"_id": "q1", "text": null}\n', "queries.jsonl:1: `text` is no string"),
        ("answers.jsonl", '{"_id": "q1", "answers": "heron"}\n', "1: `answers` is no list of str"),
    ],
)
def test_judgements_of_documents_elsewhere_are_held_to_the_same(tmp_path, file, text, said):
    write_judgements(tmp_path, SMALL)
    assert load_judgements(tmp_path).answers == SMALL.answers
    (tmp_path / file).write_text(text)
    with pytest.raises(InvalidInput, match=said):
        load_judgements(tmp_path)


@pytest.mark.parametrize("file", ["queries.jsonl", "qrels/test.tsv"])
def test_a_mark_before_the_text_is_nothing_and_another_encoding_is_named(folder, file):
    """Windows' editors write the one, and some save in the other."""
    text = (folder / file).read_text("utf8")
    (folder / file).write_text(text, "utf-8-sig")
    assert load_dataset(folder) == SMALL
    (folder / file).write_text(text, "utf-16")
    with pytest.raises(InvalidInput, match="is not encoded in UTF-8"):
        load_dataset(folder)


def test_relevant_is_what_is_judged_above_zero():
    judged = Dataset("x", {}, {}, {"q": "?"}, {"q": {"b": 2, "a": 1, "c": 0, "d": -1}})
    assert judged.relevant("q") == ("a", "b")
    assert judged.relevant("unjudged") == ()
