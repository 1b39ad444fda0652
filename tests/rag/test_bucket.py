"""Against a server that speaks S3, on loopback."""

import io
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.bucket import open_bucket
from rag.errors import InvalidInput, NotFound, StoreUnreachable
from rag.objects import digest, digest_of
from rag.orchestrator import Orchestrator

s3fs = pytest.importorskip("s3fs", reason='needs: pip install "ragstone[s3]"')
moto_server = pytest.importorskip("moto.server", reason='needs: pip install "ragstone[dev]"')

PART = 5 * 2**20  # the smallest part that S3 takes in an upload of several


@pytest.fixture(scope="module")
def endpoint():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def options(endpoint):
    return {"endpoint_url": endpoint, "key": "key", "secret": "secret"}


@pytest.fixture
def bucket(options, request):
    """An empty one; the folder in it is the test's own."""
    files = s3fs.S3FileSystem(**options)
    if not files.exists("documents"):
        files.mkdir("documents")
    return open_bucket(f"s3://documents/{request.node.name}/objects", options)


def test_bytes_come_back_under_their_digest(bucket):
    assert bucket.put(b"abc") == digest(b"abc")
    assert bucket.get(digest(b"abc")) == b"abc"
    assert bucket.get(bucket.put(b"")) == b""
    assert set(bucket.names()) == {digest(b"abc"), digest(b"")}


def test_a_file_of_several_parts_comes_back(bucket):
    data = bytes(range(256)) * (3 * PART // 256) + b"end"
    name = digest_of(io.BytesIO(data))
    bucket.put_file(io.BytesIO(data), name)
    assert digest(bucket.get(name)) == name


def test_an_interrupted_write_leaves_nothing(bucket):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 2 * PART:
                raise KeyboardInterrupt
            return super().read(size)

    with pytest.raises(KeyboardInterrupt):
        bucket.put_file(Broken(b"x" * 3 * PART), "0" * 64)
    assert list(bucket.names()) == []
    with pytest.raises(NotFound, match="0000"):
        bucket.get("0" * 64)


def test_an_object_is_fetched_as_a_file_for_a_while(bucket):
    name = bucket.put(b"abc")
    with bucket.local(name) as path:
        assert path.read_bytes() == b"abc"
    assert not path.exists()
    assert bucket.has(name)
    assert not bucket.has("0" * 64)
    with pytest.raises(NotFound, match="0000"), bucket.local("0" * 64):
        pass


def test_deleting_may_be_repeated(bucket):
    name = bucket.put(b"abc")
    bucket.delete(name)
    bucket.delete(name)
    with pytest.raises(NotFound) as raised:
        bucket.get(name)
    assert "backup" in raised.value.hint
    assert bucket.put(b"abc") == name  # and it can be kept again


def test_another_process_sees_it_at_once(bucket, options):
    other = open_bucket(f"s3://{bucket._root}", options)
    assert list(other.names()) == []
    name = bucket.put(b"abc")
    assert list(other.names()) == [name]
    assert other.get(name) == b"abc"
    bucket.delete(name)
    assert list(other.names()) == []


def test_many_threads_keep_the_same_and_different_bytes(bucket):
    data = [str(n % 5).encode() for n in range(20)]
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(bucket.put, data))
    assert names == [digest(one) for one in data]
    assert set(bucket.names()) == set(names)


def test_a_server_that_is_gone_is_an_error_that_heals():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gone = open_bucket(
        "s3://documents/x",
        {"endpoint_url": f"http://127.0.0.1:{port}", "key": "k", "secret": "s",
         "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 1}},
    )  # fmt: skip
    with pytest.raises(StoreUnreachable, match="does not answer") as raised:
        gone.put(b"abc")
    assert "RAG_OBJECTS_URL" in raised.value.hint


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="is a folder"):
        open_bucket(f"file://{tmp_path}", {})


def test_an_unknown_protocol_is_refused():
    with pytest.raises(InvalidInput, match="cannot be used"):
        open_bucket("gopher://hole/x", {})


def test_documents_are_ingested_read_and_deleted_in_a_bucket(bucket, options, tmp_path, lighthouse):
    url = f"s3://{bucket._root}"
    file = tmp_path / "keeper.txt"
    file.write_text("The keeper of the light at Bergen trims the lamp at dusk.")
    with Orchestrator.open(
        tmp_path / "data", profile="starter", objects_url=url, objects_options=options
    ) as rag:
        rag.parts._loaded["embedder"] = lighthouse.parts.embedder
        (report,) = rag.ingest(file)
        assert rag.text(report.id) == file.read_text()
        assert digest(file.read_bytes()) in set(bucket.names())
        rag.delete(report.id)
        assert list(bucket.names()) == []
    assert not (tmp_path / "data" / "objects").exists()
