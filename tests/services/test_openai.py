"""OpenAI's routes by their wire format; `test_openai_clients.py` has the clients people use."""

import base64
import json

import numpy as np
import pytest

from rag import types as t
from services.openai_words import annotations
from tests.services.serving import BELL_ROCK

QUESTION = {"role": "user", "content": "Who built the Bell Rock lighthouse?"}


def complete(client, model, *turns, **more):
    body = {"model": model, "messages": list(turns or [QUESTION]), **more}
    return client.post("/v1/chat/completions", json=body)


def chunks_of(response):
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def is_openai_error(response, status, kind, code=None, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (kind, code, param)
    return error["message"]


# --- chat


def test_a_completion_cites_by_annotations_and_in_full(client, lighthouses):
    found = complete(client, lighthouses).json()
    assert (found["object"], found["model"]) == ("chat.completion", lighthouses)
    assert found["id"].startswith("chatcmpl-")
    (choice,) = found["choices"]
    message = choice["message"]
    assert (message["role"], choice["finish_reason"]) == ("assistant", "stop")
    assert "Robert Stevenson" in message["content"]
    cited = message["annotations"][0]["url_citation"]
    assert message["content"][cited["start_index"] : cited["end_index"]] == "[1]"
    assert cited["title"] == "Bell Rock"
    path = cited["url"].removeprefix("http://testserver")
    assert client.get(path).text == BELL_ROCK, "it leads to the document itself"
    proof = found["ragstone"]["citations"][0]
    assert proof["quote"] == BELL_ROCK[proof["start"] : proof["end"]]
    assert set(found["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}


def test_a_document_from_the_web_is_cited_by_its_address(client, collection):
    url = "https://example.org/bell-rock"
    document = {"text": BELL_ROCK, "source": url, "title": "Bell Rock"}
    sent = {"collection": collection, "documents": [document]}
    assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
    message = complete(client, collection).json()["choices"][0]["message"]
    assert message["annotations"][0]["url_citation"]["url"] == url


def test_a_stream_says_what_the_whole_says(client, lighthouses):
    whole = complete(client, lighthouses).json()
    response = complete(client, lighthouses, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    first, *middle, last, counted = chunks_of(response)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in middle)
    message = whole["choices"][0]["message"]
    assert text == message["content"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["delta"]["annotations"] == message["annotations"]
    assert last["ragstone"]["citations"] == whole["ragstone"]["citations"]
    assert (counted["choices"], counted["usage"]) == ([], whole["usage"])
    assert {chunk["object"] for chunk in (first, *middle, last)} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in (first, *middle, last, counted)}) == 1


def test_a_stream_without_include_usage_has_none(client, lighthouses):
    assert all("usage" not in c for c in chunks_of(complete(client, lighthouses, stream=True)))


def test_ragstones_own_parameters_narrow_what_is_read(client, lighthouses):
    found = complete(client, lighthouses, ragstone={"filter": {"sea": "celtic"}, "limit": 1}).json()
    assert [hit["document_id"] for hit in found["ragstone"]["hits"]] == ["fastnet"]


def test_content_in_parts_and_the_developer_role_are_read(client, lighthouses):
    parts = [{"type": "text", "text": "Who built the "}, {"type": "text", "text": "Bell Rock?"}]
    found = complete(
        client,
        lighthouses,
        {"role": "developer", "content": "Be brief.", "name": "me"},
        {"role": "user", "content": parts},
    )
    assert "Robert Stevenson" in found.json()["choices"][0]["message"]["content"]


def test_what_changes_nothing_is_ignored(client, lighthouses):
    harmless = {
        "user": "me", "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "tools": [],
        "response_format": {"type": "text"}, "logprobs": False, "metadata": {"a": "b"},
        "store": True, "logit_bias": None, "parallel_tool_calls": True, "tool_choice": "none",
    }  # fmt: skip
    assert complete(client, lighthouses, **harmless).status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("presence_penalty", 0.5),
        ("logit_bias", {"50256": -100}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("response_format", {"type": "json_object"}),
        ("top_k", 5),
        ("best_guess", True),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(client, lighthouses, name, value):
    response = complete(client, lighthouses, **{name: value})
    said = is_openai_error(
        response, 400, "invalid_request_error", "unsupported_parameter", param=name
    )
    assert repr(name) in said


def test_a_wrong_value_names_its_parameter(client, lighthouses):
    response = complete(client, lighthouses, temperature="hot")
    is_openai_error(response, 400, "invalid_request_error", "invalid_value", param="temperature")
    response = complete(client, lighthouses, temperature=9)
    said = is_openai_error(response, 400, "invalid_request_error", "invalid_input")
    assert "temperature" in said


def test_a_body_that_is_no_json_is_said_so(client):
    response = client.post(
        "/v1/chat/completions", content="{", headers={"content-type": "application/json"}
    )
    is_openai_error(response, 400, "invalid_request_error", "invalid_json")


def test_a_length_of_0_is_refused_not_forgotten(lm_client):
    response = complete(lm_client, "plain", max_completion_tokens=0, max_tokens=5)
    assert "max_new_tokens" in is_openai_error(
        response, 400, "invalid_request_error", "invalid_input"
    )


def test_markers_are_found_where_they_stand_and_ids_are_quoted():
    """Two sentences of passage 1, the second of two passages; an id that is no path."""

    def cited(marker, document_id, source=""):
        return t.Citation(marker, document_id, "T", source, None, (), "q", 0, 1, t.Scores())

    answer = t.Answer(
        text="A. [1] B [1, 2].",
        citations=(cited(1, "a b/c?"), cited(1, "a b/c?"), cited(2, "d", "https://x.org/d")),
        abstained=False, question="?", hits=(), models={}, timings={}, usage=t.Usage(), trace_id="",
    )  # fmt: skip
    found = [one["url_citation"] for one in annotations(answer, "http://h", "c")]
    spans = [answer.text[one["start_index"] : one["end_index"]] for one in found]
    assert spans == ["[1]", "[1, 2]", "[1, 2]"]
    assert found[0]["url"] == "http://h/v1/documents/a%20b%2Fc%3F/original?collection=c"
    assert found[2]["url"] == "https://x.org/d"


def test_an_unknown_model_is_a_404_as_at_openai(client):
    response = complete(client, "gpt-4o")
    assert "'gpt-4o' does not exist" in is_openai_error(
        response, 404, "not_found_error", "not_found"
    )
    is_openai_error(client.get("/v1/models/gpt-4o"), 404, "not_found_error", "not_found")


def test_a_conversation_ends_with_a_question(client, lighthouses):
    response = complete(client, lighthouses, QUESTION, {"role": "assistant", "content": "Me."})
    is_openai_error(response, 400, "invalid_request_error", "invalid_input")


def test_other_routes_keep_their_problems(client):
    response = client.post("/v1/search", json={"query": "x", "collection": "none-such"})
    assert response.headers["content-type"] == "application/problem+json"


# --- with a language model


def test_plain_answers_without_retrieval(lm_client):
    found = complete(lm_client, "plain", max_tokens=5, temperature=0).json()
    assert found["usage"]["completion_tokens"] == 5
    assert found["choices"][0]["finish_reason"] == "length"
    assert found["ragstone"]["hits"] == []
    assert found["choices"][0]["message"]["annotations"] == []


def test_temperature_0_is_greedy_and_a_seed_repeats(lm_client):
    def text(**more):
        found = complete(lm_client, "plain", max_completion_tokens=8, **more)
        return found.json()["choices"][0]["message"]["content"]

    assert text(temperature=0) == text(temperature=0, seed=3) == text(do_sample=False)
    assert text(temperature=1.9, seed=3) == text(temperature=1.9, seed=3)


def test_plain_is_no_model_where_no_language_model_runs(client, lm_client, lighthouses):
    assert "plain" not in {one["id"] for one in client.get("/v1/models").json()["data"]}
    names = {one["id"] for one in lm_client.get("/v1/models").json()["data"]}
    assert {"plain", lighthouses} <= names
    assert lm_client.get(f"/v1/models/{lighthouses}").json()["owned_by"] == "ragstone"
    said = is_openai_error(complete(client, "plain"), 400, "invalid_request_error", "invalid_input")
    assert "only quotes documents" in said


# --- embeddings


def embed(client, parts, **body):
    return client.post("/v1/embeddings", json={"model": parts.embedder.id, **body})


def test_embeddings_are_the_embedders_in_both_encodings(client, parts):
    texts = ["A lighthouse.", "Fog"]
    floats = embed(client, parts, input=texts).json()
    assert [one["index"] for one in floats["data"]] == [0, 1]
    expected = parts.embedder.embed_passages(texts)
    vectors = np.array([one["embedding"] for one in floats["data"]])
    np.testing.assert_allclose(vectors, expected, atol=2e-2)  # another batch rounds otherwise
    packed = embed(client, parts, input=texts, encoding_format="base64").json()
    first = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(first, expected[0], atol=2e-2)
    tokens = sum(parts.embedder.count_tokens(texts))
    assert floats["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_what_the_embedder_would_cut_is_refused(client, parts):
    response = embed(client, parts, input=["short", "word " * 5000])
    said = is_openai_error(response, 413, "invalid_request_error", "too_large")
    assert said.startswith("input 1 has 500")
    is_openai_error(embed(client, parts, input="x", dimensions=12), 400,
                    "invalid_request_error", "invalid_input")  # fmt: skip
    response = client.post("/v1/embeddings", json={"model": "ada", "input": "x"})
    is_openai_error(response, 404, "not_found_error", "not_found")


# --- rerank

PASSAGES = ["Fog signals are loud.", BELL_ROCK, "The ferry leaves at noon."]
ASKED = "Who built the Bell Rock lighthouse?"


def test_rerank_as_cohere_and_jina_have_it(client):
    body = {"query": ASKED, "documents": [PASSAGES[0], {"text": BELL_ROCK}, PASSAGES[2]]}
    found = client.post("/v1/rerank", json={**body, "top_n": 2, "return_documents": True}).json()
    best, second = found["results"]
    assert (best["index"], best["document"]) == (1, {"text": BELL_ROCK})
    assert best["relevance_score"] > second["relevance_score"]
    assert "document" not in client.post("/v1/rerank", json=body).json()["results"][0]


def test_rerank_as_text_embeddings_inference_has_it(client):
    body = {"query": ASKED, "texts": PASSAGES, "return_text": True}
    found = client.post("/v1/rerank", json=body).json()
    assert found[0]["index"] == 1
    assert found[0]["text"] == BELL_ROCK
    assert [one["score"] for one in found] == sorted((o["score"] for o in found), reverse=True)
    assert client.post("/v1/rerank", json={"query": ASKED, "texts": []}).json() == []


def test_a_rerank_request_has_one_list(client):
    response = client.post("/v1/rerank", json={"query": ASKED})
    assert "either documents or texts" in is_openai_error(
        response, 400, "invalid_request_error", "invalid_value"
    )
