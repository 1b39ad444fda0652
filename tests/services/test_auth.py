"""Who may ask, through the application as clients reach it."""

import json
import re

import pytest

from rag.errors import InvalidInput, StorageFull
from services import auth
from services.app import create_app
from tests.services.serving import (
    is_problem,
    local_client,
    local_orchestrator,
    running,
    serving,
    with_settings,
)

ASKED = {"query": "Who built Bell Rock?"}


@pytest.fixture
def made(own_parts):
    """Makes keys: the headers that send one."""

    def make(role, *, collections=None, groups=None, **more):
        _, text = own_parts.keys.create(role, role, collections=collections, groups=groups, **more)
        return {"Authorization": f"Bearer {text}"}

    return make


@pytest.fixture
def client(own_parts):
    with serving(own_parts) as opened:
        yield opened


def upload(client, headers, document_id="bell-rock", collection="default", **fields):
    text = "Robert Stevenson built the Bell Rock lighthouse between 1807 and 1811."
    sent = {"collection": collection, "documents": [{"id": document_id, "text": text, **fields}]}
    return client.post("/v1/documents?wait=true", json=sent, headers=headers)


def test_without_keys_the_machine_itself_is_let_in(client):
    assert upload(client, {}).status_code == 200
    assert client.post("/v1/search", json=ASKED).status_code == 200


def test_with_the_first_key_nobody_is_let_in_without_one(client, made):
    read = made("read")
    refused = client.post("/v1/search", json=ASKED)
    problem = is_problem(refused, 401, "/problems/unauthenticated")
    assert "rag keys create" in problem["hint"]
    assert refused.headers["www-authenticate"] == "Bearer"
    assert client.get("/v1/collections", headers=read).json() == {"collections": []}
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200
    assert client.post("/mcp", json={}).status_code == 401
    assert client.get("/no/such/route").status_code == 401


def test_revoking_the_last_key_opens_nothing(client, own_parts):
    key, text = own_parts.keys.create("alice", "admin", collections=None, groups=None)
    headers = {"Authorization": f"Bearer {text}"}
    assert client.get("/v1/collections", headers=headers).status_code == 200
    own_parts.keys.revoke(key.prefix)
    assert client.get("/v1/collections", headers=headers).status_code == 401
    assert client.get("/v1/collections").status_code == 401


def test_openais_clients_can_read_the_refusal(client, made):
    made("read")
    refused = client.get("/v1/models", headers={"Authorization": "Bearer sk-1234"})
    assert refused.status_code == 401
    assert refused.json()["error"]["type"] == "authentication_error"


def test_a_long_upload_is_refused_before_it_is_read(client, made):
    made("read")

    def endless():
        yield b"x" * 1000
        raise AssertionError("more than the first piece was read")

    refused = client.put("/v1/documents/x", content=endless())
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("role", "permitted"),
    [
        ("read", {"search"}),
        ("write", {"search", "upload", "delete"}),
        ("admin", {"search", "upload", "delete", "collection"}),
        ("operator", {"backup", "metrics"}),
    ],
)
def test_each_role_permits_its_own(client, made, role, permitted):
    assert upload(client, made("admin")).status_code == 200
    headers = made(role)
    calls = {
        "search": ("POST", "/v1/search", ASKED),
        "upload": ("POST", "/v1/documents", {"documents": [{"id": "n", "text": "A note."}]}),
        "delete": ("DELETE", "/v1/documents/bell-rock", None),
        "collection": ("POST", "/v1/collections", {"name": "another"}),
        "backup": ("POST", "/v1/backup", None),
        "metrics": ("GET", "/metrics", None),
    }
    for name, (method, path, body) in calls.items():
        answer = client.request(method, path, json=body, headers=headers)
        if name in permitted:
            assert answer.is_success, (name, answer.text)
        else:
            is_problem(answer, 403, "/problems/forbidden")


def test_every_route_says_what_it_needs(client):
    """A route that is forgotten sees nothing: it has no service. This names those meant so."""
    seen, open_to_all = set(), set()

    def look(routes):
        for route in routes:
            look(getattr(getattr(route, "original_router", None), "routes", []))
            if (inside := getattr(route, "dependant", None)) is not None:
                seen.add(route.name)
                calls = {one.call.__qualname__ for one in inside.dependencies}
                if "needs.<locals>.narrowed" not in calls:
                    open_to_all.add(route.path)

    look(client.app.routes)
    assert {"ask", "search", "delete_document", "backup", "chat_completions"} <= seen
    # `/metrics` asks for its permission itself; the page and its files say nothing of anybody.
    assert open_to_all == {"/healthz", "/readyz", "/metrics", "/", "/assets/{name}"}


