"""What every request has: an id in and out, a line in the log, also where it fails."""

import json
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from threading import Barrier, Event

import pytest

from rag.orchestrator import Orchestrator
from rag.settings import Settings
from rag.types import Scope, TextPiece
from services import logs
from services.app import create_app
from tests.services.serving import BELL_ROCK, is_problem, logging_restored, running, serving
from tests.waiting import until

NEW = re.compile(r"[0-9a-f]{32}")


@pytest.fixture
def lines(monkeypatch):
    """What has been logged as JSON since the last time; the log is as before afterwards."""
    written, read = StringIO(), 0
    monkeypatch.setattr(sys, "stderr", written)
    for name in ("uvicorn", "uvicorn.error"):  # as `serve` has them, whatever other tests did
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)

    def since():
        nonlocal read
        new, read = written.getvalue()[read:], len(written.getvalue())
        return [json.loads(line) for line in new.splitlines()]

    with logging_restored():
        logs.configure(Settings(log_format="json"))
        yield since


def access(found):
    return [line for line in found if line["logger"] == "services.requests"]


def test_an_id_that_is_given_comes_back(client):
    given = {"X-Request-ID": "a-b.c/7:!"}
    assert client.get("/healthz", headers=given).headers["x-request-id"] == "a-b.c/7:!"
    longest = "x" * 128
    answer = client.get("/healthz", headers={"X-Request-ID": longest})
    assert answer.headers["x-request-id"] == longest


@pytest.mark.parametrize("given", ["", "x" * 129, "with space", "tab\tinside", "\xe9", "a\x7f"])
def test_what_is_no_id_is_replaced(client, given):
    answer = client.get("/healthz", headers={"X-Request-ID": given.encode("latin-1")})
    assert NEW.fullmatch(answer.headers["x-request-id"])
    assert client.get("/healthz").headers["x-request-id"] != answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/no/such/route", 404),
        ("PUT", "/v1/ask", 405),
        ("POST", "/v1/ask", 422),
        ("GET", "/v1/jobs/nothing", 404),
    ],
)
def test_problems_name_their_request(client, method, path, status):
    given = {"X-Request-ID": "mine", "content-type": "application/json"}
    answer = client.request(method, path, headers=given, content="{}")
    kind = answer.json()["type"]
    assert is_problem(answer, status, kind)["request_id"] == "mine"
    assert answer.headers.get_list("x-request-id") == ["mine"]


def test_a_body_that_is_too_large_is_such_a_problem_too(client):
    answer = client.post("/v1/ask", content=b"x" * 2_000_000, headers={"X-Request-ID": "large"})
    assert is_problem(answer, 413, "/problems/too-large")["request_id"] == "large"


@pytest.fixture
def broken(monkeypatch):
    """A search that fails for a reason inside."""

    def fail(*_, **__):
        logging.getLogger("rag.retrieve").warning("in the thread")
        raise ValueError("a bug with Angus in its message")

    monkeypatch.setattr("rag.orchestrator.retrieve", fail)


@pytest.mark.usefixtures("broken")
def test_an_error_inside_has_the_id_in_its_answer_and_on_each_of_its_lines(
    parts, collection, lines
):
    with serving(parts) as client:
        lines()
        body = {"query": "who", "collection": collection}
        answer = client.post("/v1/search", json=body, headers={"X-Request-ID": "the-one"})
    assert is_problem(answer, 500, "/problems/internal-error")["request_id"] == "the-one"
    assert answer.headers["x-request-id"] == "the-one"
    found = lines()
    of_it = [line for line in found if line.get("request_id") == "the-one"]
    # The thread that searched, and the request itself.
    assert {"rag.retrieve", "services.requests"} <= {line["logger"] for line in of_it}
    (line,) = access(of_it)
    assert (line["status"], line["level"]) == (500, "info")


