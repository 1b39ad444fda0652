"""Migrations of collections to other embedders, while they serve."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body

from rag.builds import Wish
from rag.errors import Forbidden, InvalidInput, ModelUnavailable
from rag.migrate import model_id, start
from rag.models.load import is_available, is_hub_id
from services.schemas import CollectionName, MigrationOut, MigrationRequest
from services.service import Administering, Running, Service

router = APIRouter(prefix="/v1/collections/{name}/migration", tags=["migration"])

_REQUESTS: dict[str, Any] = {
    "model": {"summary": "Another model", "value": {"to": "BAAI/bge-small-en-v1.5"}},
    "task": {
        "summary": "Another task of LLM-Embedder, without putting it in place",
        "value": {"to": "BAAI/llm-embedder", "task": "tool", "flip": False},
    },
}


@router.post("", status_code=202)
async def start_migration(
    name: CollectionName,
    body: Annotated[MigrationRequest, Body(openapi_examples=_REQUESTS)],
    service: Administering,
) -> MigrationOut:
    """Build an index by another embedder from the stored texts, while the old one serves.

    Both are then asked the same questions, and the new one is put in place in one transaction. The
    answer comes when the model is loaded. The same request again goes on with one that failed.
    """
    return await service.calls.run(partial(_start, service, name, body))


@router.get("")
async def get_migration(name: CollectionName, service: Running) -> MigrationOut:
    """How far it is. 404 when there is no index beside the collection."""
    find = partial(service.parts.builds.find, service.scope, name)
    return MigrationOut.of(await service.calls.run(find))


@router.post("/flip", status_code=202)
async def flip_migration(name: CollectionName, service: Administering) -> MigrationOut:
    """Put an index that is ready in place, whatever the comparison said."""
    return await service.calls.run(partial(_ask, service, name, "flip"))


@router.post("/back", status_code=202)
async def flip_back(name: CollectionName, service: Administering) -> MigrationOut:
    """Put the index of before back in place, with everything that was changed since."""
    return await service.calls.run(partial(_ask, service, name, "back"))


@router.delete("", status_code=202)
async def drop_index(name: CollectionName, service: Administering) -> MigrationOut:
    """Delete the index aside with its vectors: an unfinished one, or the one of before."""
    return await service.calls.run(partial(_ask, service, name, "drop"))


def _start(service: Service, name: str, body: MigrationRequest) -> MigrationOut:
    if "operate" not in service.known.permits:
        _check_model(body.to)
    to = model_id(body.to, body.task)
    try:
        started = start(service.parts, service.scope, name, to, body.options())
    except ModelUnavailable as error:  # it is the request that names it
        raise InvalidInput(error.message, hint=error.hint) from error
    service.migrator.wake()
    return MigrationOut.of(started)


def _check_model(to: str) -> None:
    """Raise Forbidden for what a tenant's admin may not have the machine of all load."""
    if not is_hub_id(to) or not is_available(to):
        raise Forbidden(
            "Over HTTP a key may name models that are on the server already, by their ids.",
            hint="There, `rag models pull` gets one, and `rag migrate` takes any.",
        )


def _ask(service: Service, name: str, wanted: Wish) -> MigrationOut:
    asked = service.parts.builds.ask(service.scope, name, wanted)
    service.migrator.wake()
    return MigrationOut.of(asked)
