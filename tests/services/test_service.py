"""Health, start and stop, and the documentation page's examples."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient

from rag import revisions
from rag.errors import DataFolderBusy, StoreUnreachable
from services import app, chat, ingestion
from services import service as services
from tests.services.serving import (
    is_problem,
    local_client,
    local_orchestrator,
    reopened,
    server,
    serving,
    with_models,
)


def test_health(client):
    found = client.get("/healthz").json()
    assert len(found.pop("nonce")) == 32
    assert found == {"status": "ok", "version": version("ragstone")}
    ready = client.get("/readyz").json()
    checks = dict.fromkeys(("catalog", "migrations", "store", "disk"), "ok")
    assert ready == {"status": "ok", "checks": checks}


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch):
    monkeypatch.setattr(services, "PROBE_SECONDS", -1.0)


def test_whether_it_is_ready_is_looked_at_once_for_many_who_ask(own_parts, monkeypatch):
    """Anybody may ask: nobody else is to be kept from an answer by it."""
    monkeypatch.setattr(services, "PROBE_SECONDS", 60.0)
    looks = []
    monkeypatch.setattr(own_parts.store, "ping", lambda: looks.append(1))
    with server(local_orchestrator(own_parts)) as client, ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda _: client.get("/readyz").status_code, range(80)))
    assert set(found) == {200}
    assert len(looks) == 1


def test_what_a_driver_says_is_for_the_log(own_parts, monkeypatch, caplog):
    """Hosts and users may be in it."""

    def gone(*_: object, **__: object) -> None:
        raise StoreUnreachable("Qdrant does not answer.", inside="http://inner:6333 as boss")

    with serving(own_parts) as client:
        monkeypatch.setattr(own_parts.catalog, "collections", gone)
        for path in ("/readyz", "/v1/collections"):
            found = client.get(path)
            assert found.status_code == 503
            assert "Qdrant does not answer." in found.text
            assert "inner" not in found.text
    assert caplog.text.count("http://inner:6333 as boss") == 2


def test_not_ready_says_what_is_missing(client, parts, monkeypatch):
    def gone() -> None:
        raise StoreUnreachable("Qdrant does not answer.", hint="Start it.")

    monkeypatch.setattr(parts.store, "ping", gone)
    found = is_problem(client.get("/readyz"), 503, "about:blank")
    assert found["checks"]["store"] == "Qdrant does not answer. Start it."
    assert found["checks"]["catalog"] == "ok"
    assert client.get("/healthz").status_code == 200


def test_not_ready_with_tables_of_another_version(own_parts):
    """As when a newer version was started on the same database, and an older one still runs."""
    with own_parts.database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with serving(own_parts) as client:
        found = is_problem(client.get("/readyz"), 503, "about:blank")
    newest = revisions.newest()
    assert found["checks"]["migrations"] == (
        f"the catalog's tables are at revision 9999, this version needs {newest}: restart it"
    )
    assert found["checks"]["catalog"] == "ok"


def test_an_application_opens_its_folder_and_lets_it_go(parts, tmp_path):
    settings = parts.settings.model_copy(update={"data": tmp_path})
    for _ in range(2):
        application = app.create_app(settings)
        with local_client(application) as opened:
            assert opened.get("/readyz").status_code == 200
            with pytest.raises(DataFolderBusy), TestClient(app.create_app(settings)):
                pass


@pytest.mark.parametrize(
    ("create", "has", "lacks"),
    [
        (chat.create_app, {"/v1/ask", "/v1/search", "/score"}, {"/v1/documents"}),
        (ingestion.create_app, {"/v1/documents", "/v1/jobs/{job_id}"}, {"/v1/ask", "/score"}),
        (app.create_app, {"/v1/ask", "/score", "/v1/documents", "/v1/collections"}, set()),
    ],
)
def test_each_service_has_its_own_routes(client, create, has, lacks):
    schema = create(orchestrator=client.app.state.service.orchestrator).openapi()
    paths = set(schema["paths"])
    assert paths >= has | {"/healthz", "/readyz"}
    assert not paths & lacks


def test_wrong_settings_end_the_process_with_a_sentence(monkeypatch):
    monkeypatch.setenv("RAG_PORT", "none")
    with pytest.raises(SystemExit, match="port"):
        services.run(chat.create_app)


def test_serving_uses_the_configured_address(monkeypatch):
    seen = {}
    monkeypatch.setattr(services.logs, "configure", lambda _: None)  # the tests' own stays
    monkeypatch.setenv("RAG_PORT", "8123")
    monkeypatch.setattr(services.Server, "run", lambda server: seen.update(vars(server.config)))
    with pytest.raises(SystemExit, match="3"):  # a server that did not start
        services.run(chat.create_app)
    assert (seen["host"], seen["port"]) == ("127.0.0.1", 8123)


def test_the_examples_of_the_documentation_work(lm_parts, tmp_path):
    """All of /docs, against an empty folder, in the order in which a reader would try them."""
    with reopened(lm_parts, tmp_path) as fresh, serving(fresh) as client:
        assert client.get("/docs").status_code == 200
        schema = client.get("/openapi.json").json()
        tried = 0
        for path in ("/v1/documents?wait=true", "/v1/collections", "/v1/search", "/v1/ask"):
            for example in _examples(schema, path.partition("?")[0], "post"):
                assert client.post(path, json=example).is_success, (path, example)
                tried += 1
        for example in _examples(schema, "/v1/collections/{name}", "patch"):
            assert client.patch("/v1/collections/manuals", json=example).is_success
            tried += 1
        for example in _examples(schema, "/v1/documents/{document_id}", "patch"):
            assert client.patch("/v1/documents/bell-rock", json=example).is_success, example
            tried += 1
        for example in _examples(schema, "/v1/documents/{document_id}", "put"):
            assert client.put("/v1/documents/fastnet?wait=true", json=example).is_success, example
            tried += 1
        asked = next(iter(_examples(schema, "/v1/ask", "post")))
        trace_id = client.post("/v1/ask", json=asked).json()["trace_id"]
        for example in _examples(schema, "/v1/feedback", "post"):
            said = {**example, "trace_id": trace_id}
            assert client.post("/v1/feedback", json=said).is_success, example
            tried += 1
        for example in _examples(schema, "/score", "post"):
            assert client.post("/score", json=example).is_success, example
            tried += 1
        for example in _examples(schema, "/v1/collections/{name}/migration", "post"):
            # Its model is on a hub; the request is one that could be carried out.
            answer = client.post("/v1/collections/manuals/migration", json=example)
            assert answer.status_code == 202 or "not on this machine" in answer.text, answer.text
            tried += 1
        assert tried == sum(len(_all(operation)) for operation in _operations(schema))


def test_the_documented_question_is_answered(parts, tmp_path):
    with reopened(parts, tmp_path) as fresh, serving(with_models(fresh)) as client:
        schema = client.get("/openapi.json").json()
        (document,) = _examples(schema, "/v1/documents", "post")
        assert client.post("/v1/documents?wait=true", json=document).status_code == 200
        question = next(iter(_examples(schema, "/v1/ask", "post")))
        assert "Robert Stevenson" in client.post("/v1/ask", json=question).json()["answer"]


def test_every_operation_documents_its_problems(client):
    for operation in _operations(client.get("/openapi.json").json()):
        problem = operation["responses"]["default"]["content"]
        kind = "json" if "openai" in operation["tags"] else "problem+json"  # as its clients read
        assert set(problem) == {f"application/{kind}"}
        assert set(operation["responses"].get("422", {"content": problem})["content"]) == set(
            problem
        )


def _operations(schema):
    return [operation for path in schema["paths"].values() for operation in path.values()]


def _all(operation):
    content = operation.get("requestBody", {}).get("content", {})
    examples = content.get("application/json", {}).get("examples", {})
    return [example["value"] for example in examples.values()]


def _examples(schema, path, method):
    found = _all(schema["paths"][path][method])
    assert found, f"{method} {path} has no examples"
    return found
