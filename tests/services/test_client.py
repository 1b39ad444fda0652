"""The client of a running server: errors come back as what they were, a break is waited out."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest

from rag.errors import (
    Conflict,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RagError,
    StoreUnreachable,
)
from services.client import Client, path_of
from tests.services.serving import server


@pytest.fixture(scope="module")
def api(lighthouse):
    """A real server over the sample collection."""
    with server(lighthouse) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture
def client(api):
    with Client(api, patience=0) as opened:
        yield opened


def test_lists_come_in_pages_and_whole(client, monkeypatch):
    monkeypatch.setattr("services.client.PAGE", 4)
    listed = list(client.pages("/v1/documents", "documents", collection="lighthouse"))
    ids = [one["id"] for one in listed]
    assert len(ids) == 15
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("path", "params", "kind"),
    [
        ("/v1/collections/nowhere", {}, NotFound),
        ("/v1/documents", {"collection": "lighthouse", "limit": 0}, InvalidInput),
        ("/no/such/route", {}, NotFound),
    ],
)
def test_an_error_is_raised_again(client, path, params, kind):
    with pytest.raises(kind) as caught:
        client.get(path, **params)
    assert caught.value.message


def test_a_conflict_keeps_its_words(client):
    with pytest.raises(Conflict, match="'lighthouse' already"):
        client.post("/v1/collections", {"name": "lighthouse"})


@pytest.mark.parametrize("id", ["a/b", "what?", "50%", "#1", "ä ö", "a&b=c"])
def test_an_id_may_hold_anything(client, id):
    with pytest.raises(NotFound) as caught:
        client.delete(path_of(id), collection="lighthouse")
    assert id in caught.value.message


class Scripted(BaseHTTPRequestHandler):
    """Gives the answers of a list, one a request, and keeps what it was sent."""

    answers: list[tuple[int, dict[str, str], bytes]]
    seen: list[tuple[str, bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append((self.headers.get("idempotency-key", ""), body))
        status, headers, content = self.answers.pop(0)
        if status == 0:  # break the connection off
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def scripted():
    """(URL, answers, what was seen) of a server that answers as it is told."""
    handler = type("Handler", (Scripted,), {"answers": [], "seen": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{served.server_port}", handler.answers, handler.seen
        finally:
            served.shutdown()
            thread.join()


def problem(type: str, **more: object) -> bytes:
    return json.dumps({"type": type, "detail": "It is so.", "hint": "Mend it.", **more}).encode()


def test_a_break_is_waited_out_and_the_key_stays(scripted):
    url, answers, seen = scripted
    answers += [(0, {}, b""), (503, {}, b"<html>starting"), (200, {}, b'{"job_id": "j"}')]
    slept: list[float] = []
    with Client(url, patience=60, sleep=slept.append) as client:
        file = BytesIO(b"all of it")
        found = client.upload([("a.txt", file)], sources=["/a.txt"], key="k", collection="c")
    assert found == {"job_id": "j"}
    assert [key for key, _ in seen] == ["k"] * 3
    assert all(b"all of it" in body for _, body in seen)  # from its beginning each time
    assert slept == [0.1, 0.2]


def test_patience_ends(scripted):
    url, answers, _ = scripted
    answers += [(0, {}, b"")]
    with (
        Client(url, patience=0) as client,
        pytest.raises(StoreUnreachable, match="does not answer") as caught,
    ):
        client.get("/v1/documents")
    assert "on its disk" in caught.value.hint


def test_a_server_that_comes_back_elsewhere_is_found(scripted, api):
    url, answers, _ = scripted
    answers += [(0, {}, b"")]
    with Client(url, patience=60, find=lambda: api, sleep=lambda _: None) as client:
        assert client.get("/healthz")["status"] == "ok"
        assert client.url == api


def test_no_room_is_told_or_waited_for(scripted):
    url, answers, _ = scripted
    full = (429, {"retry-after": "7"}, problem("/problems/overloaded"))
    slept: list[float] = []
    with Client(url, patience=60, sleep=slept.append) as client:
        answers += [full]
        with pytest.raises(Overloaded) as caught:
            client.upload([("a", BytesIO(b"a"))], sources=["a"], key="k")
        assert caught.value.retry_after == 7
        assert slept == []
        answers += [full, (200, {}, b"{}")]
        assert client.get("/v1/documents") == {}
        assert slept == [5.0]  # no longer than that at once


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (503, problem("/problems/model-unavailable"), ModelUnavailable),
        (503, problem("/problems/store-unreachable"), StoreUnreachable),
        (500, problem("/problems/internal-error"), RagError),
        (418, b"a teapot", RagError),
        (400, b"[]", RagError),
    ],
)
def test_what_waiting_does_not_help_is_raised_at_once(scripted, status, content, kind):
    url, answers, _ = scripted
    answers += [(status, {}, content)]
    with Client(url, patience=60) as client, pytest.raises(RagError) as caught:
        client.get("/v1/documents")
    assert type(caught.value) is kind


def test_events_begin_again_after_a_break(scripted):
    url, answers, _ = scripted
    first = b'event: job\ndata: {"n": 1}\n\n: waiting\n\n'
    both = first + b'event: end\ndata: {"n": 2}\n\n'
    torn = {"content-length": str(len(both))}
    # Torn, then ended in order but too early.
    answers += [(200, torn, first), (200, {}, first), (200, {}, both)]
    with Client(url, patience=60, sleep=lambda _: None) as client:
        assert list(client.events("/v1/jobs/j/events")) == [
            *[("job", {"n": 1})] * 3,
            ("end", {"n": 2}),
        ]
