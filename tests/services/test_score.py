"""POST /score: every shape that Azure ML's clients send."""

import pytest

from services.azureml import MAX_INPUTS
from tests.services.serving import is_problem

LIMITED = {"max_new_tokens": 6, "do_sample": False}
FORMS = {
    "inside": {"input_data": {"input_string": ["The ferry", "Bread"], "parameters": LIMITED}},
    "beside": {"input_data": {"input_string": ["The ferry", "Bread"]}, "parameters": LIMITED},
    "list": {"input_data": ["The ferry", "Bread"], "params": LIMITED},
    "inputs": {"inputs": {"input_string": ["The ferry", "Bread"]}, "parameters": LIMITED},
}


def score(client, **body):
    response = client.post("/score", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_every_form_gives_the_same(lm_client):
    results = [score(lm_client, **form) for form in FORMS.values()]
    assert all(result == results[0] for result in results)
    first, second = results[0]
    assert (set(first), set(second)) == ({"0"}, {"1"})
    assert first["0"].startswith("The ferry")
    assert second["1"].startswith("Bread")
    assert len(first["0"]) > len("The ferry")


def test_the_prompt_is_left_out_on_request(lm_client):
    whole = score(lm_client, input_data=["The ferry"], params=LIMITED)
    alone = score(
        lm_client, input_data=["The ferry"], params={**LIMITED, "return_full_text": False}
    )
    assert whole == [{"0": "The ferry" + alone[0]["0"]}]


def test_sampling_reaches_the_model(lm_client):
    drawn = {"do_sample": True, "temperature": 1.8, "top_p": 0.99, "max_new_tokens": 16}
    texts = [
        score(lm_client, input_data=["The ferry"], params={**drawn, "seed": seed})[0]["0"]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    longer = score(lm_client, input_data=["A"], params={**LIMITED, "max_new_tokens": 30})
    shorter = score(lm_client, input_data=["A"], params={**LIMITED, "max_new_tokens": 2})
    assert longer[0]["0"].startswith(shorter[0]["0"])
    whole = score(lm_client, input_data=["A"], params={**LIMITED, "return_full_text": False})
    stop = whole[0]["0"][1:3]
    stopped = score(
        lm_client,
        input_data=["A"],
        params={**LIMITED, "return_full_text": False, "stop": stop},
    )
    assert stopped[0]["0"] == whole[0]["0"].partition(stop)[0]


def test_a_conversation_gives_one_output(lm_client):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the ferry?"},
    ]
    result = score(lm_client, input_data={"input_string": turns, "parameters": LIMITED})
    assert set(result) == {"output"}
    assert result["output"]
    # The template's marks were added: the same words without roles continue otherwise.
    assert not result["output"].startswith("Where is")


def test_with_retrieval_the_answer_is_grounded(client, lighthouses):
    asked = "Who built the Bell Rock lighthouse?"
    (found,) = score(client, input_data=[asked], retrieval=True, collection=lighthouses)
    assert found["0"].startswith(f"{asked}\n")
    assert "Robert Stevenson built it between 1807 and 1811." in found["0"]
    inside = {"retrieval": True, "return_full_text": False}
    (alone,) = score(
        client,
        input_data={"input_string": [asked], "parameters": inside},
        collection=lighthouses,
    )
    assert found["0"] == f"{asked}\n{alone['0']}"
    turns = [
        {"role": "user", "content": "Tell me of lighthouses."},
        {"role": "assistant", "content": "Gladly."},
        {"role": "user", "content": asked},
    ]
    result = score(client, input_data=turns, retrieval=True, collection=lighthouses)
    assert "Stevenson" in result["output"]


def test_the_quote_generator_cannot_answer_freely(client):
    found = is_problem(
        client.post("/score", json={"input_data": ["Hello"]}), 422, "/problems/invalid-input"
    )
    assert "quote" in found["detail"]
    assert "retrieval" in found["hint"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"input_data": ["A"], "params": {"temperature": -1}}, "temperature"),
        ({"input_data": ["A"], "params": {"max_new_tokens": 10**9}}, "max_new_tokens"),
        ({"input_data": ["A"], "params": {"max_length": 5}}, "max_length"),
        ({"input_data": []}, "input_data"),
        ({"input_data": ["A"], "inputs": ["B"]}, "input_data"),
        ({}, "input_data"),
        ({"input_data": [{"role": "pirate", "content": "A"}]}, "role"),
        ({"input_data": [""], "params": {"max_new_tokens": 3}}, "empty"),
        ({"input_data": [{"role": "system", "content": "A"}], "retrieval": True}, "user"),
    ],
)
def test_what_is_wrong_is_named(lm_client, body, named):
    found = is_problem(lm_client.post("/score", json=body), 422, "/problems/invalid-input")
    assert named in str(found)


def test_too_many_inputs(lm_client):
    body = {"input_data": ["A"] * (MAX_INPUTS + 1)}
    is_problem(lm_client.post("/score", json=body), 413, "/problems/too-large")
