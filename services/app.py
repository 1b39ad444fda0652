"""Both services in one process, as `rag serve` runs them."""

from fastapi import FastAPI

from rag.orchestrator import Orchestrator
from rag.settings import Settings
from services import azureml, backup, chat, ingestion, me, migration, openai, page, traces
from services.service import build, run


def create_app(
    settings: Settings | None = None, *, orchestrator: Orchestrator | None = None
) -> FastAPI:
    """Chat and ingestion over one Orchestrator: that of `settings`, or a given one."""
    routers = [
        ingestion.router,
        migration.router,
        backup.router,
        chat.router,
        openai.router,
        azureml.router,
        traces.router,
        me.router,
        page.router,
    ]
    refuse = openai.refuse
    return build("Ragstone", routers, settings, orchestrator, agents=True, refuse=refuse)


if __name__ == "__main__":
    run(create_app)
