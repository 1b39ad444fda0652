import numpy as np
import pytest

from rag.embed import Embedder, load_embedder
from rag.errors import InvalidInput, ModelUnavailable
from rag.models.engine import Engines, open_cross_encoder
from rag.models.load import resolve
from rag.models.remote import (
    RemoteCrossEncoder,
    remote_cross_encoder,
    remote_embedder,
    remote_encoder,
)
from tests.remote_models import answer, model_server, serve_tei
from tests.tiny_models import CORPUS

LONG = " ".join(CORPUS) * 3


@pytest.fixture
def server():
    with model_server() as started:
        yield started


TORCH = Engines(name="torch", device="cpu")


@pytest.fixture(scope="module")
def local(tiny):
    """The embedder in this process that the remote one must agree with."""
    loaded = load_embedder(str(tiny["bge"]), engines=TORCH)
    yield loaded
    loaded.encoder.close()


@pytest.fixture(scope="module")
def local_reranker(tiny):
    loaded = open_cross_encoder(resolve(str(tiny["reranker"])), TORCH)
    yield loaded
    loaded.close()


def info(served: str, **changes) -> dict:
    return {
        "model_id": served,
        "model_sha": "5c38ec7",
        "model_type": {"embedding": {"pooling": "cls"}},
        "max_input_length": 64,
        "max_client_batch_size": 3,
        **changes,
    }


RERANKER = {"model_type": {"reranker": {"id2label": {"0": "L"}, "label2id": {"L": 0}}}}


@pytest.fixture
def embedder(server, tiny, local, request):
    """Opens the remote embedder over a server that is said to be otherwise by `changes`."""

    def opened(**changes) -> Embedder:
        serve_tei(server, info=info(str(tiny["bge"]), **changes), encoder=local.encoder)
        made = remote_embedder(str(tiny["bge"]), f"tei+{server.url}")
        request.addfinalizer(made.encoder.close)
        return made

    return opened


@pytest.fixture
def reranker(server, request):
    """Opens a remote cross-encoder."""

    def opened(model_id) -> RemoteCrossEncoder:
        made = remote_cross_encoder(str(model_id), f"tei+{server.url}")
        request.addfinalizer(made.close)
        return made

    return opened


def test_vectors_are_those_of_the_local_model(embedder, local):
    remote = embedder()
    texts = [*CORPUS, LONG]  # nine: three batches of the three that the server takes
    found, expected = remote.embed_passages(texts), local.embed_passages(texts)
    assert (found.shape, found.dtype) == ((9, 32), np.float32)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(remote.embed_queries(texts), local.embed_queries(texts), atol=1e-6)
    assert (remote.dim, remote.embed_passages([]).shape) == (local.dim, (0, 32))


def test_texts_are_cut_where_the_local_model_stops(server, embedder, local):
    # The server reads 512 tokens, the model 64: the server alone would read on.
    remote = embedder(max_input_length=512)
    assert local.count_tokens([LONG])[0] > 300
    np.testing.assert_allclose(
        remote.embed_passages([LONG]), local.embed_passages([LONG]), atol=1e-6
    )
    sent = server.bodies("/embed")[-1]
    assert sent["truncate"] is True
    assert sent["normalize"] is True
    assert LONG.startswith(sent["inputs"][0])
    assert local.count_tokens(sent["inputs"]) == [64]


def test_the_fingerprint_tells_models_and_revisions_apart(embedder, local):
    remote = embedder()
    assert remote.fingerprint == local.fingerprint | {"revision": "5c38ec7"}
    other = embedder(model_sha=None)
    assert other.fingerprint["revision"] == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_input_length": 63}, "reads 63 tokens of a text, the model 64"),
        ({"model_id": "BAAI/bge-m3"}, "serves BAAI/bge-m3, not"),
        ({"model_type": {"embedding": {"pooling": "mean"}}}, "pools by mean.*--pooling cls"),
        (RERANKER, "serves no embedding model"),
        ({"model_type": None}, "does not answer /info as"),
        ({"max_client_batch_size": "many"}, "does not answer /info as"),
    ],
)
def test_a_server_that_embeds_otherwise_is_refused(embedder, changes, said):
    with pytest.raises(ModelUnavailable, match=said):
        embedder(**changes)


