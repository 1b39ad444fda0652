"""OpenAI's routes: chat completions, models, embeddings; and rerank as others have it.

A model is a collection; `plain` answers without retrieval. Errors are in OpenAI's shape here.
"""

import json
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Mapping
from functools import partial
from typing import Annotated, Any, cast
from uuid import uuid4

import numpy as np
from fastapi import APIRouter, Body, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from rag import types as t
from rag.errors import InvalidInput, NotFound, RagError, TooLarge
from rag.orchestrator import Orchestrator
from rag.settings import LATE_INTERACTION, QUOTE
from services import problems
from services.events import EventStream
from services.kinds import kind_of
from services.openai_words import (
    ERROR_SCHEMA,
    PLAIN,
    ChatRequest,
    EmbeddingsRequest,
    RagstoneOut,
    RerankRequest,
    annotations,
    embeddings,
    error_object,
    usage,
)
from services.requests import CLIENT_GONE
from services.service import Running, Service
from services.threads import first, last, unless_gone

log = logging.getLogger(__name__)

MOST_EMBEDDED_CHARS = 2_000_000  # in one request

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class OpenAIRoute(APIRoute):
    """A route whose errors OpenAI's clients can read."""

    def get_route_handler(self) -> Handler:
        """The handler, with errors translated."""
        handler = super().get_route_handler()

        async def translating(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return _refused(error)
            except (RagError, HTTPException) as error:
                return _failed(error)
            except Exception as error:
                log.error("%s failed", request.url.path, exc_info=error)
                return JSONResponse(_error(error), 500)

        return translating


_ERROR = {
    "description": "An error in OpenAI's shape",
    "content": {"application/json": {"schema": ERROR_SCHEMA}},
}
router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    route_class=OpenAIRoute,
    responses={"default": _ERROR, 422: _ERROR},
)


def _refused(error: RequestValidationError) -> Response:
    """400 naming the first parameter that is wrong."""
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        body = error_object("The body is no JSON.", "invalid_request_error", code="invalid_json")
        return JSONResponse(body, 400)
    where = [str(step) for step in found["loc"][1:]]
    param = ".".join(where) or None
    if found["type"] == "extra_forbidden":
        message = f"The parameter {param!r} is not supported here and would change the answer."
        code = "unsupported_parameter"
    else:
        message = f"{param}: {found['msg']}" if param else str(found["msg"])
        code = "invalid_value"
    return JSONResponse(error_object(message, "invalid_request_error", param, code), 400)


def refuse(scope: Scope, error: RagError) -> Response:
    """What a caller is told who gets no further, in the words of the route that was asked for."""
    if any(route.matches(scope)[0] != Match.NONE for route in router.routes):
        return _failed(error)
    return problems.respond(error, scope["path"])


def _failed(error: RagError | HTTPException) -> Response:
    """The status of the problem table, in OpenAI's words."""
    if isinstance(error, HTTPException):
        body = error_object(str(error.detail), "invalid_request_error")
        return JSONResponse(body, error.status_code, headers=dict(error.headers or {}))
    status = 400 if kind_of(error).status == 422 else kind_of(error).status
    told = problems.respond(error, "").headers
    kept = {k: v for k, v in told.items() if k.lower() in ("retry-after", "www-authenticate")}
    return JSONResponse(_error(error), status, headers=kept)


def _error(error: Exception) -> dict[str, Any]:
    kind = kind_of(error)
    if not isinstance(error, RagError):
        return error_object("Something went wrong inside.", "server_error")
    types = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        429: "rate_limit_error",
    }
    name = types.get(kind.status, "invalid_request_error" if kind.status < 500 else "server_error")
    code = kind.type.removeprefix("/problems/").replace("-", "_")
    return error_object(str(error), name, code=code)


# Models


@router.get("/models")
async def models(service: Running) -> dict[str, Any]:
    """A model for each collection, and `plain` where a language model runs."""
    found = await service.calls.run(partial(_models, service))
    return {"object": "list", "data": found}


@router.get("/models/{name}")
async def model(name: str, service: Running) -> dict[str, Any]:
    """One of them."""
    found = await service.calls.run(partial(_models, service))
    for one in found:
        if one["id"] == name:
            return one
    raise _no_model(name)


