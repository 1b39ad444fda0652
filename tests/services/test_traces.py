"""Traces, replays and feedback over HTTP, and by commands of both kinds."""

import pytest

from rag.errors import InvalidInput, NotFound
from services.client import Client
from services.reach import ByServer, InPlace
from services.trace_command import split_changes
from tests.services.serving import is_problem, server

ASKED = "Who built the Bell Rock lighthouse?"


@pytest.fixture
def answer(client, lighthouses):
    asked = {"collection": lighthouses, "question": ASKED, "seed": 7, "limit": 2}
    return client.post("/v1/ask", json=asked).json()


def test_the_trace_of_an_answer(client, lighthouses, answer):
    trace = client.get(f"/v1/traces/{answer['trace_id']}").json()
    assert trace["collection"] == lighthouses
    assert (trace["question"], trace["searched"]) == (ASKED, ASKED)
    assert (trace["sampling"]["seed"], trace["limit"]) == (7, 2)
    assert trace["answer"]["answer"] == answer["answer"] == trace["written"]
    assert trace["answer"]["citations"] == answer["citations"]
    first = trace["candidates"][0]
    assert (first["rank"], first["document_id"]) == (1, "bell-rock")
    assert (first["passage"], first["cited"], first["why"]) == (1, True, "")
    assert None not in first["scores"].values()
    assert trace["fingerprints"]["generator"] == "quote"


def test_streams_and_openais_route_are_traced_as_well(client, lighthouses):
    body = {"model": lighthouses, "messages": [{"role": "user", "content": ASKED}]}
    said = client.post("/v1/chat/completions", json=body).json()["ragstone"]
    trace = client.get(f"/v1/traces/{said['trace_id']}").json()
    assert trace["answer"]["answer"] == said["answer"]


def test_a_private_collection_is_not_traced(client, lighthouses):
    private = {"settings": {"private": True}}
    assert client.patch(f"/v1/collections/{lighthouses}", json=private).status_code == 200
    asked = {"collection": lighthouses, "question": ASKED}
    assert client.post("/v1/ask", json=asked).json()["trace_id"] == ""
    listed = client.get("/v1/traces", params={"collection": lighthouses}).json()
    assert listed == {"traces": [], "next": None}


def test_a_list_in_pages(client, lighthouses):
    asked = {"collection": lighthouses, "question": ASKED}
    ids = [client.post("/v1/ask", json=asked).json()["trace_id"] for _ in range(3)]
    of = {"collection": lighthouses, "limit": 2}
    first = client.get("/v1/traces", params=of).json()
    rest = client.get("/v1/traces", params={**of, "before": first["next"]}).json()
    assert [one["id"] for one in (*first["traces"], *rest["traces"])] == ids[::-1]
    assert rest["next"] is None


def test_feedback_is_kept_with_the_trace(client, answer):
    said = {"trace_id": answer["trace_id"], "rating": "down", "correction": "Robert Stevenson"}
    response = client.post("/v1/feedback", json=said)
    assert response.status_code == 201
    trace = client.get(f"/v1/traces/{answer['trace_id']}").json()
    assert trace["feedback"] == [response.json()]
    assert trace["feedback"][0]["correction"] == "Robert Stevenson"


@pytest.mark.parametrize(
    ("wrong", "status", "kind"),
    [
        ({"trace_id": "none", "rating": "up"}, 404, "/problems/not-found"),
        ({"trace_id": "none", "rating": "sideways"}, 422, "/problems/invalid-input"),
        ({"rating": "up"}, 422, "/problems/invalid-input"),
        (
            {"trace_id": "none", "rating": "up", "correction": "x" * 20_001},
            422,
            "/problems/invalid-input",
        ),
    ],
)
def test_wrong_feedback_is_a_problem(client, wrong, status, kind):
    is_problem(client.post("/v1/feedback", json=wrong), status, kind)


def test_replay_shows_what_another_setting_answers(client, answer):
    path = f"/v1/traces/{answer['trace_id']}/replay"
    again = client.post(path, json={"with": {"rerank_limit": 0, "limit": 1}}).json()
    assert len(again["hits"]) == 1
    assert again["hits"][0]["scores"]["rerank"] is None
    assert client.post(path, json={}).json()["answer"] == answer["answer"]
    is_problem(client.post(path, json={"with": {"colour": "red"}}), 422, "/problems/invalid-input")
    is_problem(client.post("/v1/traces/none/replay", json={}), 404, "/problems/not-found")


def test_a_deleted_trace_is_gone(client, answer):
    path = f"/v1/traces/{answer['trace_id']}"
    assert client.delete(path).status_code == 204
    is_problem(client.get(path), 404, "/problems/not-found")
    is_problem(client.delete(path), 404, "/problems/not-found")


@pytest.fixture(scope="module")
def there(lighthouse):
    with (
        server(lighthouse) as client,
        Client(str(client.base_url).rstrip("/"), patience=0) as opened,
    ):
        yield ByServer(opened)


def test_commands_get_the_same_from_a_server(lighthouse, there):
    here = InPlace(lighthouse)
    trace_id = lighthouse.ask(ASKED, collection="lighthouse").trace_id
    ours, theirs = (one.trace(trace_id).model_dump(mode="json") for one in (here, there))
    assert theirs == ours
    assert there.traces("lighthouse", 1) == here.traces("lighthouse", 1)
    ours, theirs = (one.replay(trace_id, {"limit": 2}) for one in (here, there))
    assert theirs.answer == ours.answer
    with pytest.raises(NotFound):
        there.trace("none")
    with pytest.raises(InvalidInput, match="quote_sentences cannot be changed"):
        there.refuse_settings(["quote_sentences"])
    here.refuse_settings(["quote_sentences"])


def test_a_setting_that_there_is_not_is_refused_by_name():
    changes = {"limit": 3, "quote_sentences": 1}
    assert split_changes(changes) == ({"limit": 3}, {"quote_sentences": 1})
    with pytest.raises(InvalidInput, match="no setting 'colour'"):
        split_changes({"colour": "red"})
