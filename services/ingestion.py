"""The ingestion service: documents, jobs, collections. `python -m services.ingestion` runs it."""

from fastapi import APIRouter, FastAPI

from rag.orchestrator import Orchestrator
from rag.settings import Settings
from services import backup, collections, documents, intake, jobs, me, migration
from services.service import build, run

router = APIRouter(prefix="/v1", tags=["ingestion"])
for part in (intake, jobs, documents, collections):
    router.include_router(part.router)


def create_app(
    settings: Settings | None = None, *, orchestrator: Orchestrator | None = None
) -> FastAPI:
    """The ingestion service alone."""
    routers = [router, migration.router, backup.router, me.router]
    return build("Ragstone ingestion", routers, settings, orchestrator, models=["embedder"])


if __name__ == "__main__":
    run(create_app)
