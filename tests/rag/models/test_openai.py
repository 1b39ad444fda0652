import json
import threading

import numpy as np
import pytest
from jinja2 import Template

from rag.embed import load_embedder
from rag.errors import InvalidInput, ModelUnavailable
from rag.models.engine import Engines
from rag.models.load import resolve
from rag.models.openai import parameters
from rag.models.prompts import EstimatedPrompts
from rag.models.remote import remote_causal_lm, remote_embedder
from rag.models.torch_lm import TorchCausalLM
from rag.sampling import Sampling
from rag.types import Message, Usage
from tests.remote_models import answer, chunk, events, model_server, serve_openai, status
from tests.tiny_models import CHATML, CONTEXT_WINDOW, CORPUS

CHAT = "/v1/chat/completions"
ASKED = (Message("system", "Be brief."), Message("user", "Where does the ferry go?"))
WINDOW = {"max_model_len": CONTEXT_WINDOW}


@pytest.fixture
def server():
    with model_server() as started:
        yield started


@pytest.fixture(scope="module")
def local(tiny):
    """The language models in this process that the remote ones must agree with."""
    loaded = {
        name: TorchCausalLM(resolve(str(tiny[name])), device="cpu")
        for name in ("qwen2", "gpt_neox")
    }
    yield loaded
    for model in loaded.values():
        model.close()


@pytest.fixture
def lm(server, request):
    """Opens a remote language model; `canned` serves only a list of models."""

    def opened(model_id="acme/tiny", *, entry=WINDOW, local=None, **options):
        served = str(model_id)
        serve_openai(server, name=options.pop("name", served), entry=entry, lm=local)
        made = remote_causal_lm(served, f"openai+{server.url}/v1", **options)
        request.addfinalizer(made.close)
        return made

    return opened


def text_of(stream) -> str:
    with stream:
        return "".join(stream)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_new_tokens=12),
        Sampling(max_new_tokens=12, do_sample=True, temperature=0.7, top_p=0.9, seed=5),
        Sampling(max_new_tokens=40, stop=("e",)),
    ],
    ids=["greedy", "drawn", "stopped"],
)
def test_an_answer_is_that_of_the_local_model(lm, tiny, local, sampling):
    remote, own = lm(tiny["qwen2"], local=local["qwen2"]), local["qwen2"]
    with own.stream(ASKED, sampling) as expected, remote.stream(ASKED, sampling) as found:
        assert "".join(found) == "".join(expected)
        assert found.finish_reason == expected.finish_reason
        assert found.usage == expected.usage


def test_prompts_are_counted_and_written_as_by_the_local_model(lm, tiny, local):
    for name in ("qwen2", "gpt_neox"):  # with a chat template, and in the Dolly form
        remote, own = lm(tiny[name], local=local[name]), local[name]
        assert remote.render(ASKED) == own.render(ASKED)
        assert [remote.count_tokens(t) for t in CORPUS] == [own.count_tokens(t) for t in CORPUS]
        assert remote.context_window == own.context_window == CONTEXT_WINDOW


def test_without_a_chat_template_the_form_is_sent_as_text(server, lm, tiny, local):
    asked = (Message("user", "Go?"),)
    remote, own = lm(tiny["gpt_neox"], local=local["gpt_neox"]), local["gpt_neox"]
    sampling = Sampling(max_new_tokens=5)
    assert text_of(remote.stream(asked, sampling)) == text_of(own.stream(asked, sampling))
    (sent,) = server.bodies("/v1/completions")
    assert sent["prompt"] == own.render(asked)
    assert server.bodies(CHAT) == []


def test_a_plain_prompt_is_completed_as_it_is(server, lm, tiny, local):
    remote, own = lm(tiny["qwen2"], local=local["qwen2"]), local["qwen2"]
    sampling = Sampling(max_new_tokens=5)
    assert text_of(remote.stream("The ferry", sampling)) == text_of(
        own.stream("The ferry", sampling)
    )
    assert server.bodies("/v1/completions")[0]["prompt"] == "The ferry"
    with pytest.raises(InvalidInput, match="empty"):
        remote.stream("", sampling)


