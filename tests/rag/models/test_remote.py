import pytest

from rag.errors import InvalidInput
from rag.models.remote import Address, cut, cut_pairs, local_folder, remote_limits
from rag.models.tokens import load_tokenizer, tokenize, tokenize_pairs
from rag.models.transport import Limits
from rag.settings import Settings, load_settings
from tests.tiny_models import CORPUS

LONG = " ".join(CORPUS) * 3


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tei+http://host:8080", Address("tei", "http://host:8080")),
        ("tei+http://host:8080/", Address("tei", "http://host:8080")),
        ("openai+https://host/v1", Address("openai", "https://host/v1")),
        ("openai+http://h:1/v1#qwen2.5:0.5b", Address("openai", "http://h:1/v1", "qwen2.5:0.5b")),
    ],
)
def test_an_address_is_a_protocol_and_a_url(text, address):
    assert Address.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://host",
        "vllm+http://host",
        "tei+ftp://host",
        "tei+http://",
        "tei+http://me:pass@host",
        "openai+http://host/v1?key=pass",
        "tei+http://host /x",
    ],
)
def test_other_addresses_are_refused_and_never_repeated(text):
    with pytest.raises(InvalidInput, match="must be tei") as raised:
        Address.parse(text)
    assert "pass@" not in str(raised.value)


@pytest.mark.parametrize("most", [2, 3, 10, 64])
def test_cut_texts_have_the_tokens_that_a_local_model_reads(tiny, most):
    tokenizer = load_tokenizer(tiny["bge"])
    texts = [*CORPUS, LONG, ""]
    read = [encoding.ids for encoding in tokenize(tokenizer, texts, most)]
    found = [encoding.ids for encoding in tokenizer.encode_batch(cut(tokenizer, texts, most))]
    assert found == read


@pytest.mark.parametrize("most", [2, 3, 10, 64])
def test_a_tokenizer_that_segments_the_rest_anew_gets_no_token_more(tiny, most):
    tokenizer = load_tokenizer(tiny["reranker"])
    # Unigram weighs whole texts: the same beginning alone may be split into more tokens.
    for text, short in zip(CORPUS, cut(tokenizer, CORPUS, most), strict=True):
        assert text.startswith(short)
        assert len(tokenizer.encode(short)) <= most
        whole = len(tokenizer.encode(text))
        assert len(tokenizer.encode(short)) >= min(most, whole) - 2


@pytest.mark.parametrize("question", [CORPUS[5], LONG])
def test_cut_pairs_have_the_tokens_that_a_local_cross_encoder_reads(tiny, question):
    tokenizer = load_tokenizer(tiny["reranker"])
    passages = [*CORPUS, LONG]
    read = [pair.ids for pair in tokenize_pairs(tokenizer, question, passages, 40)]
    asked, texts = cut_pairs(tokenizer, question, passages, 40)
    assert [tokenizer.encode(asked, text).ids for text in texts] == read


def test_the_files_of_a_model_may_be_here_with_or_without_weights(tiny, tmp_path):
    assert local_folder(str(tiny["bge"])) == tiny["bge"]
    (tmp_path / "tokenizer.json").write_bytes((tiny["bge"] / "tokenizer.json").read_bytes())
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("acme/unheard-of") is None
    assert local_folder("no id at all!") is None


def test_limits_are_those_of_the_settings():
    assert remote_limits(Settings.model_construct()) == Limits()
    settings = Settings.model_construct(remote_retries=7, remote_breaker_seconds=2.5)
    assert remote_limits(settings) == Limits(retries=7, breaker_seconds=2.5)


def test_settings_are_read_and_keys_are_not_shown(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAG_GENERATOR_URL", "openai+http://host/v1")
    monkeypatch.setenv("RAG_GENERATOR_API_KEY", "sk-secret")
    settings = load_settings()
    assert settings.generator_api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(settings)
    monkeypatch.setenv("RAG_GENERATOR_URL", "http://host/v1")
    with pytest.raises(InvalidInput, match="generator_url"):
        load_settings()
