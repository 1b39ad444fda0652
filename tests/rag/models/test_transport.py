import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from rag.errors import InvalidInput, ModelUnavailable, Overloaded
from rag.models.transport import Call, Limits, NotServed, Transport, events, retry_after
from tests.remote_models import ModelServer, answer, model_server, stall, status
from tests.remote_models import events as event_reply

KEY = "sk-very-secret"


class Time:
    """A clock that only sleeping and tests move; jitter is always a half."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def sleep(self, event, seconds):
        assert not event.is_set()
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def server():
    with model_server() as started:
        yield started


@pytest.fixture
def time():
    return Time()


def transport(url: str, time: Time, *, api_key: str = "", **limits) -> Transport:
    return Transport(
        url,
        name="generator",
        setting="RAG_GENERATOR",
        api_key=SecretStr(api_key),
        limits=Limits(**limits),
        clock=lambda: time.now,
        sleep=time.sleep,
        jitter=lambda: 0.5,
    )


@pytest.fixture
def opened(server, time):
    made = transport(server.url, time, api_key=KEY)
    yield made
    made.close()


@contextmanager
def transport_to(port: int, time: Time, **limits) -> Iterator[Transport]:
    made = transport(f"http://127.0.0.1:{port}", time, **limits)
    yield made
    made.close()


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return bound.getsockname()[1]


def test_json_goes_and_comes_with_the_key(server: ModelServer, opened):
    server.routes["/x"] = answer({"ok": [1, "é"]})
    assert opened.post("/x", {"asked": "ü"}) == {"ok": [1, "é"]}
    ((path, headers, body),) = server.requests
    assert (path, body) == ("/x", {"asked": "ü"})
    assert headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.usefixtures("server")  # which sees to it that no proxy is asked
def test_a_refused_connection_is_tried_again_and_every_retry_logged(time, caplog):
    said = pytest.raises(ModelUnavailable, match=r"cannot be reached.*check RAG_GENERATOR_URL")
    with transport_to(unused_port(), time) as opened, said:
        opened.get("/x")
    # Half of 0.5 s, then half of twice that.
    assert time.slept == [0.25, 0.5]
    logged = [record.getMessage() for record in caplog.records]
    assert [text.partition(":")[0] for text in logged] == ["Attempt 1 of 3", "Attempt 2 of 3"]
    assert logged[0].endswith("Next one in 0.25 s.")


def test_429_waits_as_long_as_the_server_asks_and_then_succeeds(server, opened, time):
    server.routes["/x"] = answer(1)
    server.fail("/x", status(429, Retry_After="3"))
    assert opened.get("/x") == 1
    assert time.slept == [3.25]  # what was asked for, and the jitter on top of it


def test_a_longer_pause_than_allowed_is_not_waited_for(server, opened, time):
    server.fail("/x", status(429, "busy", Retry_After="3600"))
    with pytest.raises(Overloaded, match="answers 429: busy") as raised:
        opened.get("/x")
    assert raised.value.retry_after == 3600
    assert (len(server.requests), time.slept) == (1, [])


def test_503_forever_ends(server, opened):
    server.routes["/x"] = status(503, "loading")
    with pytest.raises(ModelUnavailable, match="answers 503: loading"):
        opened.get("/x")
    assert len(server.requests) == 3


def test_retries_end_with_the_total_time(server, time):
    server.routes["/x"] = status(503, Retry_After="4")
    limits = {"retries": 9, "total_timeout": 10}
    said = pytest.raises(ModelUnavailable, match="answers 503")
    with transport_to(server.server_address[1], time, **limits) as opened, said:
        opened.get("/x")
    assert time.slept == [4.25, 4.5]  # a third pause would end after the ten seconds


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InvalidInput),
        (422, InvalidInput),
        (401, ModelUnavailable),
        (404, NotServed),
        (424, ModelUnavailable),
        (500, ModelUnavailable),
        (301, ModelUnavailable),
    ],
)
def test_other_answers_are_not_tried_again(server, opened, code, error):
    server.routes["/x"] = status(code, "because")
    with pytest.raises(error, match=f"answers {code}: because"):
        opened.post("/x", {})
    assert len(server.requests) == 1


def test_the_key_is_in_no_message_and_no_log(server, opened, caplog):
    caplog.set_level(logging.DEBUG)
    server.routes["/x"] = status(401, f"Incorrect key {KEY}")
    with pytest.raises(ModelUnavailable, match="RAG_GENERATOR_API_KEY") as raised:
        opened.get("/x")
    assert "Incorrect key ***" in str(raised.value)
    assert KEY not in caplog.text


def test_a_silent_server_times_out_and_is_not_asked_again(server, time):
    server.routes["/x"] = stall
    said = pytest.raises(ModelUnavailable, match=r"silent for 0\.05 s.*RAG_REMOTE_READ_TIMEOUT")
    with transport_to(server.server_address[1], time, read_timeout=0.05) as opened, said:
        opened.get("/x")
    assert len(server.requests) == 1


def test_a_server_that_drips_meets_the_total_time(server, time):
    def drip(exchange):
        exchange.start_events()
        exchange.send_raw(b"1")
        stall(exchange)

    server.routes["/x"] = drip
    with transport_to(server.server_address[1], time, total_timeout=5) as opened:
        seen = opened.stream("/x", {}, Call())
        moments = iter([1000.0] * 2 + [1006.0])  # the first byte arrives six seconds later
        opened._clock = lambda: next(moments)
        with pytest.raises(ModelUnavailable, match="took too long: 5 s in all"):
            next(seen)


@pytest.mark.parametrize("text", ["<html>", '{"a": ', ""])
def test_what_is_no_json_is_said(server, opened, text):
    server.routes["/x"] = lambda exchange: exchange.text(text)
    with pytest.raises(ModelUnavailable, match="not JSON"):
        opened.get("/x")


def test_an_answer_that_breaks_off_is_no_answer(server, opened):
    def half(exchange):
        exchange.send_response(200)
        exchange.send_header("Content-Length", "100")
        exchange.end_headers()
        exchange.wfile.write(b"[1")
        exchange.hang_up()

    server.routes["/x"] = half
    with pytest.raises(ModelUnavailable, match="broke off"):
        opened.get("/x")
    assert len(server.requests) == 1  # it had begun


def test_the_breaker_opens_probes_and_closes(server, time, caplog):
    caplog.set_level(logging.INFO)
    server.routes["/x"] = status(500)
    limits = {"breaker_failures": 2, "breaker_seconds": 30}
    with transport_to(server.server_address[1], time, **limits) as opened:
        for _ in range(2):
            with pytest.raises(ModelUnavailable, match="answers 500"):
                opened.get("/x")
        with pytest.raises(ModelUnavailable, match=r"failed 2 times in a row.*again in 30 s"):
            opened.get("/x")
        assert len(server.requests) == 2  # the third was not sent
        time.now += 30
        with pytest.raises(ModelUnavailable, match="answers 500"):
            opened.get("/x")  # the probe
        with pytest.raises(ModelUnavailable, match="again in 30 s"):
            opened.get("/x")
        time.now += 30
        server.routes["/x"] = answer("back")
        assert [opened.get("/x") for _ in range(3)] == ["back"] * 3
    assert "answers again" in caplog.text


def test_one_probe_at_a_time(server, time):
    begun, go = threading.Event(), threading.Event()

    def slow(exchange):
        begun.set()
        go.wait(20)
        exchange.json("back")

    server.routes["/x"] = slow
    server.fail("/x", status(500))
    with transport_to(server.server_address[1], time, breaker_failures=1) as opened:
        with pytest.raises(ModelUnavailable):
            opened.get("/x")
        time.now += 30
        probe = threading.Thread(target=opened.get, args=["/x"])
        probe.start()
        assert begun.wait(20)
        with pytest.raises(ModelUnavailable, match="when the request that tries it now"):
            opened.get("/x")
        go.set()
        probe.join()
        assert opened.get("/x") == "back"


def test_refusals_and_successes_count_as_answers(server, time):
    server.routes["/x"] = answer(1)
    with transport_to(server.server_address[1], time, breaker_failures=2, retries=0) as opened:
        for code in (500, 400, 500, 429, 500):
            server.fail("/x", status(code))
            with pytest.raises((ModelUnavailable, InvalidInput, Overloaded), match=str(code)):
                opened.get("/x")
        server.fail("/x", status(500))
        with pytest.raises(ModelUnavailable, match="answers 500"):
            opened.get("/x")
        with pytest.raises(ModelUnavailable, match="in a row"):
            opened.get("/x")


def test_a_stream_gives_each_event_and_ends_with_the_answer(server, opened):
    server.routes["/x"] = event_reply("one", "two")
    assert list(opened.stream("/x", {}, Call())) == ["one", "two", "[DONE]"]


def test_a_stream_is_tried_again_before_it_begins_and_never_after(server, opened, time):
    server.routes["/x"] = event_reply("one", whole=False)
    server.fail("/x", status(503))
    seen = opened.stream("/x", {}, Call())
    assert next(seen) == "one"
    with pytest.raises(ModelUnavailable, match="broke off"):
        next(seen)
    assert (len(server.requests), time.slept) == (2, [0.25])


@pytest.mark.parametrize("begun", [False, True])
def test_a_cancelled_stream_ends_and_the_server_sees_it(server, opened, begun):
    waiting = threading.Event()

    def write(exchange):
        if begun:
            exchange.start_events()
            exchange.event("one")
        waiting.set()
        exchange.wait_for_hang_up()

    server.routes["/x"] = write
    call, seen = Call(), []
    reader = threading.Thread(target=lambda: seen.extend(opened.stream("/x", {}, call)))
    reader.start()
    assert waiting.wait(20)
    call.cancel()
    reader.join(20)
    assert not reader.is_alive()
    assert server.hung_up.wait(20)
    assert seen in ([], ["one"])
    assert len(server.requests) == 1  # cut is not failed: no retry


def test_a_call_cancelled_before_it_began_sends_nothing(server, opened):
    call = Call()
    call.cancel()
    assert list(opened.stream("/x", {}, call)) == []
    assert server.requests == []


def test_a_pause_before_a_retry_ends_when_the_call_is_cut(server, opened):
    server.routes["/x"] = status(503)
    call = Call()
    opened._sleep = lambda *_: call.cancel()
    assert list(opened.stream("/x", {}, call)) == []
    assert len(server.requests) == 1


def test_many_threads_share_a_transport(server, opened):
    server.routes["/x"] = lambda exchange: exchange.json(exchange.body)
    found = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(opened.post("/x", n))) for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(16))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_do_not_depend_on_how_the_bytes_come(size):
    # U+2028 ends a line for str.splitlines, not in an event stream.
    sent = ": note\r\ndata: ä\u2028b\r\n\r\ndata:c\ndata: d\nid: 4\n\n"
    sent = (sent + "event: x\n\nerror: e\n\ndata: lost").encode()
    chunks = [sent[i : i + size] for i in range(0, len(sent), size)]
    assert list(events(chunks)) == ["ä\u2028b", "c\nd", "e"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("", 0),
        ("soon", 0),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30),
        ("Mon, 23 Nov 2026 11:00:00 GMT", 0),  # past already
    ],
)
def test_retry_after_is_a_number_or_a_date(value, seconds):
    assert retry_after(value, datetime(2026, 11, 23, 12, tzinfo=UTC)) == seconds
