"""Which messages of a conversation are read. A token is a word here."""

from hypothesis import given
from hypothesis import strategies as st

from rag.history import recent, shortened
from rag.types import Message


def words(text: str) -> int:
    return len(text.split())


def turns(*texts: str) -> list[Message]:
    return [Message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(texts)]


def test_all_that_fits_is_read():
    history = turns("one two", "three")
    assert recent(history, 3, words) == (tuple(history), ())
    assert recent([], 3, words) == ((), ())


def test_the_oldest_are_left_out_whole_and_that_is_said():
    history = turns("one two", "three four", "five")
    kept, (cut,) = recent(history, 4, words)
    assert kept == tuple(history[1:])
    assert cut.what == "the oldest 1 of 3 messages of the history"
    assert cut.why == "the history holds 4 tokens"


def test_of_a_latest_message_that_is_too_long_the_beginning_is_read():
    kept, cuts = recent(turns("old", "a long answer of six words"), 3, words)
    assert [turn.content for turn in kept] == ["a long answer"]
    assert [cut.what for cut in cuts] == [
        "the end of the latest message of the history",
        "the oldest 1 of 2 messages of the history",
    ]


def test_no_room_at_all():
    kept, (cut,) = recent(turns("a", "b"), 0, words)
    assert kept == ()
    assert "oldest 2 of 2" in cut.what


@given(
    st.lists(st.lists(st.sampled_from(["a", "bc", "def"]), max_size=8).map(" ".join), max_size=12),
    st.integers(0, 30),
)
def test_it_never_holds_more_and_is_always_the_latest(texts, tokens):
    history = turns(*texts)
    kept, cuts = recent(history, tokens, words)
    assert sum(words(turn.content) for turn in kept) <= tokens
    latest = history[len(history) - len(kept) :]
    assert all(one.content.startswith(two.content) for one, two in zip(latest, kept, strict=True))
    assert bool(cuts) == (list(kept) != history)


@given(st.text(alphabet="ab \n", max_size=60), st.integers(0, 12))
def test_shortened_is_the_longest_beginning_of_whole_words(text, tokens):
    cut = shortened(text, tokens, words)
    assert text.startswith(cut)
    assert words(cut) == min(words(text), tokens)
    assert cut.split() == text.split()[:tokens]


def test_a_text_without_white_space_is_cut_anywhere():
    assert shortened("漢字" * 10, 3, len) == "漢字漢"
