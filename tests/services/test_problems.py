"""Every error is a problem: the table, and the ways in which a request can be wrong."""

import errno
import json

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rag import errors
from services import problems
from tests.services.serving import is_problem

EXPECTED = {
    errors.InvalidInput: (422, "invalid-input"),
    errors.TooLarge: (413, "too-large"),
    errors.MalformedBackup: (422, "invalid-input"),
    errors.ParseError: (422, "invalid-input"),
    errors.EmptyDocument: (422, "empty-document"),
    errors.EncryptedDocument: (422, "encrypted-document"),
    errors.MalformedDocument: (422, "malformed-document"),
    errors.ParseLimit: (422, "parse-limit"),
    errors.UnsupportedType: (415, "unsupported-type"),
    errors.NeedsOcr: (422, "needs-ocr"),
    errors.NotFound: (404, "not-found"),
    errors.Conflict: (409, "conflict"),
    errors.PipelineMismatch: (409, "conflict"),
    errors.CollectionMoved: (409, "conflict"),
    errors.DataFolderBusy: (409, "conflict"),
    errors.ModelUnavailable: (503, "model-unavailable"),
    errors.StoreUnreachable: (503, "store-unreachable"),
    errors.StorageFull: (507, "storage-full"),
    errors.Unauthenticated: (401, "unauthenticated"),
    errors.Forbidden: (403, "forbidden"),
    errors.FetchFailed: (422, "fetch-failed"),
    errors.Overloaded: (429, "overloaded"),
    errors.Cancelled: (499, "cancelled"),
    errors.MissingExtra: (501, "missing-extra"),
    errors.RagError: (500, "internal-error"),
}


def raising(error: Exception) -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/here")
    async def here() -> None:
        raise error

    return TestClient(app, raise_server_exceptions=False)


def test_every_class_of_the_tree_is_expected_here():
    tree = {v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, Exception)}
    assert tree == set(EXPECTED)


@pytest.mark.parametrize("error", EXPECTED, ids=lambda error: error.__name__)
def test_each_class_has_its_status_and_type(error):
    status, kind = EXPECTED[error]
    response = raising(error("What is wrong.", hint="What to do.")).get("/here")
    found = is_problem(response, status, f"/problems/{kind}")
    assert (found["detail"], found["hint"]) == ("What is wrong.", "What to do.")


def test_retry_after_is_whole_seconds_rounded_up():
    response = raising(errors.Overloaded("Full.", retry_after=2.1)).get("/here")
    assert response.headers["retry-after"] == "3"


def test_a_full_disk_is_507_and_anything_else_inside_stays_inside():
    full = OSError(errno.ENOSPC, "No space left on device")
    is_problem(raising(full).get("/here"), 507, "/problems/storage-full")
    for error in (OSError(errno.EIO, "/secret/path"), ZeroDivisionError("secret")):
        response = raising(error).get("/here")
        is_problem(response, 500, "/problems/internal-error")
        assert "secret" not in response.text


def test_half_a_surrogate_in_a_message_can_be_sent():
    response = raising(errors.InvalidInput("No \ud800 here.")).get("/here")
    assert is_problem(response, 422, "/problems/invalid-input")["detail"] == "No \ud800 here."


def test_what_http_itself_refuses(client):
    is_problem(client.get("/v1/nothing"), 404, "about:blank")
    is_problem(client.get("/nothing"), 404, "about:blank")
    is_problem(client.post("/v1/ask/"), 404, "about:blank")
    response = client.get("/v1/ask")
    is_problem(response, 405, "about:blank")
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("route", ["/v1/ask", "/v1/search", "/v1/collections", "/v1/documents"])
@pytest.mark.parametrize(
    "body",
    [b'{"question": ', b"", b"\xff\xfe", b"[" * 5000, b"1" * 5000, b"{'question': 'single'}"],
    ids=["cut", "none", "bytes", "deep", "huge", "quotes"],
)
def test_malformed_json(client, route, body):
    response = client.post(route, content=body, headers={"content-type": "application/json"})
    if body == b"" and route != "/v1/documents":
        is_problem(response, 422, "/problems/invalid-input")
    else:
        is_problem(response, 400, "/problems/malformed-body")


def test_a_broken_multipart_body(client):
    for body in (b"no parts", b'--x\r\nContent-Disposition: form-data; name="files"\r\n'):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        response = client.post("/v1/documents", content=body, headers=headers)
        assert response.status_code in (400, 422)
        is_problem(response, response.status_code, response.json()["type"])
    headers = {"content-type": "multipart/form-data"}
    response = client.post("/v1/documents", content=b"x", headers=headers)
    is_problem(response, 400, "/problems/malformed-body")


@pytest.mark.parametrize("route", ["/v1/ask", "/v1/documents", "/score"])
def test_another_type_of_body(client, route):
    response = client.post(route, content=b"Who?", headers={"content-type": "text/plain"})
    is_problem(response, 415, "about:blank")


def test_two_megabytes_of_question(client):
    body = {"question": "x" * 2_000_000}
    found = is_problem(client.post("/v1/ask", json=body), 413, "/problems/too-large")
    assert "1048576 bytes" in found["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "question"),
        ({"question": 5}, "question"),
        ({"question": "Who?", "qestion": "Who?"}, "qestion"),
        ({"question": "Who?", "temperature": True}, "temperature"),
        ({"question": "Who?", "temperature": "0.5"}, "temperature"),
        ({"question": "Who?", "limit": 0}, "limit"),
        ({"question": "Who?", "history": [{"role": "pirate", "content": "Arr"}]},
         "history.0.role"),
        ({"question": "Who?", "history": [{"role": "user"}]}, "history.0.content"),
        ({"question": "\ud800"}, "question"),
        ({"question": "Who?", "filter": {"by": "\ud800"}}, "filter"),
        ({"question": "Who?", "stop": ["a", 5]}, "stop.1"),
        ({"question": "Who?", "stop": 5}, "stop"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(client, body, field):
    found = is_problem(
        client.post("/v1/ask", content=_json(body), headers={"content-type": "application/json"}),
        422,
        "/problems/invalid-input",
    )
    assert field in [one["field"] for one in found["errors"]]
    assert all(one["message"] for one in found["errors"])


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"limit": 100_000}, "limit"),
        ({"filter": {"a.b": 1}}, "filter"),
        ({"question": "\u0000"}, "NUL"),
        ({"question": "   "}, "empty"),
    ],
)
def test_a_value_out_of_range_is_named(client, lighthouses, body, named):
    asked = {"question": "Who built it?", "collection": lighthouses, **body}
    response = client.post(
        "/v1/ask", content=_json(asked), headers={"content-type": "application/json"}
    )
    assert named in is_problem(response, 422, "/problems/invalid-input")["detail"]


@pytest.mark.parametrize(
    ("where", "field"),
    [("/v1/documents?limit=0", "limit"), ("/v1/documents?limit=many", "limit")],
)
def test_a_wrong_query_parameter_is_named(client, where, field):
    found = is_problem(client.get(where), 422, "/problems/invalid-input")
    assert [one["field"] for one in found["errors"]] == [field]


def test_an_id_that_nothing_can_have(client, collection):
    for method in (client.get, client.delete):
        response = method(f"/v1/documents/%07?collection={collection}")
        is_problem(response, 422, "/problems/invalid-input")


def _json(body: dict) -> bytes:

    return json.dumps(body).encode()
