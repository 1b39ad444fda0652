"""The routes of documents that are there: looking at them, changing and deleting them."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Body, Query, Request
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, PlainTextResponse, Response

from rag import listing
from rag.catalog import DocumentRecord
from rag.errors import Conflict, InvalidInput, NotFound
from rag.passages import passages
from rag.prove import delete_proved
from rag.sources import check_id
from services import cursors
from services.schemas import (
    ChunkList,
    ChunkOut,
    CollectionName,
    Deleted,
    DocumentChanges,
    DocumentList,
    DocumentOut,
    ProofOut,
)
from services.service import Running, Service, Writing

router = APIRouter()

InCollection = Annotated[CollectionName, Query(alias="collection")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Cursor = Annotated[str, Query(description="The `next` of the page before.")]
Filter = Annotated[
    str | None,
    Query(
        alias="filter",
        description="Conditions as JSON, as for a search: on metadata, document_id, title, source.",
        examples=['{"author": "Stevenson", "year": {"gte": 1800}}'],
    ),
]
_PATCHES: dict[str, Any] = {
    "metadata": {
        "summary": "Set one key, remove another",
        "value": {"metadata": {"year": 1811, "draft": None}},
    },
    "title": {"summary": "Another title", "value": {"title": "The Bell Rock"}},
}
_BYTES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bytes as they were sent, under the media type that they were found"
        " to have.",
        "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    206: {"description": "The range of them that was asked for."},
}
_PROVED: dict[int | str, dict[str, Any]] = {
    200: {"model": ProofOut, "description": "With `prove`: what there was, and what is left."}
}


@router.get("/documents")
async def list_documents(
    service: Running,
    collection: InCollection = "default",
    where: Filter = None,
    cursor: Cursor = "",
    limit: Limit = 100,
    after: Annotated[str | None, Query(include_in_schema=False)] = None,
) -> DocumentList:
    """Documents by id.

    A filter is tried on a bounded number of documents for one page: a page may hold few, or none,
    and still have a `next`. The last page is the one whose `next` is null.
    """
    if after is not None:
        raise InvalidInput("'after' is now 'cursor': the `next` of the page before, as it is.")
    begun = cursors.decoded(cursor, after=str)["after"] if cursor else ""
    call = partial(
        listing.page,
        service.parts.catalog,
        service.scope,
        collection,
        _filter(where),
        after=begun,
        limit=limit,
        most_read=service.parts.settings.max_listed,
    )
    found, onward = await service.calls.run(call)
    return DocumentList(
        documents=[DocumentOut.of(record) for record in found],
        next=cursors.encoded(after=onward) if onward is not None else None,
    )


@router.delete("/documents")
async def delete_documents(
    request: Request,
    service: Writing,
    collection: InCollection = "default",
    where: Filter = None,
    dry_run: Annotated[bool, Query(description="Say what would be deleted, only.")] = False,
) -> Deleted:
    """Delete all documents that a filter picks, in one transaction: gone from answers at once.

    What was accepted of them since is cancelled; documents that are accepted and were never there
    before are not picked. Without conditions it is refused: DELETE /v1/collections/{name} is what
    deletes everything.
    """
    call = partial(
        service.orchestrator.delete_matching,
        _filter(where) or {},
        collection=collection,
        dry_run=dry_run,
        purge=False,
    )
    ids = await service.calls.run(call)
    done = "would be deleted" if dry_run else "deleted"
    request.state.subject = f"collection={collection} {len(ids)} {done}"
    if ids and not dry_run:
        service.ingestor.sweep_soon()
    return Deleted(count=len(ids), dry_run=dry_run, documents=ids)


@router.get(
    "/documents/{document_id:path}/text", response_class=PlainTextResponse, response_model=None
)
async def get_text(
    document_id: str, service: Running, collection: InCollection = "default"
) -> Response:
    """The text of a document, as its offsets count it: in characters from 0."""
    found = await service.calls.run(partial(_named, service, collection, document_id, "text"))
    if isinstance(found, DocumentOut):
        return _as_json(found)
    text = partial(service.parts.objects.get, found.text_hash)
    return PlainTextResponse((await service.calls.run(text)).decode("utf8"))


@router.get(
    "/documents/{document_id:path}/chunks",
    response_model=None,
    responses={200: {"model": ChunkList}},
)
async def get_chunks(
    document_id: str,
    service: Running,
    collection: InCollection = "default",
    cursor: Cursor = "",
    limit: Limit = 100,
) -> Response:
    """The passages of a document, in their order, as they were embedded."""
    found = await service.calls.run(partial(_named, service, collection, document_id, "chunks"))
    if isinstance(found, DocumentOut):
        return _as_json(found)
    place = {"generation": found.generation, "index": 0}
    if cursor:
        place = cursors.decoded(cursor, generation=int, index=int)
    if place["generation"] != found.generation:
        raise Conflict(
            f"{document_id[:200]!r} was replaced meanwhile.", hint="Begin again without a cursor."
        )
    first = place["index"]
    call = partial(passages, service.parts, service.scope, collection, found, first, limit)
    page = await service.calls.run(call)
    onward = first + len(page)
    more = cursors.encoded(generation=found.generation, index=onward)
    return _as_json(
        ChunkList(
            chunks=[ChunkOut.of(chunk) for chunk in page],
            total=found.chunks,
            next=more if onward < found.chunks else None,
        )
    )


@router.get(
    "/documents/{document_id:path}/original",
    response_class=FileResponse,
    response_model=None,
    responses=_BYTES,
)
async def get_original(
    document_id: str, service: Running, collection: InCollection = "default"
) -> Response:
    """The document as it was sent, to be saved: browsers are told not to show it."""
    found = await service.calls.run(partial(_named, service, collection, document_id, "original"))
    if isinstance(found, DocumentOut):
        return _as_json(found)
    held = ExitStack()
    local = service.parts.objects.local(found.content_hash)
    path = await service.calls.run(partial(held.enter_context, local))
    # A charset only where the bytes are the text itself: a file may be in any.
    is_utf8 = found.content_hash == found.text_hash and found.media_type.startswith("text/")
    headers = {
        "Content-Type": f"{found.media_type}; charset=utf-8" if is_utf8 else found.media_type,
        "ETag": f'"{found.content_hash}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }
    let_go = BackgroundTask(held.close)
    return FileResponse(path, headers=headers, filename=_file_name(found), background=let_go)


@router.get("/documents/{document_id:path}")
async def get_document(
    document_id: str, service: Running, collection: InCollection = "default"
) -> DocumentOut:
    """One document. Its id may hold slashes."""
    return await service.calls.run(partial(_document, service, collection, document_id))


@router.patch("/documents/{document_id:path}")
async def change_document(
    document_id: str,
    body: Annotated[DocumentChanges, Body(openapi_examples=_PATCHES)],
    request: Request,
    service: Writing,
    collection: InCollection = "default",
) -> DocumentOut:
    """Change title and metadata without embedding the document again (RFC 7396 merge patch).

    Effective when this returns. A title that is changed is shown with every passage; their vectors
    keep the one that they were made with. The same upload again is still no work and keeps the
    changes, a changed one replaces them. 409 while a newer version is being ingested.
    """
    request.state.subject = f"collection={collection}"
    merge = body.model_dump(exclude_unset=True)
    service.known.check_acl(merge.get("metadata") or {})
    call = partial(service.orchestrator.patch, document_id, merge, collection=collection)
    return DocumentOut.of(await service.calls.run(call))


@router.delete(
    "/documents/{document_id:path}", status_code=204, response_model=None, responses=_PROVED
)
async def delete_document(
    document_id: str,
    request: Request,
    service: Writing,
    collection: InCollection = "default",
    prove: Annotated[
        bool, Query(description="Delete its job records, too, and count what is left of it.")
    ] = False,
) -> Response:
    """Delete a document: gone from answers when this returns.

    With `prove` the answer comes when points and bytes are gone as well, and says for each place
    what was there and what is.
    """
    request.state.subject = f"collection={collection}"
    check_id(document_id)
    if prove:
        proof = partial(delete_proved, service.parts, service.scope, collection, document_id)
        return _as_json(ProofOut.of(await service.calls.run(proof)))
    call = partial(service.orchestrator.delete, document_id, collection=collection)
    await service.calls.run(call)
    return Response(status_code=204)


def _document(service: Service, collection: str, document_id: str) -> DocumentOut:
    check_id(document_id)
    return DocumentOut.of(service.parts.catalog.document(service.scope, collection, document_id))


def _named(
    service: Service, collection: str, document_id: str, part: str
) -> DocumentRecord | DocumentOut:
    """The document a part of which is asked for; or the one whose id ends like that part."""
    try:
        return _document(service, collection, f"{document_id}/{part}")
    except (NotFound, InvalidInput):  # the longest ids leave no room for a part's name
        check_id(document_id)
        return service.parts.catalog.document(service.scope, collection, document_id)


def _as_json(found: DocumentOut | ChunkList | ProofOut) -> Response:
    return Response(found.model_dump_json(), media_type="application/json")


def _filter(where: str | None) -> dict[str, Any] | None:
    """The filter of an address. Raises InvalidInput."""
    if where is None:
        return None
    try:
        given = json.loads(where)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(
            f"The filter is not JSON: {error}.", hint='Write it as {"author": "Stevenson"}.'
        ) from None
    if not isinstance(given, dict):
        raise InvalidInput("A filter is an object.", hint='For example {"author": "Stevenson"}.')
    return given


def _file_name(record: DocumentRecord) -> str:
    """The name to save a document under: the end of what it came from, or of its id."""
    source = urlsplit(record.source).path if "://" in record.source else record.source
    for origin in (source, record.id):
        name = PurePosixPath(origin.replace("\\", "/")).name
        if name.strip(". "):
            return name
    return "document"
