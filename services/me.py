"""`GET /v1/me`: who the caller is, and what its key permits."""

from fastapi import APIRouter

from rag.keys import Role
from services.schemas import Wire
from services.service import Known, Service

router = APIRouter(prefix="/v1", tags=["health"])


class Me(Wire):
    """`role` null: nobody has keys, everything is permitted. Other nulls: all of the tenant's."""

    name: str
    role: Role | None
    permits: list[str]
    tenant: str
    groups: list[str] | None
    collections: list[str] | None


@router.get("/me")
async def me(service: Known) -> Me:
    """Who asks, as the service knows them."""
    return _me(service)


def _me(service: Service) -> Me:
    caller = service.known
    groups, collections = caller.scope.groups, caller.scope.collections
    return Me(
        name=caller.name,
        role=caller.role,
        permits=sorted(caller.permits),
        tenant=caller.scope.tenant,
        groups=None if groups is None else sorted(groups),
        collections=None if collections is None else sorted(collections),
    )