def test_a_key_reaches_its_collections_alone(client, made):
    admin = made("admin")
    for name in ("mine", "theirs"):
        client.post("/v1/collections", json={"name": name}, headers=admin)
        assert upload(client, admin, name, name).status_code == 200
    key = made("write", collections=["mine"])
    assert [
        c["name"] for c in client.get("/v1/collections", headers=key).json()["collections"]
    ] == ["mine"]
    assert client.post("/v1/search", json=ASKED | {"collection": "mine"}, headers=key).is_success
    for method, path, body in (
        ("POST", "/v1/search", ASKED | {"collection": "theirs"}),
        ("POST", "/v1/ask", {"question": "Who?", "collection": "theirs"}),
        ("GET", "/v1/documents/theirs?collection=theirs", None),
        ("GET", "/v1/collections/theirs", None),
        ("POST", "/v1/documents", {"collection": "theirs", "documents": [{"text": "A"}]}),
        ("GET", "/v1/models/theirs", None),
    ):
        assert client.request(method, path, json=body, headers=key).status_code == 404, path
    jobs = client.get("/v1/jobs", headers=key).json()["jobs"]
    assert {job["collection"] for job in jobs} == {"mine"}


def test_a_key_without_collections_sees_nothing(client, made):
    upload(client, made("admin"))
    key = made("read", collections=[])
    assert client.get("/v1/collections", headers=key).json() == {"collections": []}
    assert client.post("/v1/search", json=ASKED, headers=key).status_code == 404
    assert client.get("/v1/jobs", headers=key).json()["jobs"] == []


def test_groups_see_their_documents(client, made):
    admin = made("admin")
    upload(client, admin, "open")
    upload(client, admin, "secret", metadata={"acl": ["hr"]})
    hr, other = made("read", groups=["hr"]), made("read", groups=["it"])

    def found(headers):
        hits = client.post("/v1/search", json=ASKED, headers=headers).json()["hits"]
        listed = client.get("/v1/documents", headers=headers).json()["documents"]
        assert {hit["document_id"] for hit in hits} == {one["id"] for one in listed}
        return {one["id"] for one in listed}

    assert found(hr) == {"open", "secret"} == found(admin)
    assert found(other) == {"open"}
    for part in ("", "/text", "/chunks", "/original"):
        path = f"/v1/documents/secret{part}"
        assert client.get(path, headers=hr).status_code == 200
        assert client.get(path, headers=other).status_code == 404
    job = client.get("/v1/jobs", headers=admin).json()["jobs"][0]["job_id"]
    assert client.get(f"/v1/jobs/{job}", headers=other).status_code == 404
    # Given to everybody, it is there at once; taken back, it is gone at once.
    for acl, seen in (([], {"open", "secret"}), (["hr"], {"open"})):
        patch = {"metadata": {"acl": acl}}
        assert client.patch("/v1/documents/secret", json=patch, headers=admin).is_success
        assert found(other) == seen


def test_what_a_member_sends_is_the_groups(client, made):
    member, other = made("write", groups=["hr"]), made("write", groups=["it"])
    upload(client, member, "plan")
    assert client.get("/v1/documents/plan", headers=member).json()["metadata"] == {"acl": ["hr"]}
    assert client.get("/v1/documents/plan", headers=other).status_code == 404
    assert client.delete("/v1/documents/plan", headers=other).status_code == 404
    denied = upload(client, other, "plan")  # its id is taken
    is_problem(denied, 403, "/problems/forbidden")
    foreign = upload(client, member, "gift", metadata={"acl": ["it"]})
    is_problem(foreign, 403, "/problems/forbidden")
    given = client.patch("/v1/documents/plan", json={"metadata": {"acl": ["it"]}}, headers=member)
    is_problem(given, 403, "/problems/forbidden")
    assert upload(client, member, "news", metadata={"acl": []}).is_success
    assert client.get("/v1/documents/news", headers=other).is_success


def test_traces_are_who_asked(client, made):
    admin = made("admin")
    upload(client, admin, "open")
    upload(client, admin, "secret", metadata={"acl": ["hr"]})
    hr, other = made("read", groups=["hr"]), made("read", groups=["it"])
    asked = {"question": "Who built Bell Rock?"}
    trace = client.post("/v1/ask", json=asked, headers=hr).json()["trace_id"]
    assert client.get(f"/v1/traces/{trace}", headers=hr).is_success
    assert client.get(f"/v1/traces/{trace}", headers=admin).is_success
    assert client.get(f"/v1/traces/{trace}", headers=other).status_code == 404
    feedback = {"trace_id": trace, "rating": "up"}
    assert client.post("/v1/feedback", json=feedback, headers=other).status_code == 404
    assert client.post(f"/v1/traces/{trace}/replay", json={}, headers=other).status_code == 404
    colleague = made("read", groups=["hr"])
    assert client.get(f"/v1/traces/{trace}", headers=colleague).status_code == 404


