"""Most tests count with a word tokenizer: a word or a run of marks is a token, plus two special."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rag.models.load import resolve
from rag.models.tokens import load_tokenizer
from rag.split import split_document
from rag.types import Document, Heading

WORDS = [*["red", "blue", "old", "fish", "birds", "dogs", "swim", "sing", "sleep", "far", "away"]]
SENTENCES = ("Red fish swim.", "Blue birds sing.", "Old dogs sleep.")  # 4 tokens each


@cache
def words_tokenizer() -> Tokenizer:
    names = ["[UNK]", "[CLS]", "[SEP]", ".", ">", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


@cache
def minilm_tokenizer() -> Tokenizer:
    return load_tokenizer(resolve("sentence-transformers/all-MiniLM-L6-v2").path)


def document(text, *, title="", **more):
    return Document(text=text, title=title, media_type="text/plain", **more)


def split(made, chunk_tokens, overlap=0, *, tokenizer=None, **more):
    return split_document(
        made,
        document_id="d",
        generation=3,
        tokenizer=tokenizer or words_tokenizer(),
        chunk_tokens=chunk_tokens,
        overlap=overlap,
        **more,
    )


def texts(parts):
    return [chunk.text for chunk in parts.chunks]


def test_sentences_are_packed_up_to_the_chunk_size():
    # 10 tokens less 2 special ones hold two sentences of 4.
    made = split(document(" ".join(SENTENCES)), 10, source="s", metadata={"k": 1})
    assert texts(made) == ["Red fish swim. Blue birds sing.", "Old dogs sleep."]
    assert [chunk.tokens for chunk in made.chunks] == [10, 6]
    assert [chunk.lead for chunk in made.chunks] == ["", " "]
    first = made.chunks[0]
    assert (first.document_id, first.generation, first.source) == ("d", 3, "s")
    assert first.metadata == {"k": 1}


def test_the_next_chunk_repeats_the_last_sentences_within_the_overlap():
    made = split(document(" ".join(SENTENCES)), 10, 4)
    assert texts(made) == ["Red fish swim. Blue birds sing.", "Blue birds sing. Old dogs sleep."]
    assert [chunk.lead for chunk in made.chunks] == ["", ""]
    # A sentence of 4 tokens does not fit an overlap of 3.
    assert texts(split(document(" ".join(SENTENCES)), 10, 3))[1] == "Old dogs sleep."


def test_title_and_instruction_count_toward_the_size():
    text = " ".join(SENTENCES[:2])
    assert len(split(document(text), 10).chunks) == 1
    assert [c.tokens for c in split(document(text, title="fish"), 10).chunks] == [7, 7]
    # The instruction is counted as the embedder sees it: special tokens, 1 word, text.
    made = split(document(text), 10, instruction="passage ")
    assert [(chunk.text, chunk.tokens) for chunk in made.chunks] == [(s, 7) for s in SENTENCES[:2]]


def test_token_chunks_counts_the_chunks_that_hold_a_token():
    tokenizer = words_tokenizer()
    made = split(document("Red fish swim. Red birds swim swim."), 7)  # 5 are left: one each
    assert len(made.chunks) == 2
    ids = {word: tokenizer.token_to_id(word) for word in ("fish", "birds", "swim", ".", "sing")}
    counts = {word: made.token_chunks.get(token, 0) for word, token in ids.items()}
    assert counts == {"fish": 1, "birds": 1, "swim": 2, ".": 2, "sing": 0}


def test_a_heading_opens_a_chunk_and_chunks_know_their_path():
    text = "Top\n\nRed fish swim.\n\nSub\n\nBlue birds sing.\n\nEnd\n\nOld dogs sleep."
    headings = tuple(
        Heading(text.index(title), level, title)
        for title, level in (("Top", 1), ("Sub", 2), ("End", 1))
    )
    made = split(document(text, headings=headings), 14, 4)
    assert [(chunk.text, chunk.headings) for chunk in made.chunks] == [
        ("Top\n\nRed fish swim.", ("Top",)),
        ("Sub\n\nBlue birds sing.", ("Top", "Sub")),
        ("End\n\nOld dogs sleep.", ("End",)),  # level 1 closes Top and Sub
    ]
    # special 2, path 1 or `Top > Sub` 3, text 5; nothing is repeated over a heading.
    assert [chunk.tokens for chunk in made.chunks] == [8, 10, 8]
    assert [chunk.lead for chunk in made.chunks] == ["", "\n\n", "\n\n"]


def test_a_heading_does_not_end_a_chunk():
    # Without headings both sentences and End would stand together: 2 + 4 + 1 of 8 tokens. The
    # heading goes with the text that it is about.
    text = "Red fish swim.\n\nEnd\n\nOld dogs sleep."
    made = split(document(text, headings=(Heading(text.index("End"), 1, "End"),)), 24, 0)
    assert texts(made) == [text]  # 4 tokens are too few to stand alone among 22
    made = split(document(text, headings=(Heading(text.index("End"), 1, "End"),)), 9, 0)
    assert texts(made) == ["Red fish swim.", "End\n\nOld dogs sleep."]


def test_a_heading_and_its_first_sentence_stay_within_the_size():
    # Found wanting once: the heading that was carried over and a sentence that fills a chunk alone.
    text = "Red.\n\nTop\n\nOld dogs sleep far away."
    headings = (Heading(text.index("Top"), 1, "Top"),)
    made = split(document(text, headings=headings), 9)  # room: 9 - 2 - 1 = 6, the sentence has 6
    assert all(chunk.tokens <= 9 for chunk in made.chunks)


def test_a_page_is_that_of_the_first_character():
    made = split(document("Red fish swim.\nBlue birds sing.", pages=(0, 15)), 6)
    assert [chunk.page for chunk in made.chunks] == [1, 2]
    # Page 2 begins within the only chunk, which begins on page 1. Empty pages are counted.
    made = split(document("Red fish swim.\nBlue birds sing.", pages=(0, 0, 15)), 32)
    assert [chunk.page for chunk in made.chunks] == [2]
    assert split(document("Red fish swim."), 32).chunks[0].page is None


def test_a_sentence_longer_than_a_chunk_is_cut_between_words():
    text = " ".join((WORDS * 2)[:20])
    made = split(document(text), 10)
    assert [len(chunk.text.split()) for chunk in made.chunks] == [8, 8, 4]
    assert " ".join(texts(made)) == text


def test_a_word_longer_than_a_chunk_is_cut_and_still_fits():
    word = "qzxjkvbw" * 12  # nearly a token a letter
    made = split(document(word), 32, tokenizer=minilm_tokenizer())
    assert "".join(texts(made)) == word
    assert all(chunk.tokens <= 32 for chunk in made.chunks)


def test_a_title_too_long_is_cut_with_a_warning():
    made = split(document("Red fish swim.", title="old dogs far away"), 8)
    assert made.chunks[0].title == "old dogs"  # a quarter of 8 tokens
    assert made.warnings == ("the title is embedded in part: 2 of 4 tokens",)
    assert split(document("Red fish swim.", title="old dogs"), 8).warnings == ()


def test_outer_headings_are_left_out_when_the_path_would_fill_the_chunk():
    text = "Red\n\nOld dogs far\n\nFish swim."
    headings = (Heading(0, 1, "Red"), Heading(5, 2, "Old dogs far"))
    made = split(document(text, headings=headings), 8)
    # `Red > Old dogs far` has 5 tokens, more than half of 8; without Red it has 3.
    assert made.chunks[-1].headings == ("Old dogs far",)


def test_a_text_of_white_space_has_no_chunks():
    made = split(document(" \n\n "), 32)
    assert (made.chunks, dict(made.token_chunks)) == ((), {})


@st.composite
def documents(draw):
    phrase = st.lists(st.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
    text, headings, pages = "", [], [0]
    for _ in range(draw(st.integers(0, 8))):
        if draw(st.booleans()):
            title = draw(phrase)
            headings.append(Heading(len(text), draw(st.integers(1, 3)), title))
            text += title
        else:
            sentences = draw(st.lists(phrase, min_size=1, max_size=4))
            text += " ".join(sentence.capitalize() + "." for sentence in sentences)
        text += draw(st.sampled_from(["\n", "\n\n", "\n \n"]))
        if draw(st.booleans()):
            pages.append(len(text))
    title = draw(st.one_of(st.just(""), phrase))
    return document(
        text,
        title=title,
        headings=tuple(headings),
        pages=draw(st.sampled_from([(), tuple(pages)])),
    )


def check_chunks(made, parts, chunk_tokens):
    chunks = parts.chunks
    covered = set()
    for at, chunk in enumerate(chunks):
        assert chunk.index == at
        assert chunk.text == made.text[chunk.start : chunk.end]
        assert chunk.text == chunk.text.strip() != ""
        assert chunk.tokens <= chunk_tokens
        covered.update(range(chunk.start, chunk.end))
        if chunk.page is not None:
            assert made.pages[chunk.page - 1] <= chunk.start
            assert all(start > chunk.start for start in made.pages[chunk.page :])
    assert {at for at, c in enumerate(made.text) if not c.isspace()} <= covered
    for before, after in pairwise(chunks):
        assert before.start < after.start
        assert before.end < after.end
        assert after.lead == made.text[before.end : after.start]
        assert after.lead.strip() == ""


@given(documents(), st.integers(12, 40), st.data())
@settings(max_examples=200, deadline=None)
def test_chunks_are_exact(made, chunk_tokens, data):
    overlap = data.draw(st.integers(0, chunk_tokens // 2))
    parts = split(made, chunk_tokens, overlap)
    check_chunks(made, parts, chunk_tokens)
    chunks = parts.chunks
    for chunk in chunks:
        encoded = words_tokenizer().encode(chunk.embedded_text)
        assert chunk.tokens == len(encoded.ids)
    for before, after in pairwise(chunks):
        if after.start < before.end:
            repeated = words_tokenizer().encode(
                made.text[after.start : before.end], add_special_tokens=False
            )
            assert len(repeated.ids) <= overlap
            crossed = [h for h in made.headings if after.start <= h.start <= before.end]
            assert crossed == []


@given(
    st.text(st.sampled_from("abez XQ019 .,!?-/+=\n éß日本。語ñ"), max_size=400),
    st.sampled_from([0, 8, 16]),
)
@settings(max_examples=100, deadline=None)
def test_chunks_of_noise_are_exact_with_a_real_tokenizer(text, overlap):
    made = document(text, title="Noise")
    parts = split(made, 32, overlap, tokenizer=minilm_tokenizer())
    check_chunks(made, parts, 32)


@pytest.mark.parametrize("overlap", [0, 4])
def test_splitting_repeats_itself(overlap):
    made = document(" ".join(SENTENCES * 4), title="fish")
    assert split(made, 12, overlap) == split(made, 12, overlap)
