"""Models loaded when a service starts."""

import logging
import shutil
import threading

import pytest

from rag import parts as building
from rag.orchestrator import Orchestrator
from rag.parts import open_parts
from rag.types import Scope
from services import ingestion
from services.warmup import WarmUp
from tests.services.serving import is_problem, local_client, reopened, serving, with_models


@pytest.fixture
def fresh(parts, tmp_path):
    """Stores of one's own, and no model loaded."""
    settings = parts.settings.model_copy(update={"data": tmp_path, "warm_up": True})
    opened = open_parts(settings)
    yield opened
    opened.close()


def test_a_service_is_ready_when_its_models_are_loaded(fresh, monkeypatch, caplog):
    loading, release, load = threading.Event(), threading.Event(), building.load_embedder

    def slowly(*args, **options):
        loading.set()
        assert release.wait(30)
        return load(*args, **options)

    monkeypatch.setattr(building, "load_embedder", slowly)
    caplog.set_level(logging.INFO, "services.warmup")
    with serving(fresh) as client:
        assert loading.wait(20)
        found = is_problem(client.get("/readyz"), 503, "about:blank")
        assert found["checks"]["models"].startswith("loading the embedder")
        assert found["checks"]["store"] == "ok"
        assert client.get("/healthz").status_code == 200
        release.set()
        client.app.state.service.warm_up.wait(60)
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["models"]) == (200, "ok")
    assert "ready: embedder, reranker, generator loaded in" in caplog.text
    assert {"embedder", "reranker", "generator"} <= set(fresh._loaded)


def test_a_model_that_cannot_be_loaded_is_the_reason_and_the_others_are_loaded(parts, tmp_path):
    changed = with_models(parts, warm_up=True, generator="/nowhere/at/all")
    with reopened(changed, tmp_path) as broken, serving(broken) as client:
        client.app.state.service.warm_up.wait(60)
        found = is_problem(client.get("/readyz"), 503, "about:blank")
        assert found["checks"]["models"].startswith("generator: ")
        assert "/nowhere/at/all" in found["checks"]["models"]
        assert client.get("/healthz").status_code == 200
        assert "reranker" in broken._loaded


def test_what_could_not_be_loaded_is_tried_again_later(parts, tmp_path, qwen):
    now, folder = [100.0], tmp_path / "late-qwen2"
    changed = with_models(parts, generator=str(folder), engine="torch")
    with reopened(changed, tmp_path) as opened:
        warm_up = WarmUp(opened, retry_seconds=30, clock=lambda: now[0])
        warm_up.wait(60)
        assert "late-qwen2" in warm_up.check()
        shutil.copytree(qwen, folder)
        now[0] += 29
        warm_up.check()
        warm_up.wait(60)
        assert "late-qwen2" in warm_up.check(), "too early"
        now[0] += 1
        warm_up.check()
        warm_up.wait(60)
        assert warm_up.check() == "ok"
        warm_up.close()
        opened.generator.model.close()


def test_the_ingestion_service_needs_the_embedder_only(parts, tmp_path):
    changed = with_models(parts, warm_up=True, generator="/nowhere/at/all")
    with reopened(changed, tmp_path) as opened:
        orchestrator = Orchestrator(opened, Scope("default"))
        with local_client(ingestion.create_app(orchestrator=orchestrator)) as client:
            client.app.state.service.warm_up.wait(60)
            assert client.get("/readyz").json()["checks"]["models"] == "ok"


def test_what_nobody_foresaw_is_a_reason_and_stays_inside(caplog):
    class Broken:
        embedder = "loaded"

        @property
        def reranker(self):
            raise ZeroDivisionError("secret")

    warm_up = WarmUp(Broken(), ["reranker", "embedder"])
    warm_up.wait(20)
    assert "secret" not in warm_up.check()
    assert warm_up.check().startswith("reranker: something went wrong")
    assert "ZeroDivisionError" in caplog.text
    warm_up.close()
