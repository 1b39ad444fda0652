import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from rag.errors import ModelUnavailable
from rag.models import load
from rag.models.load import BUNDLED_ID, BUNDLED_PACKAGE, BUNDLED_SHA256, is_available, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tiny, tmp_path):
    return shutil.copytree(tiny["bge"], tmp_path / "model")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The hub's cache of this test: empty, and the hub itself switched off."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put_into_cache(cache, repo, source):
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = shutil.copytree(source, root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT, "utf-8")
    return snapshot


# --- local folders


def test_a_folder_is_its_own_model(folder):
    files = resolve(str(folder))
    assert (files.id, files.path) == (str(folder), folder)
    assert len(files.revision) == 64
    assert is_available(str(folder))


def test_a_folders_revision_follows_its_content(folder):
    before = resolve(str(folder)).revision
    (folder / "README.md").write_text("no part of the model", "utf-8")
    assert resolve(str(folder)).revision == before
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert resolve(str(folder)).revision != before


def test_large_files_are_sampled_from_their_first_block_to_their_last():
    size = 10 * 2**30 + 5
    offsets = load._block_offsets(size)
    assert (len(offsets), offsets[0], offsets[-1]) == (64, 0, size - 2**20)
    assert list(load._block_offsets(2**20 + 1)) == [0, 2**20]  # small ones are read whole


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"lacks config\.json"),
        ("model.safetensors", r"lacks weights \(model\.safetensors\)"),
        ("tokenizer.json", "lacks a tokenizer"),
    ],
)
def test_an_incomplete_folder_says_what_it_lacks(folder, name, message):
    (folder / name).unlink()
    with pytest.raises(ModelUnavailable, match=message):
        resolve(str(folder))
    assert not is_available(str(folder))


def test_a_missing_shard_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {f"w{n}": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}), "utf-8")
    with pytest.raises(ModelUnavailable, match="lacks model-00002-of-00002"):
        resolve(str(folder))


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(ModelUnavailable, match="There is no model folder"):
        resolve(str(tmp_path / "nowhere"))
    assert not is_available(str(tmp_path / "nowhere"))


def test_a_folder_has_no_revisions(folder):
    with pytest.raises(ModelUnavailable, match="has no revision 'main'"):
        resolve(str(folder), revision="main")


# --- the bundled package


@pytest.mark.usefixtures("cache")
def test_the_bundled_model_needs_no_network():
    files = resolve(BUNDLED_ID)
    assert (files.id, files.revision) == (BUNDLED_ID, BUNDLED_SHA256)
    assert is_available(BUNDLED_ID)


def test_tampered_bundled_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / BUNDLED_PACKAGE
    shutil.copytree(resolve(BUNDLED_ID).path, package / "model")
    (package / "__init__.py").touch()
    with (package / "model" / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, os.SEEK_END)
        weights.write(b"\x55")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelUnavailable, match="are not sentence-transformers/all-MiniLM-L6-v2"):
        resolve(BUNDLED_ID)


@pytest.mark.usefixtures("cache")
def test_pulling_the_bundled_model_copies_it(tmp_path):
    files = load.pull(BUNDLED_ID, tmp_path)
    assert files.path == tmp_path / "all-MiniLM-L6-v2"
    assert resolve(str(files.path)).path == files.path


# --- the hub's cache


def test_a_cached_model_is_found_by_its_commit(cache, tiny):
    snapshot = put_into_cache(cache, "acme/tiny", tiny["bge"])
    files = resolve("acme/tiny")
    assert (files.path, files.revision) == (snapshot, COMMIT)
    assert resolve("acme/tiny", revision=COMMIT).path == snapshot
    assert is_available("acme/tiny")


def test_a_half_downloaded_model_is_not_available(cache, tiny):
    snapshot = put_into_cache(cache, "acme/tiny", tiny["bge"])
    (snapshot / "model.safetensors").unlink()
    assert not is_available("acme/tiny")
    with pytest.raises(ModelUnavailable, match="offline mode is on"):
        resolve("acme/tiny")


def test_a_folder_of_the_same_name_comes_before_the_cache(cache, tiny, tmp_path, monkeypatch):
    put_into_cache(cache, "acme/tiny", tiny["bge"])
    shutil.copytree(tiny["bge"], tmp_path / "acme" / "tiny")
    monkeypatch.chdir(tmp_path)
    assert resolve("acme/tiny").path == Path("acme/tiny")


