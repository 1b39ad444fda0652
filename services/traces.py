"""The routes of traces: why an answer says what it says, and what its reader says of it."""

from collections.abc import Generator
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from rag.replay import replay
from rag.trace import Feedback
from rag.types import Answer, AnswerEvent
from services.requests import CLIENT_GONE
from services.schemas import AskResponse, CollectionName
from services.service import Noting, Running, Service, Writing
from services.threads import last
from services.trace_words import (
    FeedbackOut,
    FeedbackRequest,
    ReplayRequest,
    TraceList,
    TraceOut,
    TraceRowOut,
)

router = APIRouter(prefix="/v1", tags=["traces"])

_FEEDBACK: dict[str, Any] = {
    "up": {"summary": "Thumbs up", "value": {"trace_id": "0", "rating": "up"}},
    "down": {
        "summary": "Thumbs down, with what is right",
        "value": {"trace_id": "0", "rating": "down", "correction": "It was lit in 1811."},
    },
}


@router.get("/traces")
async def list_traces(
    service: Running,
    collection: Annotated[CollectionName | None, Query()] = None,
    before: Annotated[str, Query(description="The `next` of the page before.")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> TraceList:
    """Traces of answers, newest first."""
    call = partial(
        service.parts.traces.rows,
        service.scope,
        collection=collection,
        before=before,
        limit=limit + 1,
    )
    found = await service.calls.run(call)
    page = [TraceRowOut.of(row) for row in found[:limit]]
    return TraceList(traces=page, next=page[-1].id if len(found) > limit else None)


@router.get("/traces/{trace_id}")
async def get_trace(trace_id: str, service: Running) -> TraceOut:
    """How an answer came about: every candidate, its scores, and why it was cut."""
    call = partial(service.parts.traces.trace, service.scope, trace_id)
    return TraceOut.of(await service.calls.run(call))


@router.delete("/traces/{trace_id}", status_code=204)
async def delete_trace(trace_id: str, service: Writing) -> None:
    """Forget a trace with its feedback."""
    await service.calls.run(partial(service.parts.traces.delete, service.scope, trace_id))


@router.post("/traces/{trace_id}/replay", response_model=AskResponse)
async def replay_trace(
    request: Request, trace_id: str, body: Annotated[ReplayRequest, Body()], service: Running
) -> AskResponse | Response:
    """The same question asked again of today's documents, with another setting."""
    events = service.answers.stream(partial(_replay, service, trace_id, body))
    answer = await last(events, request.receive)
    if isinstance(answer, Answer):
        return AskResponse.of(answer)
    return Response(status_code=CLIENT_GONE)


@router.post("/feedback", status_code=201)
async def give_feedback(
    body: Annotated[FeedbackRequest, Body(openapi_examples=_FEEDBACK)], service: Noting
) -> FeedbackOut:
    """Say whether an answer was right, and what would have been. Kept with its trace."""
    return FeedbackOut.of(await service.calls.run(partial(_say, service, body)))


def _replay(service: Service, trace_id: str, body: ReplayRequest) -> Generator[AnswerEvent]:
    trace = service.parts.traces.trace(service.scope, trace_id)
    events = replay(service.orchestrator, trace.asked, body.instead)
    yield from cast(Generator[AnswerEvent], events)  # a generator: closing it stops the model


def _say(service: Service, body: FeedbackRequest) -> Feedback:
    return service.parts.traces.say(
        service.scope,
        body.trace_id,
        body.rating,
        correction=body.correction,
        comment=body.comment,
    )
