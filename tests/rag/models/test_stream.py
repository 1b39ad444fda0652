from concurrent.futures import Future

import pytest

from rag.models.stream import Detokenizer, Generation, StopFilter, TokenStream
from rag.types import Usage
from rag.work import Work, working


def utf8(ids):
    return bytes(ids).decode("utf-8", "replace")


def run(generation, ids):
    """What an engine does: push until told to stop. Returns how many tokens it made."""
    made = next((n for n, token in enumerate(ids, 1) if generation.push(token)), len(ids))
    generation.finish()
    return made


def read(generation):
    return "".join(iter(generation.pieces.get, None))


def generation(*, stops=(), end_ids=(), max_new_tokens=100):
    return Generation(utf8, stops=stops, end_ids=end_ids, max_new_tokens=max_new_tokens)


def test_pieces_are_whole_characters():
    detokenizer = Detokenizer(utf8)
    pieces = [detokenizer.push(byte) for byte in "aé€😀".encode()]
    # 1, 2, 3 and 4 bytes long: the character comes with its last byte.
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀"]


def test_bytes_that_never_become_a_character_come_at_the_end():
    detokenizer = Detokenizer(utf8)
    assert [detokenizer.push(byte) for byte in b"a\xe2\x82"] == ["a", "", ""]
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (("END",), "one END two END", "one "),
        (("END",), "one EN", "one EN"),  # only the beginning of a stop string: ordinary text
        (("END", "two"), "one two END", "one "),
        (("aab",), "aaaab", "aa"),  # the held-back "aa" slides along
        (("bcd", "c"), "abcd", "ab"),  # "c" is complete first, however the text is cut
        ((), "one", "one"),
    ],
)
def test_text_ends_before_the_first_stop_string(stops, text, expected, size):
    stop_filter = StopFilter(stops)
    shown = ""
    for start in range(0, len(text), size):
        if not stop_filter.stopped:
            shown += stop_filter.push(text[start : start + size])
            assert expected.startswith(shown)
    assert shown + stop_filter.flush() == expected
    assert stop_filter.stopped == (expected != text)


def test_generation_ends_with_the_token_that_completes_a_stop_string():
    request = generation(stops=("!?",))
    assert run(request, b"hey!?and more") == 5
    assert read(request) == "hey"
    assert (request.finish_reason, request.completion_tokens) == ("stop", 5)


def test_generation_ends_at_the_end_token_and_shows_held_back_text():
    request = generation(stops=("!?",), end_ids=(0,))
    assert run(request, b"hey!\0more") == 5
    assert read(request) == "hey!"
    assert (request.finish_reason, request.completion_tokens) == ("stop", 5)


def test_generation_ends_after_max_new_tokens_exactly():
    request = generation(max_new_tokens=3)
    assert run(request, b"abcdef") == 3
    assert read(request) == "abc"
    assert (request.finish_reason, request.completion_tokens) == ("length", 3)


def test_an_engine_that_runs_too_far_adds_nothing():
    request = generation(max_new_tokens=1)
    assert request.push(ord("a"))
    assert request.push(ord("b"))
    request.finish()
    assert (read(request), request.completion_tokens) == ("a", 1)


def test_a_cancelled_generation_takes_no_more_tokens():
    request = generation()
    assert not request.push(ord("a"))
    request.cancelled.set()
    assert request.push(ord("b"))
    request.finish()
    assert (read(request), request.finish_reason) == ("a", "cancelled")


def test_stream_reports_usage_and_reason():
    request, future = generation(), Future()
    stream = TokenStream(request, future, prompt_tokens=7, notes=("a note",))
    assert stream.finish_reason is None
    run(request, b"ab")
    request.finish_reason = "length"
    future.set_result(None)
    assert list(stream) == ["a", "b"]
    assert list(stream) == []
    assert stream.usage == Usage(7, 2)
    assert stream.notes == ("a note",)


def test_closing_a_stream_that_waits_for_its_turn_drops_it():
    request, future = generation(), Future()
    stream = TokenStream(request, future, prompt_tokens=7)
    stream.close()
    stream.close()
    assert future.cancelled()
    assert stream.finish_reason == "cancelled"
    assert list(stream) == []


def test_an_abandoned_stream_cancels_its_generation():
    request = generation()
    stream = TokenStream(request, Future(), prompt_tokens=1)
    del stream
    assert request.cancelled.is_set()


def test_a_stream_is_cancelled_with_its_work():
    """Both the one that runs and the one that waits for its turn; a reader of either goes on."""
    work, running, waiting = Work(), Future(), Future()
    running.set_running_or_notify_cancel()
    requests = generation(), generation()
    with working(work):
        streams = [
            TokenStream(request, future, prompt_tokens=7)
            for request, future in zip(requests, (running, waiting), strict=True)
        ]
    work.cancelled.set()
    assert requests[0].push(ord("a")) is True, "the engine is told with its next token"
    assert waiting.cancelled()
    assert list(streams[1]) == []
    assert streams[1].finish_reason == "cancelled"


def test_closing_a_finished_stream_keeps_its_reason():
    request, future = generation(max_new_tokens=1), Future()
    future.set_running_or_notify_cancel()
    run(request, b"a")
    future.set_result(None)
    with TokenStream(request, future, prompt_tokens=1) as stream:
        assert next(stream) == "a"
    assert stream.finish_reason == "length"


def byte_fallback(ids):
    """As SentencePiece models decode bytes: all of a run is U+FFFD for one bad byte."""
    try:
        return bytes(ids).decode()
    except UnicodeDecodeError:
        return "\ufffd" * len(ids)


def test_a_bad_byte_does_not_take_back_or_repeat_what_was_shown():
    detokenizer = Detokenizer(byte_fallback)
    assert [detokenizer.push(byte) for byte in b"\xc3\xa9\xe2"] == ["", "é", ""]
    assert detokenizer.flush() == "\ufffd"