def test_a_folder_without_a_model_is_not_meant(cache, tiny, tmp_path, monkeypatch):
    snapshot = put_into_cache(cache, "acme/tiny", tiny["bge"])
    (tmp_path / "acme" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("acme/tiny").path == snapshot


def test_the_task_is_no_part_of_the_repository(cache, tiny):
    snapshot = put_into_cache(cache, "BAAI/llm-embedder", tiny["bge"])
    files = resolve("BAAI/llm-embedder#chat")
    assert (files.id, files.path) == ("BAAI/llm-embedder#chat", snapshot)


@pytest.mark.usefixtures("cache")
def test_offline_names_the_three_ways_out():
    with pytest.raises(ModelUnavailable) as caught:
        resolve("BAAI/bge-small-en")
    hint = caught.value.hint
    assert "rag models pull BAAI/bge-small-en --to FOLDER" in hint
    assert "path of a local model folder" in hint
    assert "--profile starter" in hint


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("model_id", ["a/b/c", "what is this", ""])
def test_what_is_neither_folder_nor_hub_id(model_id):
    with pytest.raises(ModelUnavailable, match="neither a model folder nor the id"):
        resolve(model_id)
    assert not is_available(model_id)


def test_only_one_format_of_weights_is_fetched():
    beside = ["1_Pooling/config.json", "config.json", "merges.txt", "tokenizer.json"]
    noise = [
        "README.md", "onnx/model.onnx", "openvino/openvino_model.xml", "tf_model.h5",
        "flax_model.msgpack", "original/consolidated.00.pth", "consolidated.safetensors",
        "model.fp16.safetensors", "rust_model.ot", "modeling.py", "onnx/config.json",
    ]  # fmt: skip
    both = ["pytorch_model.bin", "model.safetensors"]
    assert load._needed([*noise, *beside, *both]) == ["model.safetensors", *beside]
    assert load._needed([*noise, *beside, both[0]]) == ["pytorch_model.bin", *beside]
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert load._needed(shards) == shards


# --- the hub: a process of its own, because huggingface_hub reads its settings when imported

CLIENT = """
import json, sys, time
from pathlib import Path
from rag.errors import ModelUnavailable
from rag.models.load import is_available, pull, resolve
start = time.monotonic()
try:
    files = pull(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 2 else resolve(sys.argv[1])
    result = {"path": str(files.path), "revision": files.revision}
except ModelUnavailable as error:
    result = {"error": error.message, "hint": error.hint}
result["seconds"] = time.monotonic() - start
print(json.dumps(result))
"""


def start_client(home, port, *arguments):
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
        "TRANSFORMERS_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    environment.pop("HF_HUB_CACHE", None)
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, *map(str, arguments)],
        env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(client):
    output, _ = client.communicate(timeout=60)
    return json.loads(output.splitlines()[-1])


def ask(home, port, *arguments):
    return finish(start_client(home, port, *arguments))


@pytest.fixture
def silent_port():
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def trickling_port():
    """A port that sends a byte now and then: no timeout between two bytes is ever exceeded."""
    stop = threading.Event()

    def trickle(server):
        connection, _ = server.accept()
        with connection, suppress(ConnectionError):  # the client gives up, that is the test
            while not stop.wait(0.2):
                connection.send(b"H")

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        thread = threading.Thread(target=trickle, args=(server,))
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


def test_a_silent_hub_is_given_up_within_five_seconds(tmp_path, silent_port, trickling_port):
    ports = (silent_port, trickling_port)
    clients = [start_client(tmp_path / str(port), port, "acme/tiny") for port in ports]
    for result in map(finish, clients):
        assert load.HUB_SECONDS <= result["seconds"] < 5
        assert "acme/tiny is not on this machine" in result["error"]
        assert "--profile starter" in result["hint"]


def test_a_closed_port_is_an_unreachable_hub(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free again, and nobody there, once the block ends
    result = ask(tmp_path, port, "acme/tiny")
    assert "cannot be reached" in result["error"]
    assert "rag models pull acme/tiny --to FOLDER" in result["hint"]
    assert result["seconds"] < 5


class Hub(BaseHTTPRequestHandler):
    """The four calls of the hub's API that a download makes, for one repository, acme/tiny."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path.startswith("/acme/tiny/resolve/"):
            content = (self.folder / path.split("/", 5)[5]).read_bytes()
        elif path.startswith("/api/models/acme/tiny"):
            content = json.dumps(self.tree() if "/tree/" in path else self.info()).encode()
        else:
            self.reply(404, b"{}", body=body)
            return
        self.reply(200, content, body=body)

    def reply(self, status, content, *, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def names(self):
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in paths]

    def info(self):
        siblings = [{"rfilename": name} for name in self.names()]
        return {"id": "acme/tiny", "sha": COMMIT, "siblings": siblings}

    def tree(self):
        sizes = {name: (self.folder / name).stat().st_size for name in self.names()}
        return [
            {"type": "file", "path": name, "size": size, "oid": "0" * 40}
            for name, size in sizes.items()
        ]

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(folder):
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"a duplicate")
    (folder / "pytorch_model.bin").write_bytes(b"another")
    handler = type("OneHub", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_download_lands_in_the_cache_and_is_not_asked_for_again(tmp_path, hub, folder):
    home, port = tmp_path / "home", hub.server_port
    first = ask(home, port, "acme/tiny")
    assert first["revision"] == COMMIT
    found = Path(first["path"])
    assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert (found / "1_Pooling" / "config.json").is_file()
    hub.RequestHandlerClass.asked.clear()
    again = ask(home, port, "acme/tiny")
    assert again["path"] == first["path"]
    assert hub.RequestHandlerClass.asked == []


def test_pull_fetches_one_format_into_a_folder_of_the_models_name(tmp_path, hub):
    result = ask(tmp_path / "home", hub.server_port, "acme/tiny", tmp_path / "usb")
    pulled = tmp_path / "usb" / "tiny"
    assert (result["path"], result["revision"]) == (str(pulled), COMMIT)
    assert (pulled / "model.safetensors").is_file()
    assert not (pulled / "pytorch_model.bin").exists()
    assert not (pulled / "onnx").exists()
    assert resolve(str(pulled)).path == pulled


def test_a_model_that_the_hub_does_not_have(tmp_path, hub):
    result = ask(tmp_path / "home", hub.server_port, "acme/typo")
    assert "The hub has no model acme/typo" in result["error"]
    assert "Check the spelling" in result["hint"]
