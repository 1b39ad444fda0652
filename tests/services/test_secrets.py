"""Secrets that are planted turn up in no log, and not in the data folder."""

import logging
import os
import subprocess
import sys

import httpx
import pytest

from tests import secrets_watch
from tests.secrets_watch import PASSWORD
from tests.services.test_restart import free_port, is_ready
from tests.waiting import until

PLANTED = "plantedsecret4711"


def rag(environment, *arguments):
    command = [sys.executable, "-c", "from services.cli import main; main()", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_server_that_says_everything_says_no_secret(tmp_path, form):
    environment = {
        **os.environ,
        "RAG_DATA": str(tmp_path / "data"),
        "RAG_PROFILE": "starter",
        "RAG_PORT": str(free_port()),
        "RAG_LOG_LEVEL": "debug",
        "RAG_LOG_FORMAT": form,
        "RAG_QDRANT_API_KEY": PLANTED,
        "RAG_GENERATOR_API_KEY": PLANTED,
        "RAG_EMBEDDER_API_KEY": PLANTED,
    }
    made = [
        rag(environment, "keys", "create", role, "--role", role) for role in ("admin", "operator")
    ]
    keys = [one.stdout.strip() for one in made]
    assert all(key.startswith("rag_") for key in keys), made
    address = f"http://127.0.0.1:{environment['RAG_PORT']}"
    log = tmp_path / "server.log"
    serve = [sys.executable, "-c", "from services.cli import main; main()", "serve"]
    with (
        log.open("w") as file,
        subprocess.Popen(serve, env=environment, stdout=file, stderr=file) as server,
        httpx.Client(base_url=address, trust_env=False, timeout=60) as client,
    ):
        try:
            until(lambda: is_ready(address), seconds=120)
            admin, operator = ({"Authorization": f"Bearer {key}"} for key in keys)
            text = {"documents": [{"id": "a", "text": f"The lamp of {PLANTED} was lit in 1811."}]}
            assert client.post("/v1/documents?wait=true", json=text, headers=admin).is_success
            locked = {"files": ("x.pdf", b"%PDF-1.4 broken", "application/pdf")}
            sent = client.post(
                "/v1/documents?wait=true", files=locked, data={"password": PASSWORD}, headers=admin
            )
            assert sent.status_code == 422
            asked = {"question": f"When was the lamp of {PLANTED} lit?"}
            assert client.post("/v1/ask", json=asked, headers=admin).is_success
            assert client.post("/v1/ask", json=asked).status_code == 401
            wrong = {"Authorization": f"Bearer {keys[0][:-1]}_"}
            assert client.get(f"/v1/jobs?before={PLANTED}", headers=wrong).status_code == 401
            assert client.get(f"/v1/jobs?before={PLANTED}", headers=admin).status_code == 404
            url = {"documents": [{"url": f"http://me:{PASSWORD}@127.0.0.1:9/{PLANTED}"}]}
            assert client.post("/v1/documents", json=url, headers=admin).status_code == 422
            assert client.get("/metrics", headers=operator).is_success
            live = rag(environment | {"RAG_API_KEY": keys[0]}, "doctor", "--live", address)
            assert keys[0] not in live.stdout + live.stderr
        finally:
            server.terminate()
            server.wait(60)
    said = log.read_text("utf8")
    assert len(said.splitlines()) > 10
    assert "/v1/ask" in said  # it is the log of all that
    secrets = [*keys, *(key.split("_", 2)[2] for key in keys), PLANTED, PASSWORD]
    assert [secret for secret in secrets if secret in said] == []
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert not any(key.split("_", 2)[2].encode() in held for key in keys), path


def test_the_watch_over_all_tests_sees_what_it_should():
    watch = secrets_watch.Watch()
    logger = logging.Logger("x")
    logger.addHandler(watch)
    logger.info("prefix rag_abcdefghij alone is no secret")
    assert watch.found == []
    logger.info("key rag_abcdefghij_%s", "A" * 43)
    logger.info("under %s", PASSWORD)
    assert len(watch.found) == 2