def _models(service: Service) -> list[dict[str, Any]]:
    collections = service.parts.catalog.collections(service.scope)
    found = [_model(one.name, int(one.created_at.timestamp())) for one in collections]
    if service.parts.settings.models.generator != QUOTE:
        found.append(_model(PLAIN, 0))
    return found


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "ragstone"}


def _no_model(name: str) -> NotFound:
    return NotFound(
        f"The model {name[:80]!r} does not exist.",
        hint="A model is a collection: GET /v1/models lists them.",
    )


# Chat


@router.post("/chat/completions")
async def chat_completions(
    request: Request, body: Annotated[ChatRequest, Body()], service: Running
) -> Response:
    """The next turn of a conversation, answered from a collection, with citations.

    They are `annotations` of the message, and whole under `ragstone`.
    """
    made = service.answers.stream(partial(_answer, service, body))
    words = ChatWords(body, str(request.base_url).rstrip("/"))
    if body.stream:
        begun = await first(made, request.receive)
        if begun is not None:
            return EventStream(begun, made, request.url.path, words)
    else:
        answer = await last(made, request.receive)
        if isinstance(answer, t.Answer):
            return JSONResponse(words.whole(answer))
    return Response(status_code=CLIENT_GONE)


def _answer(service: Service, body: ChatRequest) -> Generator[t.AnswerEvent]:
    history, asked = body.turns()
    sampling = body.sampling()
    sampling.validate(service.parts.settings.max_new_tokens)
    if body.model == PLAIN:
        yield from _plain(service.orchestrator, (*history, asked), body)
        return
    try:
        service.parts.catalog.collection(service.scope, body.model)
    except NotFound:
        raise _no_model(body.model) from None
    events = service.orchestrator.stream(
        asked.content,
        collection=body.model,
        history=history,
        sampling=sampling,
        filter=body.ragstone.filter,
        limit=body.ragstone.limit,
    )
    yield from cast(Generator[t.AnswerEvent], events)


def _plain(
    rag: Orchestrator, turns: tuple[t.Message, ...], body: ChatRequest
) -> Generator[t.AnswerEvent]:
    text = ""
    with rag.continued(turns, body.sampling()) as pieces:
        for piece in pieces:
            text += piece
            yield t.TextPiece(piece)
    yield t.Answer(
        text=text,
        citations=(),
        abstained=False,
        question=turns[-1].content,
        hits=(),
        models={"generator": rag.parts.generator.id},
        timings={},
        usage=pieces.usage,
        trace_id="",
        notes=pieces.notes,
        finish_reason=pieces.finish_reason or "stop",
    )


