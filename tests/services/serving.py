"""The application served for tests, and what its answers look like."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rag.orchestrator import Orchestrator
from rag.parts import Parts, open_parts
from rag.types import Scope
from services import logs
from services.app import create_app
from services.service import Server

BELL_ROCK = (
    "The Bell Rock lighthouse stands on a reef off the coast of Angus. Robert Stevenson built it"
    " between 1807 and 1811. Its lamps were first lit on 1 February 1811."
)
FASTNET = "The Fastnet lighthouse was rebuilt in granite and finished in 1904 by William Douglass."


def with_settings(parts: Parts, **changes) -> Parts:
    """The same stores and models under other settings."""
    return replace(parts, settings=parts.settings.model_copy(update=changes))


@contextmanager
def serving(parts: Parts, orchestrator: Orchestrator | None = None) -> Iterator[TestClient]:
    """The application over parts, or over an orchestrator, its lifespan running."""
    app = create_app(orchestrator=orchestrator or Orchestrator(parts, Scope("default")))
    with local_client(app) as opened:
        yield opened


def local_orchestrator(parts: Parts) -> Orchestrator:
    """What the application of the tests works with."""
    return Orchestrator(parts, Scope("default"))


def local_client(app: FastAPI, **options) -> TestClient:
    """A client on the same machine, as the service is open to without keys."""
    return TestClient(
        app,
        base_url="http://127.0.0.1:8000",
        client=("127.0.0.1", 50000),
        raise_server_exceptions=False,
        **options,
    )


@contextmanager
def server(orchestrator: Orchestrator) -> Iterator[httpx.Client]:
    """The application behind a real server."""
    with running(create_app(orchestrator=orchestrator)) as opened:
        yield opened


@contextmanager
def running(app: FastAPI) -> Iterator[httpx.Client]:
    """An application behind a real server on a port of the loopback interface."""
    quiet = {"log_config": None, "access_log": False}  # as `serve` has it
    config = uvicorn.Config(app, timeout_graceful_shutdown=10, **quiet)
    server = Server(config, app)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        # The socket listens already: what connects before the server is up waits for it.
        # A daemon: what does not stop fails its own test, not the end of all.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        try:
            with httpx.Client(base_url=address, timeout=30, trust_env=False) as opened:
                opened.get("/healthz")  # it has said where it listens
                yield opened
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive(), "the server does not stop"


def is_problem(response, status: int, kind: str) -> dict:
    """The problem object, checked to be one."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == status
    assert found["type"] == kind, found
    assert found["title"]
    assert found["detail"]
    assert found["instance"] == response.url.path
    assert isinstance(found["hint"], str)
    return found


def events_of(text: str) -> list[tuple[str, dict]]:
    """(name, data) of every server-sent event."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("event: ")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in blocks
    ]


def with_models(parts: Parts, **names: str) -> Parts:
    """The same stores and embedder with other models, loaded when asked for."""
    changed = with_settings(parts, **names)
    return replace(changed, _loaded={"embedder": parts.embedder})


@contextmanager
def reopened(parts: Parts, data: Path) -> Iterator[Parts]:
    """New, empty stores with the models that are loaded already."""
    opened = open_parts(parts.settings.model_copy(update={"data": data}))
    try:
        yield replace(opened, _loaded=dict(parts._loaded))
    finally:
        opened.close()


@contextmanager
def logging_restored() -> Iterator[None]:
    """The logging of the process is as before after the block."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in logs.OWN_LOGGERS]
    handlers, levels = root.handlers[:], [one.level for one in (root, *loggers)]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        for logger, level in zip((root, *loggers), levels, strict=True):
            logger.setLevel(level)
