import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.runs import Run, by_rank, lines_of, read_run, write_run
from rag.errors import InvalidInput


def test_a_run_comes_back_as_it_was(tmp_path):
    run = Run("bm25", {"q1": {"d1": 2.5, "d2": 1 / 3}, "q2": {"d2": -1.0}})
    write_run(tmp_path / "runs" / "bm25.trec", run)
    assert read_run(tmp_path / "runs" / "bm25.trec") == run
    lines = (tmp_path / "runs" / "bm25.trec").read_text().splitlines()
    assert lines[0] == "q1 Q0 d1 1 2.5 bm25"


ids = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=8)
scores = st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(ids, st.dictionaries(ids, scores, min_size=1, max_size=5), min_size=1))
def test_any_run_does(tmp_path_factory, rankings):
    path = tmp_path_factory.mktemp("run") / "any.trec"
    write_run(path, Run("any", rankings))
    assert read_run(path).rankings == rankings


def test_ties_are_broken_as_trec_eval_does():
    """By id backwards, so that nobody gains from the order of a file."""
    assert Run("x", {"q": {"a": 1.0, "c": 1.0, "b": 2.0}}).ordered("q") == ["b", "c", "a"]
    assert Run("x", {}).ordered("q") == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q1 Q0 d1 1 2.5\n", r"run.trec:1: a line of a run has six fields, this one has 5"),
        ("q1 Q0 d1 1 2 x\nq1 Q0 d1 2 1 x\n", r"run.trec:2: document 'd1' comes twice"),
        ("q1 Q0 d1 1 nan x\n", r"run.trec:1: 'nan' is no score"),
        ("q1 Q0 d1 1 high x\n", r"run.trec:1: 'high' is no score"),
        ("\n", r"holds no line of a run"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, said):
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        read_run(tmp_path / "run.trec")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        read_run(tmp_path / "none.trec")


def test_ids_may_hold_spaces_as_ragstones_do(tmp_path):
    run = Run("x", {"q 1": {"my report.pdf": 1.0, "b": 0.5}})
    write_run(tmp_path / "run.trec", run)
    assert all(len(line.split()) == 6 for line in (tmp_path / "run.trec").read_text().splitlines())
    assert read_run(tmp_path / "run.trec") == run


@pytest.mark.parametrize("id_", ["", "a\tb", "a\nb", "a\u00a0b", "a\u2420b"])
def test_ids_that_do_not_fit_the_format(id_):
    with pytest.raises(InvalidInput, match="cannot hold the id"):
        list(lines_of(Run("x", {"q": {id_: 1.0}})))


def test_another_encoding_is_named(tmp_path):
    (tmp_path / "run.trec").write_bytes("q1 Q0 Mühle 1 1.0 x\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="is not encoded in UTF-8"):
        read_run(tmp_path / "run.trec")


def test_a_document_ranks_where_its_best_chunk_does():
    assert by_rank(["d2", "d1", "d2", "d3"]) == {"d2": -1.0, "d1": -2.0, "d3": -3.0}
