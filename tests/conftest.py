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
# They take a minute or more, and are begun first: else the end of the run is one of them alone.
LONG = (
    "crash/test_kills", "services/test_contract", "services/test_ingest_command",
    "services/test_cli", "rag/test_migrate", "services/test_tenancy", "services/test_page",
    "services/test_restart", "models/test_torch_lm", "services/test_score_batch",
    "models/test_genai", "eval/test_notebook",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Converted models outlive a run, and do not end up among the user's own."""
    os.environ["RAG_CACHE"] = str(config.cache.mkdir("models"))
    if "PYTEST_XDIST_WORKER" in os.environ:  # the threads of one wait for the cores of another
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, in the order above."""

    def turn(item: pytest.Item) -> int:
        file = item.path.with_suffix("").as_posix()
        return next((n for n, name in enumerate(LONG) if file.endswith(name)), len(LONG))

    items.sort(key=turn)


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
