import json
import subprocess
import sys

import httpx
import pytest

from services.app import create_app
from tests.services.serving import running


def rag(data, *arguments, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", "from services.cli import main; main()", *arguments],
        env={**os.environ, "RAG_DATA": str(data), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def served(own_parts):
    from rag.orchestrator import Orchestrator
    from rag.types import Scope

    with running(create_app(orchestrator=Orchestrator(own_parts, Scope("default")))) as opened:
        yield opened


def test_a_key_is_made_used_and_revoked_beside_a_running_server(own_parts, served):
    data = own_parts.settings.data
    assert served.get("/v1/collections").status_code == 200
    made = rag(data, "keys", "create", "alice", "--role", "write", "--all-collections")
    text = made.stdout.strip()
    assert text.startswith("rag_"), made.stderr
    assert "shown this once" in made.stderr
    headers = {"Authorization": f"Bearer {text}"}
    assert served.get("/v1/collections").status_code == 401
    assert served.get("/v1/collections", headers=headers).status_code == 200

    listed = json.loads(rag(data, "keys", "ls", "--json").stdout)
    assert [(key["name"], key["role"], key["state"]) for key in listed] == [
        ("alice", "write", "active")
    ]
    assert listed[0]["collections"] is None
    assert listed[0]["groups"] == []
    shown = rag(data, "keys", "ls").stdout
    assert "alice" in shown
    assert text.split("_", 2)[2] not in shown + json.dumps(listed)

    address = str(served.base_url)
    asked = httpx.get(f"{address}/v1/collections", headers=headers, trust_env=False)
    assert asked.status_code == 200
    prefix = text.split("_")[1]
    assert rag(data, "keys", "revoke", prefix).stdout == f"{prefix} (alice) is revoked\n"
    assert served.get("/v1/collections", headers=headers).status_code == 401
    denials = json.loads(rag(data, "audit", "--json").stdout)
    found = [(entry["status"], entry["action"]) for entry in denials]
    assert found == [
        (401, "GET"),
        (200, "keys revoke"),
        (401, "GET"),
        (200, "keys create"),
    ]
    assert text.split("_", 2)[2] not in json.dumps(denials)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["create", "bob", "--role", "read"], 2, "--all-collections"),
        (["create", "bob", "--role", "root"], 2, "There is no role 'root'"),
        (["revoke", "nosuch"], 3, "There is no key"),
    ],
)
def test_errors_are_a_line_and_a_hint(tmp_path, arguments, code, said):
    ended = rag(tmp_path, "keys", *arguments)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_server_that_would_be_open_does_not_start(tmp_path):
    ended = rag(tmp_path, "serve", "--host", "0.0.0.0", RAG_PROFILE="starter")
    assert ended.returncode == 2
    assert "open to everybody" in ended.stderr
    assert "Traceback" not in ended.stderr
