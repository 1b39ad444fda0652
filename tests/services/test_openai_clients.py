"""The clients that people use, each in a streamed and cited conversation with a running server."""

import json
import shutil
import subprocess

import pytest

from rag.orchestrator import Orchestrator
from rag.types import Scope
from services.app import create_app
from tests.services.serving import BELL_ROCK, running

ASKED = "Who built the Bell Rock lighthouse?"
FOLLOWED = "When were its lamps first lit?"
NAME = "clients"


@pytest.fixture(scope="module")
def base(parts):
    """The address of a running server, with a collection."""
    with running(create_app(orchestrator=Orchestrator(parts, Scope("default")))) as client:
        assert client.post("/v1/collections", json={"name": NAME}).status_code == 201
        document = {"id": "bell-rock", "title": "Bell Rock", "text": BELL_ROCK}
        sent = {"collection": NAME, "documents": [document]}
        assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
        yield str(client.base_url).rstrip("/")
        client.delete(f"/v1/collections/{NAME}")


def test_the_official_client(base):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none") as client:
        assert NAME in {model.id for model in client.models.list()}
        turns = [{"role": "user", "content": ASKED}]
        stream = client.chat.completions.create(
            model=NAME, messages=turns, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert "Robert Stevenson" in text
        assert chunks[-1].usage.total_tokens == 0, "quoting reads no tokens of a language model"
        assert chunks[-2].ragstone["citations"][0]["document_id"] == "bell-rock"
        turns += [{"role": "assistant", "content": text}, {"role": "user", "content": FOLLOWED}]
        *_, last = client.chat.completions.create(model=NAME, messages=turns, stream=True)
        assert "1811" in last.ragstone["citations"][0]["quote"]
        whole = client.chat.completions.create(
            model=NAME, messages=turns, extra_body={"ragstone": {"limit": 3}}
        )
        cited = whole.choices[0].message.annotations[0].url_citation
        assert whole.choices[0].message.content[cited.start_index : cited.end_index] == "[1]"
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.chat.completions.create(model="gpt-4o", messages=turns)
        with pytest.raises(openai.BadRequestError, match="'n' is not supported"):
            client.chat.completions.create(model=NAME, messages=turns, n=2)


def test_the_official_client_reads_the_embeddings(base, parts):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{base}/v1", api_key="none") as client:
        made = client.embeddings.create(model=parts.embedder.id, input=["A lighthouse."])
        assert len(made.data[0].embedding) == parts.embedder.dim


def test_langchain(base):
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(base_url=f"{base}/v1", api_key="none", model=NAME)
    turns = [("system", "Be brief."), ("human", ASKED)]
    text = "".join(str(piece.content) for piece in model.stream(turns))
    assert "Robert Stevenson" in text
    assert "[1]" in text
    turns += [("ai", text), ("human", FOLLOWED)]
    followed = "".join(str(piece.content) for piece in model.stream(turns))
    assert "1811" in followed
    assert "[1]" in followed


def test_llama_index(base):
    llms = pytest.importorskip("llama_index.llms.openai_like")
    core = pytest.importorskip("llama_index.core.llms")
    model = llms.OpenAILike(
        model=NAME, api_base=f"{base}/v1", api_key="none", is_chat_model=True, context_window=8192
    )
    turns = [core.ChatMessage(role="user", content=ASKED)]
    *_, last = model.stream_chat(turns)
    assert "Robert Stevenson" in last.message.content
    assert last.raw.ragstone["citations"][0]["document_id"] == "bell-rock"
    turns += [last.message, core.ChatMessage(role="user", content=FOLLOWED)]
    *_, last = model.stream_chat(turns)
    assert "1811" in last.raw.ragstone["citations"][0]["quote"]


def test_langchains_azure_ml_endpoint(base):
    """It knows no fields beside the parameters; they say what to answer from."""
    azure = pytest.importorskip("langchain_community.llms.azureml_endpoint")
    model = azure.AzureMLOnlineEndpoint(
        endpoint_url=f"{base}/score",
        endpoint_api_type="dedicated",
        endpoint_api_key="none",
        content_formatter=azure.GPT2ContentFormatter(),
        model_kwargs={"retrieval": True, "collection": NAME, "return_full_text": False},
    )
    answer = model.invoke(ASKED)
    assert "Robert Stevenson" in answer
    assert "[1]" in answer


@pytest.mark.filterwarnings("ignore:`LlamaChatContentFormatter` will be deprecated")  # it is in use
def test_langchains_azure_ml_chat_endpoint(base):
    """A conversation; the endpoint streams nothing in this form."""
    azure = pytest.importorskip("langchain_community.chat_models.azureml_endpoint")
    model = azure.AzureMLChatOnlineEndpoint(
        endpoint_url=f"{base}/score",
        endpoint_api_type="dedicated",
        endpoint_api_key="none",
        content_formatter=azure.LlamaChatContentFormatter(),
        model_kwargs={"retrieval": True, "collection": NAME},
    )
    turns = [("human", ASKED)]
    first = model.invoke(turns)
    assert "Robert Stevenson" in first.content
    followed = model.invoke([*turns, ("ai", first.content), ("human", FOLLOWED)])
    assert "1811" in followed.content
    assert "[1]" in followed.content


def test_curl(base):
    if (curl := shutil.which("curl")) is None:
        pytest.skip("There is no curl.")
    command = [curl, "-sN", f"{base}/v1/chat/completions", "-H", "Content-Type: application/json"]
    turns = []
    for asked, holds in ((ASKED, "Robert Stevenson"), (FOLLOWED, "1811")):
        turns.append({"role": "user", "content": asked})
        body = json.dumps({"model": NAME, "messages": turns, "stream": True})
        ran = subprocess.run([*command, "-d", body], capture_output=True, text=True, check=True)
        lines = [line for line in ran.stdout.splitlines() if line]
        assert lines[-1] == "data: [DONE]"
        last = json.loads(lines[-2].removeprefix("data: "))["ragstone"]
        assert last["citations"][0]["quote"] in BELL_ROCK
        assert holds in last["citations"][0]["quote"]
        turns.append({"role": "assistant", "content": last["answer"]})
