"""Search and ask over a real index with the starter models."""

import pytest

from tests.services.serving import BELL_ROCK, events_of, is_problem


def test_search_returns_hits_with_offsets_and_scores(client, lighthouses):
    asked = {"collection": lighthouses, "query": "who built Bell Rock", "limit": 1}
    response = client.post("/v1/search", json=asked)
    assert response.status_code == 200
    (hit,) = response.json()["hits"]
    assert hit["document_id"] == "bell-rock"
    assert hit["text"] == BELL_ROCK[hit["start"] : hit["end"]]
    assert set(hit) == {
        "document_id", "chunk_id", "title", "text", "start", "end", "page", "headings", "source",
        "metadata", "score", "scores",
    }  # fmt: skip
    assert set(hit["scores"]) == {"dense", "bm25", "fused", "rerank"}
    assert None not in hit["scores"].values()
    assert hit["metadata"] == {"sea": "north"}
    assert set(response.json()) == {"hits", "timings", "cuts"}


@pytest.mark.parametrize(("mode", "silent"), [("dense", "bm25"), ("bm25", "dense")])
def test_search_by_one_retriever_has_no_score_of_the_other(client, lighthouses, mode, silent):
    asked = {"collection": lighthouses, "query": "Fastnet", "mode": mode, "rerank": False}
    best = client.post("/v1/search", json=asked).json()["hits"][0]
    assert best["document_id"] == "fastnet"
    assert best["scores"][silent] is None
    assert best["scores"]["rerank"] is None


def test_search_filters(client, lighthouses):
    asked = {"collection": lighthouses, "query": "lighthouse", "filter": {"sea": "celtic"}}
    hits = client.post("/v1/search", json=asked).json()["hits"]
    assert [hit["document_id"] for hit in hits] == ["fastnet"]


def test_ask_quotes_what_the_document_says(client, lighthouses):
    asked = {"collection": lighthouses, "question": "Who built the Bell Rock lighthouse?"}
    response = client.post("/v1/ask", json=asked)
    assert response.status_code == 200
    answer = response.json()
    assert "Robert Stevenson" in answer["answer"]
    assert answer["abstained"] is False
    first = answer["citations"][0]
    assert first["document_id"] == "bell-rock"
    assert first["quote"] == BELL_ROCK[first["start"] : first["end"]]
    assert set(first) == {
        "marker", "document_id", "title", "source", "page", "headings", "quote", "start", "end",
        "scores",
    }  # fmt: skip
    assert set(answer) == {
        "answer", "citations", "abstained", "models", "timings", "usage", "trace_id", "cuts",
        "notes", "sentences", "hits",
    }  # fmt: skip
    assert answer["models"]["generator"] == "quote"
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 0}
    assert answer["hits"][0]["document_id"] == "bell-rock"


def test_ask_says_which_parameters_had_no_effect(client, lighthouses):
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 1, "stop": "END", "do_sample": True}
    asked = {"collection": lighthouses, "question": "Who built Bell Rock?", **sampling}
    notes = client.post("/v1/ask", json=asked).json()["notes"]
    assert any("temperature, top_p, do_sample, seed, stop had no effect" in note for note in notes)


def test_ask_abstains_where_the_filter_leaves_nothing(client, lighthouses):
    asked = {"collection": lighthouses, "question": "Who built it?", "filter": {"sea": "baltic"}}
    answer = client.post("/v1/ask", json=asked).json()
    assert answer["abstained"] is True
    assert answer["citations"] == answer["hits"] == []


