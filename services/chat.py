"""The chat service: search and ask. `python -m services.chat` runs it alone."""

from collections.abc import Generator
from functools import partial
from typing import Annotated, Any, cast

from fastapi import APIRouter, Body, FastAPI, Request
from starlette.responses import Response

from rag import types as t
from rag.orchestrator import Orchestrator
from rag.settings import Settings
from services import azureml, me, openai, traces
from services.events import EVENTS_CONTENT, EventStream, OwnWords
from services.requests import CLIENT_GONE
from services.schemas import AskRequest, AskResponse, SearchRequest, SearchResponse
from services.service import Running, Service, build, run
from services.threads import first, last, unless_gone

router = APIRouter(prefix="/v1", tags=["chat"])

_SEARCHES: dict[str, Any] = {
    "words": {"summary": "A few words", "value": {"query": "who built the Bell Rock lighthouse"}},
    "narrow": {
        "summary": "One retriever, one author",
        "value": {
            "collection": "default",
            "query": "lighthouse on a rock",
            "limit": 3,
            "mode": "dense",
            "rerank": False,
            "filter": {"author": "Ragstone"},
        },
    },
}
_QUESTIONS: dict[str, Any] = {
    "question": {
        "summary": "A question",
        "value": {"question": "Who built the Bell Rock lighthouse?"},
    },
    "sampled": {
        "summary": "How a language model writes",
        "value": {
            "collection": "default",
            "question": "How high is it?",
            "history": [
                {"role": "user", "content": "Who built the Bell Rock lighthouse?"},
                {"role": "assistant", "content": "Robert Stevenson."},
            ],
            "temperature": 0.7,
            "top_p": 0.9,
            "max_new_tokens": 24,
            "do_sample": True,
            "seed": 7,
            "limit": 3,
        },
    },
    "stream": {
        "summary": "As server-sent events",
        "value": {"question": "Who built the Bell Rock lighthouse?", "stream": True},
    },
}
_STREAM = {
    "description": "The answer. With `stream` as events: retrieval, token, citation, done, error.",
    "content": EVENTS_CONTENT,
}


def create_app(
    settings: Settings | None = None, *, orchestrator: Orchestrator | None = None
) -> FastAPI:
    """The chat service alone."""
    routers = [router, openai.router, azureml.router, traces.router, me.router]
    return build(
        "Ragstone chat",
        routers,
        settings,
        orchestrator,
        ingests=False,
        agents=True,
        refuse=openai.refuse,
    )


@router.post("/search", response_model=SearchResponse)
async def search(
    request: Request,
    body: Annotated[SearchRequest, Body(openapi_examples=_SEARCHES)],
    service: Running,
) -> SearchResponse | Response:
    """The passages nearest to a query, best first, with the scores of every stage."""
    call = partial(
        service.orchestrator.search,
        body.query,
        collection=body.collection,
        limit=body.limit,
        mode=body.mode,
        rerank=body.rerank,
        filter=body.filter,
    )
    found = await unless_gone(request.receive, service.calls.run(call))
    return SearchResponse.of(found) if found is not None else Response(status_code=CLIENT_GONE)


@router.post("/ask", response_model=AskResponse, responses={200: _STREAM})
async def ask(
    request: Request,
    body: Annotated[AskRequest, Body(openapi_examples=_QUESTIONS)],
    service: Running,
) -> AskResponse | Response:
    """An answer from the documents, each statement with its proof.

    When the client goes away, streaming or not, the model stops.
    """
    events = service.answers.stream(partial(_answer, service, body))
    if body.stream:
        begun = await first(events, request.receive)
        if begun is not None:
            path = request.url.path
            return EventStream(begun, events, path, OwnWords(path))
    else:
        answer = await last(events, request.receive)
        if isinstance(answer, t.Answer):
            return AskResponse.of(answer)
    return Response(status_code=CLIENT_GONE)


def _answer(service: Service, body: AskRequest) -> Generator[t.AnswerEvent]:
    events = service.orchestrator.stream(body.question, **body.options())
    return cast(Generator[t.AnswerEvent], events)  # a generator: closing it stops the model


if __name__ == "__main__":
    run(create_app)
