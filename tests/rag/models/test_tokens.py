import pytest

from rag.errors import ModelUnavailable
from rag.models.tokens import load_tokenizer, pad, plan_batches, tokenize, tokenize_pairs


def test_batches_hold_neighbours_in_length_within_the_budget():
    # Sorted: 9 8 | 4 4 | 1 with at most 18 padded tokens: 2 x 9, then 3 x 4 = 12 would hold the 1
    # as well, being padded to 4.
    assert plan_batches([4, 9, 1, 8, 4], 18) == [[1, 3], [0, 4, 2]]


def test_a_row_above_the_budget_is_a_batch_of_its_own():
    assert plan_batches([50, 3, 3], 10) == [[0], [1, 2]]


def test_no_rows_make_no_batches():
    assert plan_batches([], 10) == []


def test_padding_is_on_the_right():
    assert pad([[1, 2, 3], [4]], 9).tolist() == [[1, 2, 3], [4, 9, 9]]


def test_cut_texts_keep_their_special_tokens(tiny):
    tokenizer = load_tokenizer(tiny["bge"])
    (long, short) = tokenize(tokenizer, ["the ferry leaves the harbour " * 20, "the"], 16)
    assert len(long) == 16
    assert (long.tokens[0], long.tokens[-1]) == ("[CLS]", "[SEP]")
    assert short.tokens == ["[CLS]", "the", "[SEP]"]


def test_only_the_passage_of_a_pair_is_cut(tiny):
    tokenizer = load_tokenizer(tiny["bge"])
    (pair,) = tokenize_pairs(tokenizer, "the ferry", ["the harbour " * 20], 16)
    assert len(pair) == 16
    question = tokenizer.encode("the ferry", add_special_tokens=False).tokens
    assert pair.tokens[: len(question) + 2] == ["[CLS]", *question, "[SEP]"]


def test_a_long_question_is_cut_to_three_quarters(tiny):
    tokenizer = load_tokenizer(tiny["bge"])
    (pair,) = tokenize_pairs(tokenizer, "the " * 40, ["heron " * 40], 16)
    assert pair.tokens[:14] == ["[CLS]", *["the"] * 12, "[SEP]"]
    assert len(pair) == 16  # [CLS] + 12 + [SEP] + 1 of the passage + [SEP]


def test_lower_casing_comes_before_a_tokenizer_that_does_not(tiny):
    cased, lower = load_tokenizer(tiny["llama"]), load_tokenizer(tiny["llama"], lower_case=True)
    assert cased.encode("Ferry").ids != cased.encode("ferry").ids
    assert lower.encode("Ferry").ids == cased.encode("ferry").ids


def test_a_broken_tokenizer_file_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path)