def test_a_stream_adds_up_to_its_last_event(client, lighthouses):
    asked = {"collection": lighthouses, "question": "Who built the Bell Rock lighthouse?"}
    response = client.post("/v1/ask", json={**asked, "stream": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = events_of(response.text)
    names = [name for name, _ in events]
    order = ["retrieval", "token", "citation", "done"]
    assert sorted(names, key=order.index) == names
    assert set(names) == set(order)
    done = events[-1][1]
    assert "".join(data["text"] for name, data in events if name == "token") == done["answer"]
    assert [data for name, data in events if name == "citation"] == done["citations"]
    assert events[0][1]["hits"] == done["hits"]
    whole = client.post("/v1/ask", json=asked).json()
    for changing in ("timings", "trace_id"):
        assert done.pop(changing)
        assert whole.pop(changing)
    assert done == whole


@pytest.mark.parametrize(
    ("wrong", "status", "kind"),
    [
        ({"temperature": -1}, 422, "/problems/invalid-input"),
        ({"collection": "nowhere"}, 404, "/problems/not-found"),
        ({"question": "x" * 9000}, 413, "/problems/too-large"),
    ],
)
def test_what_is_wrong_before_the_first_event_is_no_stream(
    client, lighthouses, wrong, status, kind
):
    asked = {"collection": lighthouses, "question": "Who?", "stream": True, **wrong}
    is_problem(client.post("/v1/ask", json=asked), status, kind)


def test_a_failed_question_gives_its_place_back(client, lighthouses):
    for _ in range(60):  # more than run and wait
        asked = {"collection": lighthouses, "question": " ", "stream": True}
        is_problem(client.post("/v1/ask", json=asked), 422, "/problems/invalid-input")
    assert client.app.state.service.answers.inside == 0


def test_no_place_left_is_429_with_retry_after(client, lighthouses):
    answers, taken = client.app.state.service.answers, 0
    try:
        limits = client.app.state.service.parts.settings
        while answers.inside < limits.max_answers + limits.answers_waiting:
            answers.enter()
            taken += 1
        asked = {"collection": lighthouses, "question": "Who built Bell Rock?"}
        for more in ({}, {"stream": True}):
            response = client.post("/v1/ask", json={**asked, **more})
            is_problem(response, 429, "/problems/overloaded")
            assert int(response.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == 200
    finally:
        for _ in range(taken):
            answers.leave()
    assert client.post("/v1/ask", json=asked).status_code == 200


SAMPLED = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "top_p": 0.95}


def test_the_same_seed_writes_the_same_answer(lm_client, lighthouses):
    asked = {"collection": lighthouses, "question": "Who built Bell Rock?", "limit": 1, **SAMPLED}
    answers = [lm_client.post("/v1/ask", json={**asked, "seed": seed}).json() for seed in (1, 1, 2)]
    assert answers[0]["answer"] == answers[1]["answer"] != answers[2]["answer"]
    assert answers[0]["usage"]["completion_tokens"] == 12
    assert answers[0]["usage"]["prompt_tokens"] > 50


def test_a_language_model_streams_its_tokens(lm_client, lighthouses):
    asked = {"collection": lighthouses, "question": "Who built Bell Rock?", "seed": 3, **SAMPLED}
    events = events_of(lm_client.post("/v1/ask", json={**asked, "stream": True}).text)
    names = [name for name, _ in events]
    assert names[0] == "retrieval"
    assert names[-1] == "done"
    assert names.count("token") > 1  # a piece waits for the next one where it may end an address
    assert events[-1][1]["usage"]["completion_tokens"] == 12


def test_a_history_is_condensed_into_the_question(lm_client, lighthouses):
    history = [
        {"role": "user", "content": "What is Bell Rock?"},
        {"role": "assistant", "content": "A lighthouse."},
    ]
    asked = {"collection": lighthouses, "question": "Who built it?", "history": history}
    answer = lm_client.post("/v1/ask", json={**asked, **SAMPLED}).json()
    assert "condense" in answer["timings"]


def test_a_model_that_cannot_be_loaded_is_503(client, lighthouses, parts):
    from tests.services.serving import serving, with_models

    with serving(with_models(parts, generator="/nowhere/at/all")) as broken:
        asked = {"collection": lighthouses, "question": "Who built Bell Rock?", "stream": True}
        found = is_problem(broken.post("/v1/ask", json=asked), 503, "/problems/model-unavailable")
        assert "/nowhere/at/all" in found["detail"]
        assert client.get("/readyz").status_code == 200