class ChatWords:
    """An answer as a completion, whole or in chunks."""

    def __init__(self, body: ChatRequest, base: str) -> None:
        self._body = body
        self._id = f"chatcmpl-{uuid4().hex}"
        self._created = int(time.time())
        self._base = base
        self._begun = False

    def whole(self, answer: t.Answer) -> dict[str, Any]:
        """The response of a request that does not stream."""
        message = {
            "role": "assistant",
            "content": answer.text,
            "refusal": None,
            "annotations": annotations(answer, self._base, self._body.model),
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage(answer.usage),
            "ragstone": RagstoneOut.of(answer).model_dump(mode="json"),
        }

    def of(self, made: t.AnswerEvent) -> bytes:
        """Chunks: the role first, then text as it comes; citations and the end with the last."""
        if isinstance(made, t.TextPiece):
            return self._role() + self._chunk({"content": made.text})
        if not isinstance(made, t.Answer):
            return b"" if self._begun else self._role()
        last = self._chunk(
            {"annotations": annotations(made, self._base, self._body.model)},
            finish_reason=made.finish_reason,
            ragstone=RagstoneOut.of(made).model_dump(mode="json"),
        )
        if not self._body.stream_options.include_usage:
            return self._role() + last
        counted = {**self._head("chat.completion.chunk"), "choices": []}
        return self._role() + last + _event({**counted, "usage": usage(made.usage)})

    def end(self) -> bytes:
        """What OpenAI's streams end with."""
        return b"data: [DONE]\n\n"

    def error(self, error: Exception) -> bytes:
        """What the official client raises in the middle of a stream."""
        return _event(_error(error))

    def _role(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._chunk({"role": "assistant", "content": ""})

    def _chunk(
        self, delta: Mapping[str, Any], finish_reason: str | None = None, **more: object
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        head = self._head("chat.completion.chunk")
        return _event({**head, "choices": [choice], **more})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._body.model,
            "system_fingerprint": None,
        }


def _event(content: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


# Embeddings


@router.post("/embeddings")
async def make_embeddings(
    request: Request, body: Annotated[EmbeddingsRequest, Body()], service: Running
) -> Response:
    """Vectors of the configured embedder, of unit length where its preset normalises."""
    made = await unless_gone(request.receive, service.calls.run(partial(_embed, service, body)))
    return JSONResponse(made) if made is not None else Response(status_code=CLIENT_GONE)


def _embed(service: Service, body: EmbeddingsRequest) -> dict[str, Any]:
    embedder, texts = service.parts.embedder, body.texts
    if body.model != embedder.id:
        raise NotFound(
            f"The model {body.model[:80]!r} does not exist.", hint=f"There is {embedder.id!r}."
        )
    if body.dimensions not in (None, embedder.dim):
        raise InvalidInput(f"dimensions: {embedder.id} has {embedder.dim}, no other number.")
    if (chars := sum(map(len, texts))) > MOST_EMBEDDED_CHARS:
        raise TooLarge(f"The texts have {chars} characters, the limit is {MOST_EMBEDDED_CHARS}.")
    counts = embedder.count_tokens(texts)
    for at, count in enumerate(counts):
        if count > embedder.max_tokens:
            raise TooLarge(
                f"input {at} has {count} tokens, {embedder.id} reads {embedder.max_tokens}.",
                hint="Cut it before: what is beyond would be lost in silence.",
            )
    embed = embedder.embed_queries if body.input_type == "query" else embedder.embed_passages
    return embeddings(embed(texts), body.encoding_format, body.model, sum(counts))


# Rerank


@router.post("/rerank")
async def rerank(
    request: Request, body: Annotated[RerankRequest, Body()], service: Running
) -> Response:
    """Passages in the order of their relevance to a query.

    As Cohere and Jina answer, or TEI when the passages come as `texts`.
    """
    made = await unless_gone(request.receive, service.calls.run(partial(_rerank, service, body)))
    return JSONResponse(made) if made is not None else Response(status_code=CLIENT_GONE)


def _rerank(service: Service, body: RerankRequest) -> dict[str, Any] | list[dict[str, Any]]:
    reranker, passages = service.parts.reranker, body.passages
    if reranker is None:
        raise InvalidInput(
            "No reranker is configured.", hint="Set RAG_RERANKER, or a profile that has one."
        )
    if body.model not in (None, reranker.id):
        raise NotFound(
            f"The model {body.model!r} does not exist.", hint=f"There is {reranker.id!r}."
        )
    if not passages:
        return [] if body.texts is not None else _reranked(body, reranker.id, [], [])
    raw = reranker.relevance(body.query, passages, lambda _: ({}, 0))
    # A cross-encoder's logit to a probability; late interaction's score is a mean cosine already.
    is_logit = reranker.id != LATE_INTERACTION and not body.raw_scores
    scores = 1 / (1 + np.exp(-raw.astype(np.float64))) if is_logit else raw
    order = sorted(range(len(passages)), key=lambda at: (-float(raw[at]), at))
    ranked = [(at, float(scores[at])) for at in order[: body.top_n]]
    if body.texts is not None:
        return [
            {"index": at, "score": score, **({"text": passages[at]} if body.return_text else {})}
            for at, score in ranked
        ]
    return _reranked(body, reranker.id, ranked, passages)


def _reranked(
    body: RerankRequest, model_id: str, ranked: list[tuple[int, float]], passages: list[str]
) -> dict[str, Any]:
    results = [
        {
            "index": at,
            "relevance_score": score,
            **({"document": {"text": passages[at]}} if body.return_documents else {}),
        }
        for at, score in ranked
    ]
    return {"id": uuid4().hex, "model": model_id, "results": results}
