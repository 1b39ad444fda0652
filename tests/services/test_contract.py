"""The whole OpenAPI document under generated requests: no 5xx, and every answer as it says.

`make soak` runs 20 minutes, the tests 2.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services import auth
from services.app import create_app
from tests.services.serving import BELL_ROCK, local_orchestrator, running, with_settings

SECONDS = int(os.environ.get("RAG_SOAK_SCHEMA_SECONDS", "120"))
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
)


def test_every_answer_is_as_the_schema_says(own_parts, tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "WRONG_KEYS_PER_MINUTE", 10**9)  # it tries many
    command = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("schemathesis is not installed: pip install 'ragstone[dev]'")
    parts = with_settings(own_parts, requests_per_minute=0, answer_cache=100)
    _, key = parts.keys.create("contract", "admin", collections=None, groups=None)
    _, operator = parts.keys.create("operator", "operator")
    with running(create_app(orchestrator=local_orchestrator(parts))) as served:
        headers = {"Authorization": f"Bearer {key}"}
        sent = {"documents": [{"id": "bell-rock", "text": BELL_ROCK}]}
        served.post("/v1/documents?wait=true", json=sent, headers=headers).raise_for_status()
        ended = subprocess.run(
            [
                command,
                "run",
                f"{str(served.base_url).rstrip('/')}/openapi.json",
                "--max-time",
                str(SECONDS),
                "--checks",
                ",".join(CHECKS),
                "--header",
                f"Authorization: Bearer {key}",
                "--suppress-health-check=all",
                "--warnings=off",
                "--continue-on-failure",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS + 300,
            check=False,
        )
        said = ended.stdout[-20_000:] + ended.stderr[-2000:]
        assert ended.returncode == 0, said
        tested = re.search(r"Tested: (\d+)", said)
        cases = re.search(r"(\d+) generated", said)
        assert tested is not None, said
        assert int(tested[1]) == sum(map(len, served.get("/openapi.json").json()["paths"].values()))
        assert cases is not None
        assert int(cases[1]) > 10 * SECONDS
        print(f"{tested[1]} operations, {cases[1]} requests in {SECONDS} s")  # noqa: T201
        backup = served.post("/v1/backup", headers={"Authorization": f"Bearer {operator}"})
        assert backup.status_code == 200