def test_writes_and_denials_are_written_down(client, made, own_parts):
    writer, reader = made("write"), made("read")
    upload(client, writer, "note")
    client.post("/v1/search", json=ASKED, headers=writer)
    client.delete("/v1/documents/note", headers=reader)
    client.get("/v1/collections", headers={"Authorization": "Bearer rag_nothing_atall"})
    found = [(e.status, e.action, e.target) for e in own_parts.audit.entries()]
    job = client.get("/v1/jobs", headers=reader).json()["jobs"][0]["job_id"]
    assert found == [
        (401, "GET", "/v1/collections"),
        (403, "DELETE delete_document", "/v1/documents/note"),
        (200, "POST add_documents", f"/v1/documents collection=default job={job}"),
    ]
    latest = own_parts.audit.entries()
    prefix = re.search("rag_(.*?)_", writer["Authorization"]).group(1)
    assert latest[0].caller == ""
    assert latest[2].caller == f"key:{prefix}"
    assert {e.address for e in latest} == {"127.0.0.1"}
    assert "atall" not in json.dumps([str(e) for e in latest])


def test_what_is_written_down_says_what_was_written(client, made, own_parts):
    writer = made("write")
    for name in ("a", "b"):
        upload(client, writer, name)
    where = json.dumps({"document_id": "b"})
    client.patch("/v1/documents/a", json={"title": "Secret"}, headers=writer)
    client.delete("/v1/documents", params={"filter": where}, headers=writer)
    client.delete("/v1/documents/a", headers=writer)
    targets = [e.target for e in own_parts.audit.entries(limit=3)]
    assert targets == [
        "/v1/documents/a collection=default",
        "/v1/documents collection=default 1 deleted",
        "/v1/documents/a collection=default",
    ]


def test_a_write_that_fails_inside_is_written_down_and_answered_like_others(
    client, made, own_parts, monkeypatch
):
    def broken(*_, **__):
        raise RuntimeError("inside")

    monkeypatch.setattr("rag.collection.create", broken)
    failed = client.post("/v1/collections", json={"name": "new"}, headers=made("admin"))
    assert failed.status_code == 500
    assert failed.headers["x-content-type-options"] == "nosniff"
    assert failed.headers["cache-control"] == "no-store"
    (entry,) = own_parts.audit.entries(limit=1)
    assert (entry.status, entry.action) == (500, "POST create_collection")


def test_an_agent_whose_key_reads_nothing_is_refused_and_that_is_written_down(
    client, made, own_parts
):
    hello = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accepts = {"Accept": "application/json, text/event-stream"}
    refused = client.post("/mcp", json=hello, headers={**made("operator"), **accepts})
    is_problem(refused, 403, "/problems/forbidden")
    assert own_parts.audit.entries(limit=1)[0].target == "/mcp"


def test_paths_do_nothing_in_the_terminal_of_whoever_reads_the_audit_log(client, made, own_parts):
    made("read")
    client.get("/v1/%1b]0;owned%07%0AFAKE%c2%9b31m")
    (entry,) = own_parts.audit.entries(limit=1)
    assert entry.status == 401
    assert entry.target == r"/v1/\x1b]0;owned\x07\nFAKE\x9b31m"


def test_keys_open_when_nothing_can_be_written(client, made, own_parts, monkeypatch):
    """On a full disk questions are still answered, also for keys that were not used for long."""
    reader = made("read")

    def full(*_):
        raise StorageFull("The disk is full.")

    monkeypatch.setattr(own_parts.keys._database, "write", full)
    assert client.get("/v1/collections", headers=reader).status_code == 200


@pytest.mark.parametrize(
    "model", ["/etc", "~/models", "../x", "somebody/huge-model", "http://inner:8080"]
)
def test_an_admin_names_models_that_are_there_and_no_others(client, made, model):
    """What one tenant has loaded, all pay for; and a path would be a look into the machine."""
    admin = made("admin")
    upload(client, admin, "note")
    asked = {"to": model}
    found = client.post("/v1/collections/default/migration", json=asked, headers=admin)
    is_problem(found, 403, "/problems/forbidden")


@pytest.mark.parametrize(
    "headers",
    [{"via": "1.1 proxy"}, {"x-forwarded-proto": "https"}, {"cf-connecting-ip": "8.8.8.8"}],
)
def test_what_comes_through_a_proxy_is_not_from_this_machine(own_parts, headers):
    with serving(own_parts) as local:
        is_problem(local.get("/v1/collections", headers=headers), 403, "/problems/forbidden")


