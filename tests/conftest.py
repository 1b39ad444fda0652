"""What many tests share: the starter profile over the sample collection, built once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag import collection as shelf
from rag.demo import documents
from rag.orchestrator import Orchestrator
from tests import postgres as servers
from tests import secrets_watch

WATCH = secrets_watch.begin()


def pytest_configure(config: pytest.Config) -> None:
    """Converted models outlive a run, and do not end up among the user's own."""
    os.environ["RAG_CACHE"] = str(config.cache.mkdir("models"))


@pytest.fixture(autouse=True)
def no_secret_is_logged() -> Iterator[None]:
    """By whatever a test makes the program do."""
    WATCH.found.clear()
    yield
    assert WATCH.found == []


@pytest.fixture(scope="session")
def lighthouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orchestrator]:
    """Ragstone with the sample documents in collection `lighthouse`; tests only read it."""
    data = tmp_path_factory.mktemp("lighthouse")
    with Orchestrator.open(data, profile="starter") as rag:
        shelf.ensure(rag.parts, rag.scope, "lighthouse")
        for source in documents():
            rag.add(source, collection="lighthouse")
        yield rag


@pytest.fixture
def rag(tmp_path: Path, lighthouse: Orchestrator) -> Iterator[Orchestrator]:
    """An empty Ragstone of one's own, with the models that are loaded already."""
    with Orchestrator.open(tmp_path / "data", profile="starter") as opened:
        for name in ("embedder", "reranker", "generator", "late interaction"):
            getattr(lighthouse.parts, name.replace(" ", "_"))  # load what is not loaded yet
            opened.parts._loaded[name] = lighthouse.parts._loaded[name]
        yield opened


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    """A Postgres of this run."""
    with servers.running() as started:
        if started is None:
            pytest.skip(
                "There is no Postgres: install pgserver or Debian's postgresql, or name one in"
                " RAG_TEST_DATABASE_URL."
            )
        yield started


@pytest.fixture(scope="module")
def postgres_url(postgres: servers.Postgres) -> Iterator[str]:
    """A database for the tests of a module."""
    with postgres.database() as url:
        yield url
