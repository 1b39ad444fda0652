"""A server says where it listens, in the data folder, and only as long as it does."""

import json
import os

import pytest

from services import running
from tests.services.serving import server


def test_a_server_is_found_while_it_listens(rag):
    data = rag.parts.settings.data
    assert running.find(data) is None
    with server(rag) as client:
        assert running.find(data) == str(client.base_url).rstrip("/")
        said = json.loads((data / running.FILE).read_text())
        assert said["pid"] == os.getpid()
        assert said["nonce"] == client.get("/healthz").json()["nonce"]
    assert not (data / running.FILE).exists()
    assert running.find(data) is None


def test_what_a_killed_server_left_is_recognised(tmp_path, rag):
    # Nobody listens there,
    running.announce(tmp_path, "127.0.0.1", 1, "gone")
    assert running.find(tmp_path) is None
    # or another server does by now.
    with server(rag) as client:
        running.announce(tmp_path, "127.0.0.1", client.base_url.port, "gone")
        assert running.find(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"url": 1}', '"text"'])
def test_a_file_that_says_nothing(tmp_path, text):
    (tmp_path / running.FILE).write_text(text)
    assert running.find(tmp_path) is None


def test_a_server_takes_back_only_its_own_word(tmp_path):
    running.announce(tmp_path, "127.0.0.1", 8000, "later")
    running.withdraw(tmp_path, "earlier")
    assert (tmp_path / running.FILE).exists()
    running.withdraw(tmp_path, "later")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),
        ("::", "http://[::1]:8000"),
        ("10.1.2.3", "http://10.1.2.3:8000"),
    ],
)
def test_the_address_is_one_to_connect_to(tmp_path, host, url):
    running.announce(tmp_path, host, 8000, "n")
    assert json.loads((tmp_path / running.FILE).read_text())["url"] == url


def test_a_folder_that_cannot_be_written_stops_no_server(tmp_path, caplog):
    running.announce(tmp_path / "missing", "127.0.0.1", 8000, "n")
    assert "will not find this server" in caplog.text


def test_a_shared_catalog_is_no_matter_of_one_folder(own_parts):
    """Several servers may work on it: none of them speaks for the folder."""
    from rag.orchestrator import Orchestrator
    from rag.types import Scope
    from tests.services.serving import with_settings

    url = f"sqlite:///{own_parts.settings.data / 'catalog.sqlite'}"
    shared = with_settings(own_parts, database_url=url)
    with server(Orchestrator(shared, Scope("default"))):
        assert running.find(own_parts.settings.data) is None