def test_an_origin_that_is_none_is_refused(own_parts):
    with serving(own_parts) as local:
        sent = local.post("/v1/search", json=ASKED, headers={"Origin": "http://["})
        is_problem(sent, 403, "/problems/forbidden")


def test_a_key_takes_so_many_requests(client, made):
    key = made("read", per_minute=3)
    statuses = [client.get("/v1/collections", headers=key).status_code for _ in range(5)]
    assert statuses == [200, 200, 200, 429, 429]
    refused = client.get("/v1/collections", headers=key)
    is_problem(refused, 429, "/problems/overloaded")
    assert refused.headers["retry-after"] == "20"  # 60 s for 3


def test_who_tries_keys_is_slowed_down(client, made, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_KEYS_PER_MINUTE", 2)
    right = made("read")
    wrong = {"Authorization": "Bearer rag_aaaaaaaaaa_bbbb"}
    assert [client.get("/v1/jobs", headers=wrong).status_code for _ in range(3)] == [401, 401, 429]
    assert client.get("/v1/jobs", headers=right).status_code == 200  # from the same address


def test_without_keys_others_are_kept_out(own_parts):
    with serving(own_parts) as local:
        service = local.app.state.service

        def denied(host, address="127.0.0.1", method="GET", **headers):
            try:
                service.gate.caller({"host": host, **headers}, address, method)
            except auth.Forbidden:
                return True
            return False

        assert not denied("127.0.0.1:8000")
        assert not denied("localhost:8000")
        assert not denied("[::1]:8000")
        assert denied("127.0.0.1:8000", "192.168.1.5")  # from another machine
        assert denied("evil.example")  # a name that was given the address 127.0.0.1
        assert denied("")
        assert denied("[::1")
        assert denied("127.0.0.1", **{"x-forwarded-for": "8.8.8.8"})  # a proxy let somebody in
        page = {"origin": "https://evil.example"}
        assert denied("127.0.0.1:8000", method="POST", **page)  # a form of some page
        assert not denied("127.0.0.1:8000", method="POST", origin="http://127.0.0.1:8000")
        assert denied("127.0.0.1:8000", method="POST", origin="null")


def test_the_server_does_not_start_open(own_parts):
    settings = own_parts.settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(InvalidInput, match="open to everybody"):
        auth.check_start(settings)
    auth.check_start(settings.model_copy(update={"allow_open": True}))
    auth.check_start(settings.model_copy(update={"host": "127.0.0.1"}))
    own_parts.keys.create("alice", "admin")
    auth.check_start(settings)


def test_browsers_are_told_to_distrust(client):
    headers = client.get("/healthz").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert (
        "access-control-allow-origin"
        not in client.get("/healthz", headers={"Origin": "https://evil.example"}).headers
    )
    assert client.get("/v1/collections").headers["cache-control"] == "no-store"


def test_origins_that_are_named_may_ask(own_parts):
    parts = with_settings(own_parts, cors_origins=("https://app.example.org",))
    with serving(parts) as opened:
        asks = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST"}
        assert opened.options("/v1/ask", headers=asks).status_code == 200
        asks["Origin"] = "https://evil.example"
        assert opened.options("/v1/ask", headers=asks).status_code == 400


def test_agents_are_asked_for_their_key(own_parts):
    app = create_app(orchestrator=local_orchestrator(own_parts))
    with running(app) as served:
        own_parts.keys.create("alice", "admin", collections=None, groups=None)
        hello = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert served.post("/mcp", json=hello).status_code == 401


def test_the_client_address_decides_for_a_server(own_parts):
    """Whatever the process was told to listen on: uvicorn may have been started by hand."""
    with local_client(create_app(orchestrator=local_orchestrator(own_parts))) as opened:
        opened._transport.client = ("10.0.0.7", 1)
        is_problem(opened.get("/v1/collections"), 403, "/problems/forbidden")


def test_another_tenants_document_of_the_same_name_hides_no_trace(client, made):
    admin, other = made("admin"), made("admin", tenant="other")
    upload(client, admin, "plan")
    upload(client, other, "plan", metadata={"acl": ["board"]})
    asked = {"question": "Who built Bell Rock?"}
    assert client.post("/v1/ask", json=asked, headers=other).json()["trace_id"]
    reader = made("read", groups=["hr"])
    trace = client.post("/v1/ask", json=asked, headers=reader).json()["trace_id"]
    assert client.get(f"/v1/traces/{trace}", headers=reader).status_code == 200
    assert [t["id"] for t in client.get("/v1/traces", headers=reader).json()["traces"]] == [trace]
