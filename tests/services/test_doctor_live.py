"""`rag doctor --live` against real servers: ones that are well, ill, closed, or not there."""

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from starlette.responses import JSONResponse

from rag.errors import InvalidInput, StoreUnreachable
from rag.settings import Settings
from services import chat, cli, doctor_live, ingestion
from services.app import create_app
from services.client import Client
from tests.services.serving import running
from tests.waiting import until

KEY = "s3cret-key"


def url_of(http):
    return str(http.base_url).rstrip("/")


def examined(http, **settings):
    found = doctor_live.examine_live(url_of(http), Settings(**settings))
    return {check.name: check for check in found}


def test_a_server_that_is_well(lighthouse):
    with running(create_app(orchestrator=lighthouse)) as http:
        until(lambda: http.get("/readyz").status_code == 200)  # its models are loaded
        found = examined(http)
    assert {name: check.ok for name, check in found.items()} == {
        "server": True,
        "version": True,
        "ready: catalog": True,
        "ready: migrations": True,
        "ready: store": True,
        "ready: disk": True,
        "ready: models": True,
        "metrics": True,
        "search": True,
    }
    assert found["search"].found.startswith("1 hits in 'lighthouse', ")
    assert all(found[name].found.endswith(" ms") for name in ("server", "metrics", "search"))


def test_what_is_wrong_is_told_and_the_rest_is_looked_at(lighthouse, monkeypatch):
    def gone():
        raise StoreUnreachable("Qdrant does not answer.", hint="Start it.")

    monkeypatch.setattr(lighthouse.parts.store, "ping", gone)
    monkeypatch.setattr(doctor_live, "__version__", "9.9")
    with running(create_app(orchestrator=lighthouse)) as http:
        found = examined(http)
    assert found["version"].ok is False
    assert found["version"].found.endswith(", here 9.9")
    assert (found["ready: store"].ok, found["ready: catalog"].ok) == (False, True)
    assert found["ready: store"].found == "Qdrant does not answer. Start it."
    assert found["search"].ok is True


def test_a_service_that_does_not_search_and_one_without_a_collection(lighthouse, rag):
    with running(ingestion.create_app(orchestrator=lighthouse)) as http:
        assert examined(http)["search"].ok is None
    with running(chat.create_app(orchestrator=rag)) as http:
        assert examined(http)["search"].found == "there is no collection yet"


@pytest.fixture
def closed(lighthouse):
    """A server all of whose routes but /healthz ask for a key, and the keys that it was shown."""
    app, shown = create_app(orchestrator=lighthouse), []

    class Guard:
        def __init__(self, inner):
            self.inner = inner

        async def __call__(self, scope, receive, send):
            if scope["type"] == "http" and scope["path"] != "/healthz":
                key = dict(scope["headers"]).get(b"authorization", b"").decode()
                shown.append(key)
                if key != f"Bearer {KEY}":
                    body = {"type": "about:blank", "status": 401, "detail": "A key is needed."}
                    await JSONResponse(body, 401)(scope, receive, send)
                    return
            await self.inner(scope, receive, send)

    app.add_middleware(Guard)
    with running(app) as http:
        yield http, shown


def test_a_key_is_shown_and_never_printed(closed, capsys, monkeypatch):
    http, shown = closed
    found = examined(http)
    assert {name for name, check in found.items() if check.ok is False} == {
        "ready",
        "metrics",
        "search",
    }
    assert "A key is needed. " in found["metrics"].found
    assert "RAG_API_KEY" in found["metrics"].found
    shown.clear()
    monkeypatch.setenv("RAG_API_KEY", KEY)
    cli.app(["doctor", "--live", url_of(http)], standalone_mode=False)
    assert set(shown) == {f"Bearer {KEY}"}
    said = capsys.readouterr()
    assert "ok   search" in said.out
    assert KEY not in said.out + said.err


def test_every_other_command_shows_the_key_too(closed):
    http, shown = closed
    settings = Settings(api_key=KEY)
    with Client(url_of(http), patience=0, api_key=settings.api_key) as client:
        assert client.get("/v1/collections")["collections"]
    assert shown == [f"Bearer {KEY}"]
    assert KEY not in repr(settings)


def test_lines_exit_codes_and_json(lighthouse, capsys, monkeypatch):
    with running(create_app(orchestrator=lighthouse)) as http:
        # Without a scheme, as one types it.
        cli.app(["doctor", "--live", url_of(http).removeprefix("http://")], standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 9
        assert all(line.startswith("ok   ") for line in lines)
        monkeypatch.setattr(doctor_live, "__version__", "9.9")
        code = cli.app(["doctor", "--live", "--json", url_of(http)], standalone_mode=False)
        checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
        assert code == 1
        assert checks["version"]["ok"] is False


def test_nobody_answers(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(SystemExit) as ended:
        cli.told(lambda: cli.app(["doctor", "--live", url], standalone_mode=False))
    assert ended.value.code == 6
    first, hint = capsys.readouterr().err.splitlines()
    assert first.startswith(f"Error: No server answers at {url}: ")
    assert "rag doctor --live URL" in hint


def test_something_else_answers():
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"fine")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as other:
        answering = threading.Thread(target=other.handle_request)
        answering.start()
        url = f"http://127.0.0.1:{other.server_port}"
        (check,) = doctor_live.examine_live(url, Settings())
        answering.join()
    assert check.ok is False
    assert "not as a Ragstone server does" in check.found


def test_the_address_is_the_given_one_or_that_of_the_folder(tmp_path):
    settings = Settings(data=tmp_path, port=8123)
    assert doctor_live.address(settings, "host:9000/") == "http://host:9000"
    assert doctor_live.address(settings, "https://host") == "https://host"
    assert doctor_live.address(settings, None) == "http://127.0.0.1:8123"


def test_an_address_without_live_is_refused():
    with pytest.raises(InvalidInput, match="--live"):
        cli.app(["doctor", "http://127.0.0.1:8000"], standalone_mode=False)
