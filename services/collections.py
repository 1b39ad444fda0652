"""The routes of collections."""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body

from rag import collection as shelf
from services.schemas import (
    CollectionChanges,
    CollectionList,
    CollectionName,
    CollectionOut,
    CollectionRequest,
)
from services.service import Administering, Running

router = APIRouter()

_COLLECTIONS: dict[str, Any] = {
    "plain": {"summary": "A collection", "value": {"name": "manuals"}},
    "german": {
        "summary": "German documents, German answers",
        "value": {
            "name": "handbuecher",
            "settings": {"bm25_language": "german", "fusion": "rrf"},
            "answer_language": "German",
        },
    },
}
_CHANGES: dict[str, Any] = {
    "fusion": {"summary": "Fuse another way", "value": {"settings": {"fusion": "rrf"}}},
    "language": {"summary": "Answer in English", "value": {"answer_language": "English"}},
}


@router.post("/collections", status_code=201)
async def create_collection(
    body: Annotated[CollectionRequest, Body(openapi_examples=_COLLECTIONS)], service: Administering
) -> CollectionOut:
    """A new, empty collection."""
    made = partial(
        shelf.create,
        service.parts,
        service.scope,
        body.name,
        settings=body.settings.model_dump(exclude_none=True),
        system_prompt=body.system_prompt or "",
        answer_language=body.answer_language or "",
    )
    return CollectionOut.of(await service.calls.run(made))


@router.get("/collections")
async def list_collections(service: Running) -> CollectionList:
    """Every collection, by name."""
    found = await service.calls.run(partial(service.parts.catalog.collections, service.scope))
    return CollectionList(collections=[CollectionOut.of(one) for one in found])


@router.get("/collections/{name}")
async def get_collection(name: CollectionName, service: Running) -> CollectionOut:
    """One collection."""
    call = partial(service.parts.catalog.collection, service.scope, name)
    return CollectionOut.of(await service.calls.run(call))


@router.patch("/collections/{name}")
async def change_collection(
    name: CollectionName,
    body: Annotated[CollectionChanges, Body(openapi_examples=_CHANGES)],
    service: Administering,
) -> CollectionOut:
    """Change a collection; what is left out stays, a setting that is null gets its default."""
    changed = partial(
        shelf.update,
        service.parts,
        service.scope,
        name,
        settings=body.settings.model_dump(exclude_unset=True),
        system_prompt=body.system_prompt,
        answer_language=body.answer_language,
    )
    return CollectionOut.of(await service.calls.run(changed))


@router.delete("/collections/{name}", status_code=204)
async def delete_collection(name: CollectionName, service: Administering) -> None:
    """Delete a collection with everything in it."""
    await service.calls.run(partial(shelf.drop, service.parts, service.scope, name))