@pytest.mark.usefixtures("broken")
def test_the_servers_own_line_about_an_error_has_its_id(parts, collection, lines):
    app = create_app(orchestrator=_orchestrator(parts))
    with running(app) as http:
        body = {"query": "who", "collection": collection}
        http.post("/v1/search", json=body, headers={"X-Request-ID": "the-one"})
    found = [line for line in lines() if line["logger"] == "uvicorn.error" and "exception" in line]
    assert [line["request_id"] for line in found] == ["the-one"]
    assert "ValueError" in found[0]["exception"]


def _orchestrator(parts):
    return Orchestrator(parts, Scope("default"))


def test_a_line_for_each_request_and_nothing_that_is_secret(parts, collection, lines):
    with running(create_app(orchestrator=_orchestrator(parts))) as http:
        lines()
        secret = {"Authorization": "Bearer s3cret-key", "Cookie": "c00kie"}
        documents = [{"id": "s3cret-document", "text": BELL_ROCK}]
        body = {"documents": documents, "collection": collection}
        http.post("/v1/documents?wait=true&note=s3cret-query", json=body, headers=secret)
        asked = {"question": "Who built s3cret Bell Rock?", "collection": collection}
        http.post("/v1/ask", json={**asked, "stream": True}, headers=secret)
        path = f"/v1/documents/s3cret-document/text?collection={collection}"
        http.get(path, headers={**secret, "X-Request-ID": "third"})
        http.get("/s3cret-path", headers=secret)
        http.get("/healthz", headers=secret)
    found = lines()
    written = access(found)
    assert [(line["method"], line["route"], line["status"]) for line in written] == [
        ("POST", "/v1/documents", 200),
        ("POST", "/v1/ask", 200),
        ("GET", "/v1/documents/{document_id}/text", 200),
        ("GET", "", 404),
    ], "and none about /healthz, which is asked every few seconds"
    assert written[2]["request_id"] == "third"
    assert written[2]["message"] == (
        f"GET /v1/documents/{{document_id}}/text 200 {written[2]['ms']} ms"
    )
    assert all(0 < line["ms"] < 60_000 for line in written)
    assert "s3cret" not in json.dumps(found)
    assert "c00kie" not in json.dumps(found)
    assert not [line for line in found if line["logger"].startswith(("uvicorn.access", "httpx"))]


def test_requests_at_once_keep_their_ids_apart(parts, collection, lines, monkeypatch):
    """Each logs from its thread, between the others."""
    together = Barrier(4, timeout=10)

    def told(_, question, **__):
        together.wait()
        logging.getLogger("rag.told").info("%s", question)
        together.wait()
        return original(_, question, **__)

    orchestrator = _orchestrator(parts)
    original = type(orchestrator).search
    monkeypatch.setattr(type(orchestrator), "search", told)
    with running(create_app(orchestrator=orchestrator)) as http:

        def ask(name):
            body = {"query": name, "collection": collection}
            return http.post("/v1/search", json=body, headers={"X-Request-ID": name}).status_code

        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(ask, ["one", "two", "three", "four"])) == {200}
    found = [line for line in lines() if line["logger"] == "rag.told"]
    assert {line["message"] for line in found} == {"one", "two", "three", "four"}
    assert all(line["message"] == line["request_id"] for line in found)


class Pausing(Orchestrator):
    """Stops behind the first piece of an answer until it is let go on."""

    go_on = Event()

    def stream(self, question, **options):
        for event in super().stream(question, **options):
            yield event
            if isinstance(event, TextPiece):
                assert self.go_on.wait(60)


def test_a_stream_is_not_held_back(parts, lighthouses):
    """Its pieces come while it is written: the line of the log, and the count, come at its end."""
    counted = 'route="/v1/ask"'
    with running(create_app(orchestrator=Pausing(parts, Scope("default")))) as http:
        body = {"question": "Who built Bell Rock?", "collection": lighthouses, "stream": True}
        with http.stream("POST", "/v1/ask", json=body) as response:
            assert NEW.fullmatch(response.headers["x-request-id"])
            seen = response.iter_lines()
            next(line for line in seen if line == "event: token")
            assert counted not in http.get("/metrics").text
            Pausing.go_on.set()
            next(line for line in seen if line == "event: done")
        until(lambda: counted in http.get("/metrics").text)