def test_what_does_not_fit_the_window_is_refused_before_it_is_sent(server, lm, tiny):
    remote = lm(tiny["qwen2"])
    with pytest.raises(InvalidInput, match=f"more than the {CONTEXT_WINDOW} that"):
        remote.stream(ASKED, Sampling(max_new_tokens=CONTEXT_WINDOW))
    assert server.bodies(CHAT) == []


def test_a_template_without_a_system_role_gets_it_within_the_question(server, lm, tiny, tmp_path):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    for file in tiny["qwen2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(refusing + CHATML, "utf8")
    server.routes[CHAT] = events(chunk("ok", "stop"))
    assert text_of(lm(tmp_path).stream(ASKED, Sampling(max_new_tokens=2))) == "ok"
    (sent,) = server.bodies(CHAT)
    assert sent["messages"] == [
        {"role": "user", "content": "Be brief.\n\nWhere does the ferry go?"}
    ]


def test_a_request_in_full(server, lm):
    server.routes[CHAT] = events(chunk("ok", "stop"))
    sampling = Sampling(temperature=0.5, top_p=0.8, max_new_tokens=7, do_sample=True, seed=3)
    text_of(lm().stream(ASKED, sampling))
    assert server.bodies(CHAT) == [
        {
            "model": "acme/tiny",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Where does the ferry go?"},
            ],
            "temperature": 0.5,
            "top_p": 0.8,
            "seed": 3,
            "max_tokens": 7,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ]


def test_openai_itself_is_asked_by_its_own_name_for_a_length(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url)  # so that the request arrives here
    monkeypatch.setenv("http_proxy", server.url)
    base = "http://api.openai.com/v1"
    server.routes[f"{base}/models"] = answer({"data": [{"id": "gpt"}]})
    server.routes[f"{base}/chat/completions"] = events(chunk("ok", "stop"))
    remote = remote_causal_lm("gpt", f"openai+{base}", context_window=100)
    assert text_of(remote.stream(ASKED, Sampling(max_new_tokens=7))) == "ok"
    remote.close()
    (sent,) = server.bodies(f"{base}/chat/completions")
    assert (sent["max_completion_tokens"], "max_tokens" in sent) == (7, False)


OWN = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1}


@pytest.mark.parametrize(
    ("sampling", "own", "dialect", "sent", "notes"),
    [
        # Nothing said anywhere: transformers is greedy.
        (Sampling(), {}, "openai", {"temperature": 0}, []),
        (
            Sampling(temperature=0.7, seed=1, do_sample=False), OWN, "openai", {"temperature": 0},
            ["do_sample is off, so temperature had no effect.",
             "The server takes no repetition_penalty (1.1)."],
        ),
        # transformers draws from the fifty likeliest tokens unless told otherwise.
        (
            Sampling(do_sample=True), {}, "openai", {"temperature": 1.0, "top_p": 1.0},
            ["The server takes no top_k (50)."],
        ),
        (
            Sampling(do_sample=True), {}, "vllm",
            {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0,
             "repetition_penalty": 1.0}, [],
        ),
        (
            Sampling(top_p=0.5), OWN, "llama.cpp",
            {"temperature": 0.6, "top_p": 0.5, "top_k": 20, "min_p": 0.0, "typical_p": 1.0,
             "repeat_penalty": 1.1, "repeat_last_n": -1}, [],
        ),
        # top_k 0 is no top_k for transformers; servers call that -1.
        (
            Sampling(do_sample=True), {"top_k": 0, "eta_cutoff": 0.1, "typical_p": 0.9}, "vllm",
            {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
             "repetition_penalty": 1.0},
            ["The server takes no typical_p (0.9) and no eta_cutoff (0.1)."],
        ),
        (
            Sampling(), {"num_beams": 4}, "openai", {"temperature": 0},
            ["The model asks for beam search, which cannot stream: one beam was used."],
        ),
    ],
)  # fmt: skip
def test_sampling_is_mapped_and_what_is_lost_is_noted(sampling, own, dialect, sent, notes):
    assert parameters(sampling, own, dialect) == (sent, notes)


