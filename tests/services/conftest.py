import json
from collections.abc import Iterator
from dataclasses import replace
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient

from rag.parts import Parts, open_parts
from rag.settings import Settings
from tests import tiny_models
from tests.services.serving import BELL_ROCK, FASTNET, serving


@pytest.fixture(scope="session")
def parts(tmp_path_factory) -> Iterator[Parts]:
    """Stores in a temporary folder, and the starter profile's models, loaded once."""
    data = tmp_path_factory.mktemp("data")
    opened = open_parts(Settings(data=data, profile="starter", threads=2, warm_up=False))
    assert opened.parsers  # made here, so that they are closed here, whichever copy parses first
    yield opened
    opened.close()


@pytest.fixture
def own_parts(tmp_path, parts) -> Iterator[Parts]:
    """Stores of one's own, on which nobody else works, with the models that are loaded."""
    settings = parts.settings.model_copy(update={"data": tmp_path / "own"})
    opened = open_parts(settings)
    for name in ("embedder", "reranker", "generator", "late interaction"):
        getattr(parts, name.replace(" ", "_"))  # load what is not loaded yet
        opened._loaded[name] = parts._loaded[name]
    assert opened.parsers  # as above
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def client(parts) -> Iterator[TestClient]:
    """The whole application. Tests share it, each with collections of its own."""
    with serving(parts) as opened:
        yield opened


@pytest.fixture
def collection(client) -> str:
    """A new collection."""
    name = f"c-{uuid4().hex[:12]}"
    assert client.post("/v1/collections", json={"name": name}).status_code == 201
    return name


@pytest.fixture
def lighthouses(client, collection) -> str:
    """A collection with two documents."""
    documents = [
        {"id": "bell-rock", "title": "Bell Rock", "text": BELL_ROCK, "metadata": {"sea": "north"}},
        {"id": "fastnet", "title": "Fastnet", "text": FASTNET, "metadata": {"sea": "celtic"}},
    ]
    sent = {"collection": collection, "documents": documents}
    assert client.post("/v1/documents?wait=true", json=sent).status_code == 200
    return collection


@pytest.fixture(scope="session")
def qwen(tmp_path_factory):
    """A tiny Qwen2 that reads 4096 tokens and never ends by itself."""
    folder = tiny_models.qwen2(tmp_path_factory.mktemp("lm") / "tiny-qwen2")
    for name, changes in {
        "config.json": {"max_position_embeddings": 4096, "eos_token_id": None},
        "generation_config.json": {"eos_token_id": None},
        "tokenizer_config.json": {"model_max_length": 4096},
    }.items():
        content = json.loads((folder / name).read_text("utf8"))
        (folder / name).write_text(json.dumps(content | changes), "utf8")
    return folder


@pytest.fixture(scope="session")
def lm_parts(parts, qwen) -> Iterator[Parts]:
    """The same stores and embedder with a language model."""
    settings = parts.settings.model_copy(update={"generator": str(qwen)})
    # The embedder and the stores are shared; only the generator is loaded anew.
    opened = replace(parts, settings=settings, _loaded={"embedder": parts.embedder})
    yield opened
    opened.generator.model.close()


@pytest.fixture(scope="session")
def lm_client(lm_parts) -> Iterator[TestClient]:
    """The whole application with a language model."""
    with serving(lm_parts) as opened:
        yield opened
