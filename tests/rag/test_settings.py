import os
from pathlib import Path

import pytest

from rag.errors import InvalidInput
from rag.settings import PROFILES, Profile, Settings, load_settings


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """An empty working folder, and nothing set in the environment."""
    for name in [name for name in os.environ if name.upper().startswith("RAG_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_hold_together():
    settings = load_settings()
    assert (settings.chunk_tokens, settings.chunk_overlap, settings.fusion) == (256, 32, "dbsf")
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.models == PROFILES["default"]
    assert settings.catalog_url == f"sqlite:///{Path('ragstone-data/catalog.sqlite')}"


def test_the_environment_names_settings_with_a_prefix(monkeypatch):
    monkeypatch.setenv("RAG_CHUNK_TOKENS", "200")
    monkeypatch.setenv("RAG_DATA", "/srv/rag")
    monkeypatch.setenv("RAG_QDRANT_GRPC", "true")
    monkeypatch.setenv("CHUNK_OVERLAP", "7")  # not ours
    settings = load_settings()
    assert (settings.chunk_tokens, settings.chunk_overlap) == (200, 32)
    assert (settings.data, settings.qdrant_grpc) == (Path("/srv/rag"), True)


def test_every_setting_can_come_from_the_environment(monkeypatch):
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int) and not isinstance(field.default, bool):
            monkeypatch.setenv(f"RAG_{name.upper()}", str(field.default))
    assert load_settings() == Settings()


def test_arguments_win_over_the_environment_and_that_over_the_file(monkeypatch):
    Path("ragstone.toml").write_text(
        'chunk_tokens = 100\nport = 1111\nhost = "file"\nold_setting = 1\n', "utf8"
    )
    monkeypatch.setenv("RAG_PORT", "2222")
    monkeypatch.setenv("RAG_HOST", "environment")
    settings = load_settings(host="argument", chunk_overlap=None)
    assert (settings.chunk_tokens, settings.port, settings.host) == (100, 2222, "argument")
    assert settings.chunk_overlap == 32  # None counts as not given


def test_all_wrong_values_are_named_at_once(monkeypatch):
    monkeypatch.setenv("RAG_PORT", "0")
    monkeypatch.setenv("RAG_DEVICE", "tpu")
    Path("ragstone.toml").write_text('chunk_tokens = "many"\n', "utf8")
    with pytest.raises(InvalidInput) as raised:
        load_settings(rerank_blend=2)
    for name in ("port: ", "device: ", "chunk_tokens: ", "rerank_blend: "):
        assert name in raised.value.message
    assert "RAG_<NAME>" in raised.value.hint


def test_a_secret_is_neither_shown_nor_repeated_in_an_error(monkeypatch):
    monkeypatch.setenv("RAG_DATABASE_URL", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("RAG_QDRANT_API_KEY", "hunter2")
    settings = load_settings()
    assert "hunter2" not in repr(settings)
    assert settings.catalog_url == "postgresql://u:hunter2@h/d"
    with pytest.raises(InvalidInput) as raised:
        load_settings(port=0)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("chunk_tokens", 64, 8192),  # 32 with the overlap of 32 would be all overlap
        ("chunk_overlap", 0, 128),
        ("embed_batch", 1, 4096),
        ("retrieve_limit", 1, 1000),
        ("rerank_limit", 1, 200),
        ("rerank_blend", 0, 1),
        ("context_tokens", 64, 1_000_000),
        ("quote_sentences", 1, 20),
        ("max_limit", 1, 1000),
        ("port", 1, 65535),
        ("qdrant_grpc_port", 1, 65535),
        ("threads", 0, 1024),
    ],
)
def test_bounds_are_within_the_range(name, least, most):
    for good in (least, most):
        assert getattr(load_settings(**{name: good}), name) == good
    for bad in (least - 1, most + 1):
        with pytest.raises(InvalidInput, match=f"Wrong settings: {name}|chunk_overlap"):
            load_settings(**{name: bad})


def test_the_smallest_chunk_needs_a_smaller_overlap():
    assert load_settings(chunk_tokens=32, chunk_overlap=16).chunk_tokens == 32
    with pytest.raises(InvalidInput, match="at most half of chunk_tokens"):
        load_settings(chunk_tokens=32, chunk_overlap=17)
    with pytest.raises(InvalidInput, match="chunk_tokens: "):
        load_settings(chunk_tokens=31, chunk_overlap=0)


def test_the_default_answer_is_not_longer_than_the_longest():
    assert load_settings(default_new_tokens=50, max_new_tokens=50).max_new_tokens == 50
    with pytest.raises(InvalidInput, match="default_new_tokens must not exceed max_new_tokens"):
        load_settings(default_new_tokens=51, max_new_tokens=50)


def test_a_model_set_by_name_takes_the_place_of_the_profiles():
    chosen = load_settings(profile="starter", reranker="my/reranker").models
    starter = PROFILES["starter"]
    assert chosen == Profile(starter.embedder, "my/reranker", starter.generator)


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1