def test_the_models_own_settings_count_where_its_files_are(server, lm, tiny, tmp_path):
    for file in tiny["qwen2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    own = {**OWN, "max_new_tokens": 9, "stop_strings": ["END"]}
    (tmp_path / "generation_config.json").write_text(json.dumps(own), "utf8")
    server.routes[CHAT] = events(chunk("a EN"), chunk("D b"), chunk("", "stop"))
    assert text_of(lm(tmp_path).stream(ASKED, Sampling())) == "a "
    (sent,) = server.bodies(CHAT)
    assert (sent["temperature"], sent["max_tokens"], sent["stop"]) == (0.6, 9, ["END"])


def test_more_stops_than_a_server_takes_are_applied_here(server, lm, tiny, tmp_path):
    for file in tiny["qwen2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text('{"stop_strings": ["5"]}', "utf8")

    def write(exchange):
        exchange.start_events()
        exchange.event(chunk("6 5 4"))
        exchange.wait_for_hang_up()

    server.routes[CHAT] = write
    stream = lm(tmp_path).stream(ASKED, Sampling(stop=("1", "2", "3", "4")))
    assert "".join(stream) == "6 "
    assert stream.finish_reason == "stop"
    assert server.hung_up.wait(20)  # the server need not write on
    assert server.bodies(CHAT)[0]["stop"] == ["1", "2", "3", "4"]
    assert "The server gave no token counts." in stream.notes


def test_usage_is_the_servers(server, lm):
    usage = {"prompt_tokens": 11, "completion_tokens": 2}
    server.routes[CHAT] = events(chunk("a"), chunk("b", "length"), {"choices": [], "usage": usage})
    stream = lm().stream(ASKED, Sampling(max_new_tokens=2))
    assert list(stream) == ["a", "b"]
    assert (stream.usage, stream.finish_reason) == (Usage(11, 2), "length")
    assert stream.notes == ("The prompt's tokens were estimated: the tokenizer is not at hand.",)


def test_no_usage_is_said_and_not_made_up(server, lm):
    server.routes[CHAT] = events(chunk("a"), chunk("", "stop", usage=None))
    stream = lm().stream(ASKED, Sampling(max_new_tokens=2))
    assert list(stream) == ["a"]
    assert stream.usage == Usage(0, 0)
    assert stream.notes[-1] == "The server gave no token counts."


def test_other_ends_and_left_out_reasoning_are_noted(server, lm):
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    server.routes[CHAT] = events(thought, chunk("a"), chunk("", "content_filter"))
    stream = lm().stream(ASKED, Sampling(max_new_tokens=2))
    assert list(stream) == ["a"]
    assert "The model's reasoning is left out." in stream.notes
    assert "The server ended the answer for the reason 'content_filter'." in stream.notes


@pytest.mark.parametrize(
    ("reply", "pieces", "said"),
    [
        (events(chunk("a"), whole=False), ["a"], "broke off"),
        (events(chunk("a")), ["a"], "ended its answer in the middle"),
        (events(), [], "ended its answer in the middle"),
        (events(chunk("a"), "{oops"), ["a"], "is no JSON"),
        (events("[1]"), [], "for a piece of an answer"),
        (events(chunk("a"), {"error": {"message": "out of memory"}}), ["a"], "out of memory"),
        (status(500, "boom"), [], "answers 500: boom"),
    ],
    ids=["cut", "no end", "nothing", "half json", "list", "error event", "500"],
)
def test_an_answer_that_fails_is_no_short_answer(server, lm, reply, pieces, said):
    server.routes[CHAT] = reply
    stream = lm().stream(ASKED, Sampling(max_new_tokens=9))
    assert [next(stream) for _ in pieces] == pieces
    with pytest.raises(ModelUnavailable, match=said):
        next(stream)
    assert next(stream, "over") == "over"
    assert stream.finish_reason is None
    assert len(server.bodies(CHAT)) == 1


def test_a_connection_lost_after_the_end_costs_only_the_counts(server, lm, caplog):
    server.routes[CHAT] = events(chunk("a", "stop"), whole=False)
    stream = lm().stream(ASKED, Sampling(max_new_tokens=9))
    assert list(stream) == ["a"]
    assert "The server gave no token counts." in stream.notes
    assert "The answer was whole by then." in caplog.text


def test_what_the_server_refuses_the_caller_can_mend(server, lm):
    server.routes[CHAT] = status(400, "too many tokens")
    with pytest.raises(InvalidInput, match="too many tokens"):
        list(lm().stream(ASKED, Sampling(max_new_tokens=9)))


def holding(begun: threading.Event, *, first: bool):
    """Writes one piece, or none, and then waits for the client to go."""

    def write(exchange):
        if first:
            exchange.start_events()
            exchange.event(chunk("a"))
        begun.set()
        exchange.wait_for_hang_up()

    return write


@pytest.mark.parametrize("first", [False, True])
def test_closing_hangs_up_and_wakes_the_reader(server, lm, first):
    begun = threading.Event()
    server.routes[CHAT] = holding(begun, first=first)
    stream = lm().stream(ASKED, Sampling(max_new_tokens=9))
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(stream))
    reader.start()
    assert begun.wait(20)
    stream.close()
    stream.close()
    reader.join(20)
    assert not reader.is_alive()
    assert server.hung_up.wait(20)
    assert seen in ([], ["a"])
    assert stream.finish_reason == "cancelled"
    assert next(stream, "over") == "over"


def test_a_stream_that_nobody_holds_hangs_up(server, lm):
    begun = threading.Event()
    server.routes[CHAT] = holding(begun, first=True)
    stream = lm().stream(ASKED, Sampling(max_new_tokens=9))
    assert next(stream) == "a"
    del stream
    assert server.hung_up.wait(20)


def test_closing_the_model_cuts_what_runs(server, lm):
    begun = threading.Event()
    server.routes[CHAT] = holding(begun, first=True)
    model = lm()
    stream = model.stream(ASKED, Sampling(max_new_tokens=9))
    assert next(stream) == "a"
    model.close()
    assert list(stream) == []
    assert stream.finish_reason == "cancelled"


def test_answers_run_at_once(server, lm):
    together = threading.Barrier(4, timeout=20)

    def write(exchange):
        together.wait()  # passes only when all four are there
        events(chunk("ok", "stop"))(exchange)

    server.routes[CHAT] = write
    model = lm()
    streams = [model.stream(ASKED, Sampling(max_new_tokens=2)) for _ in range(4)]
    assert [text_of(stream) for stream in streams] == ["ok"] * 4


def test_the_window_is_the_servers_or_the_settings_and_never_guessed(lm):
    assert lm(entry={"max_model_len": 4096}).context_window == 4096
    assert lm(entry={"meta": {"n_ctx": 2048}}).context_window == 2048
    assert lm(entry={"max_model_len": 4096}, context_window=512).context_window == 512
    with pytest.raises(ModelUnavailable, match="RAG_GENERATOR_CONTEXT_WINDOW"):
        lm(entry={})


def test_another_model_is_refused_and_its_name_there_can_be_given(server, lm):
    with pytest.raises(
        ModelUnavailable, match=r"has no model 'acme/tiny'; it has tiny:latest.*#NAME"
    ):
        lm(name="tiny:latest")
    remote = remote_causal_lm("acme/tiny", f"openai+{server.url}/v1#tiny")
    server.routes[CHAT] = events(chunk("ok", "stop"))
    assert text_of(remote.stream(ASKED, Sampling(max_new_tokens=2))) == "ok"
    remote.close()
    assert server.bodies(CHAT)[0]["model"] == "tiny"
    assert remote.id == "acme/tiny"


def test_a_server_that_lists_no_models_is_taken_at_its_word(server, caplog):
    remote = remote_causal_lm("acme/tiny", f"openai+{server.url}/v1", context_window=100)
    remote.close()
    assert "lists no models: acme/tiny is not checked" in caplog.text


def test_estimates_err_upwards(local):
    estimate, own = EstimatedPrompts(), local["qwen2"]
    # "ferry" is two times three bytes at most, every digit and mark one token.
    assert estimate.count_tokens("ferry") == 2
    assert estimate.count_tokens("1,234.5") == 7
    assert estimate.count_tokens("") == 0
    written = estimate.render(ASKED)
    assert written == Template(CHATML, trim_blocks=True).render(
        messages=[{"role": m.role, "content": m.content} for m in ASKED],
        add_generation_prompt=True,
    )
    assert estimate.count_tokens(written) >= own.count_tokens(written)


def test_vllm_counts_and_writes(server, lm):
    def tokenize(exchange):
        body = exchange.body
        text = body.get("prompt") or CHATML_OF(body["messages"])
        assert body.get("add_special_tokens") is (False if "prompt" in body else None)
        exchange.json({"tokens": list(text.encode()), "count": len(text.encode())})

    server.routes["/tokenize"] = tokenize
    server.routes["/detokenize"] = lambda exchange: exchange.json(
        {"prompt": bytes(exchange.body["tokens"]).decode()}
    )
    model = lm(dialect="vllm")
    assert model.count_tokens("fähre") == 6  # a token a byte
    assert model.render(ASKED) == CHATML_OF([{"role": m.role, "content": m.content} for m in ASKED])


def test_llama_cpp_counts_writes_and_tells_its_window(server, lm):
    server.routes["/props"] = answer({"default_generation_settings": {"n_ctx": 1024}})
    server.routes["/apply-template"] = lambda exchange: exchange.json(
        {"prompt": CHATML_OF(exchange.body["messages"])}
    )
    server.routes["/tokenize"] = lambda exchange: exchange.json(
        {"tokens": exchange.body["content"].split()}
    )
    model = lm(dialect="llama.cpp", entry={"meta": {"n_ctx_train": 32768}})
    assert model.context_window == 1024  # of a slot, not what the model was trained on
    assert model.count_tokens("the ferry leaves") == 3
    assert model.render(ASKED).endswith("<|im_start|>assistant\n")
    server.routes["/tokenize"] = answer({"count": 3})
    with pytest.raises(ModelUnavailable, match="/tokenize in an unknown form"):
        model.count_tokens("the")


def CHATML_OF(messages) -> str:
    return Template(CHATML).render(messages=messages, add_generation_prompt=True)


def test_embeddings_are_those_of_the_local_model(server, tiny):
    own = load_embedder(str(tiny["bge"]), engines=Engines(name="torch", device="cpu"))
    serve_openai(server, name="bge", entry={"max_model_len": 64}, encoder=own.encoder)
    remote = remote_embedder(str(tiny["bge"]), f"openai+{server.url}/v1#bge")
    texts = [*CORPUS * 5, " ".join(CORPUS) * 3]  # 41: two batches
    found = remote.embed_passages(texts)
    remote.encoder.close()
    np.testing.assert_allclose(found, own.embed_passages(texts), atol=1e-6)
    assert remote.fingerprint == own.fingerprint | {"revision": "bge"}
    own.encoder.close()
    assert [len(body["input"]) for body in server.bodies("/v1/embeddings")] == [1, 32, 9]
    assert {body["model"] for body in server.bodies("/v1/embeddings")} == {"bge"}


@pytest.mark.parametrize(
    "reply",
    [
        {"data": [{"index": 0, "embedding": [1.0]}]},
        {"data": [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}]},
        {"data": [{"embedding": [1.0]}]},
        {"vectors": []},
    ],
)
def test_embeddings_that_are_missing_are_noticed(server, tiny, reply):
    serve_openai(server, name=str(tiny["bge"]), entry={})
    server.routes["/v1/embeddings"] = answer({"data": [{"index": 0, "embedding": [1.0]}]})
    remote = remote_embedder(str(tiny["bge"]), f"openai+{server.url}/v1")
    server.routes["/v1/embeddings"] = answer(reply)
    with pytest.raises(ModelUnavailable, match="/embeddings in an unknown form"):
        remote.embed_passages(["a", "b"])
    remote.encoder.close()


def test_an_embedding_server_that_reads_less_is_refused(server, tiny):
    serve_openai(server, name=str(tiny["bge"]), entry={"max_model_len": 32})
    with pytest.raises(ModelUnavailable, match="reads 32 tokens of a text, the model 64"):
        remote_embedder(str(tiny["bge"]), f"openai+{server.url}/v1")


def test_a_generator_cannot_speak_tei():
    with pytest.raises(InvalidInput, match="OpenAI's API"):
        remote_causal_lm("acme/tiny", "tei+http://127.0.0.1:1")