def test_a_server_started_from_a_folder_cannot_be_checked_and_that_is_logged(embedder, caplog):
    embedder(model_id="/data/snapshot")
    assert "serves /data/snapshot; nothing tells that it is" in caplog.text


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        ([[1.0] * 32], r"was sent 2 texts and answered with numbers of shape \(1, 32\)"),
        ([[1.0] * 32, [1.0] * 31], "unequal lengths"),
        ([[1.0] * 16] * 2, "vectors of 16 dimensions, before that of 32"),
        ([[1.0] * 31 + [None]] * 2, "not finite"),
        ([[1.0] * 31 + [1e300]] * 2, "not finite"),
        ([[0.0] * 32] * 2, "no direction"),
        ({"error": "?"}, "no numbers"),
    ],
)
def test_wrong_vectors_are_refused(server, embedder, vectors, said):
    remote = embedder()
    server.routes["/embed"] = answer(vectors)
    with pytest.raises(ModelUnavailable, match=said):
        remote.embed_passages(["a", "b"])


def test_vectors_are_brought_to_unit_length(server, embedder):
    remote = embedder()
    server.routes["/embed"] = answer([[3.0, 4.0] + [0.0] * 30])
    np.testing.assert_allclose(remote.embed_passages(["a"])[0, :2], [0.6, 0.8], rtol=1e-6)


def test_token_vectors_need_the_embedder_here(embedder):
    with pytest.raises(ModelUnavailable, match=r"no token vectors.*RAG_RERANKER"):
        embedder().token_vectors(["a"])


def test_an_embedder_without_its_tokenizer_here_is_refused(server):
    with pytest.raises(ModelUnavailable, match=r"hf download acme/unheard-of --include"):
        remote_encoder("acme/unheard-of", f"tei+{server.url}")
    assert server.requests == []


def test_a_folder_with_a_tokenizer_and_no_weights_is_enough(server, tiny, tmp_path, local):
    folder = tmp_path / "bge"
    folder.mkdir()
    for file in tiny["bge"].rglob("*.json"):
        copy = folder / file.relative_to(tiny["bge"])
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    serve_tei(server, info=info("acme/bge"), encoder=local.encoder)
    remote = remote_embedder(str(folder), f"tei+{server.url}")
    found = remote.embed_passages(CORPUS)
    remote.encoder.close()
    np.testing.assert_allclose(found, local.embed_passages(CORPUS), atol=1e-6)


def test_logits_are_those_of_the_local_cross_encoder(server, tiny, local_reranker, reranker):
    serve_tei(server, info=info("acme/reranker", **RERANKER), cross_encoder=local_reranker)
    remote = reranker(tiny["reranker"])
    for question in (CORPUS[5], LONG):  # a question that fills the pair is cut to three quarters
        passages = [*CORPUS, LONG]
        expected = local_reranker.logits(question, passages)
        found = remote.logits(question, passages)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert remote.logits(CORPUS[0], []).shape == (0,)
    assert all(len(body["texts"]) <= 3 for body in server.bodies("/rerank"))


def test_without_a_tokenizer_the_server_cuts_and_that_is_logged(
    server, local_reranker, reranker, caplog
):
    serve_tei(server, info=info("acme/reranker", **RERANKER), cross_encoder=local_reranker)
    remote = reranker("acme/reranker")
    expected = local_reranker.logits(CORPUS[5], CORPUS)
    np.testing.assert_allclose(remote.logits(CORPUS[5], CORPUS), expected, atol=1e-5)
    assert server.bodies("/rerank")[0]["truncate"] is True
    assert "cuts the longer part" in caplog.text


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([{"index": 0, "score": 1.0}], r"sent 2 passages and scored \[0\]"),
        ([{"index": 0, "score": 1.0}] * 2, "sent 2 passages"),
        ([{"index": 1, "score": 1.0}, {"index": 2, "score": 0.0}], r"scored \[1, 2\]"),
        ([{"index": 0, "score": float("nan")}, {"index": 1, "score": 0.0}], "no numbers"),
        ([{"i": 0}], "unknown form"),
        ({"index": 0}, "unknown form"),
    ],
)
def test_wrong_ranks_are_refused(server, tiny, reranker, ranks, said):
    serve_tei(server, info=info("acme/reranker", **RERANKER))
    server.routes["/rerank"] = answer(ranks)
    remote = reranker(tiny["reranker"])
    with pytest.raises(ModelUnavailable, match=said):
        remote.logits("q", ["a", "b"])


def test_an_embedding_model_is_no_reranker(server, tiny, reranker):
    serve_tei(server, info=info("acme/reranker"))
    with pytest.raises(ModelUnavailable, match="serves no reranker"):
        reranker(tiny["reranker"])


def test_a_reranker_cannot_speak_openai(tiny):
    with pytest.raises(InvalidInput, match="text-embeddings-inference"):
        remote_cross_encoder(str(tiny["reranker"]), "openai+http://127.0.0.1:1/v1")
