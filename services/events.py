"""An answer in the making as server-sent events: retrieval, token, citation, done, error."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rag import types as t
from rag.errors import RagError
from services.kinds import problem
from services.schemas import AskResponse, CitationOut, HitOut, Wire
from services.threads import Stream, unless_gone

log = logging.getLogger(__name__)

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)

# Of a route that answers with events, each described as one.
EVENTS_CONTENT: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "type": "object",
            "description": "One server-sent event; `data` is JSON.",
            "required": ["data"],
            "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
        }
    }
}

KEEP_ALIVE_SECONDS = 15.0  # proxies close a connection on which nothing comes for a minute
KEEP_ALIVE = b": waiting\n\n"
SEND_SECONDS = 30.0  # a client that takes nothing for so long is hung up on: its place is wanted


class RetrievalEvent(Wire):
    """The hits that the answer will be made from."""

    hits: list[HitOut]


class TokenEvent(Wire):
    """The next piece of the answer's text."""

    text: str


class Words(Protocol[M_contra]):
    """How what is made goes over the wire."""

    def of(self, made: M_contra) -> bytes:
        """The next thing that was made; empty when the client is told nothing of it."""

    def end(self) -> bytes:
        """Behind the last."""

    def error(self, error: Exception) -> bytes:
        """In place of the rest."""


class EventStream(Response, Generic[M]):
    """Sends events as they come; when the client goes, what makes them is stopped.

    `first` has been taken from `events` already: errors before it are ordinary problems.
    """

    media_type = "text/event-stream"

    def __init__(self, first: M, events: Stream[M], path: str, words: Words[M]) -> None:
        self.status_code = 200
        self.background = None
        # A buffering proxy would hold the pieces back until the answer is complete.
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._first = first
        self._events = events
        self._path = path
        self._words = words

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await unless_gone(receive, self._send(send))
        finally:
            await self._events.close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            async for data in self._encoded():
                if not data:
                    continue
                async with asyncio.timeout(SEND_SECONDS):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:  # a TimeoutError is one
            log.debug("the client of %s went away, or reads no more", self._path)

    async def _encoded(self) -> AsyncIterator[bytes]:
        yield self._words.of(self._first)
        try:
            while True:
                while not await self._events.ready(KEEP_ALIVE_SECONDS):
                    yield KEEP_ALIVE
                yield self._words.of(await anext(self._events))
        except StopAsyncIteration:
            yield self._words.end()
        except RagError as error:
            yield self._words.error(error)
        except Exception as error:
            log.error("the answer broke off", exc_info=error)
            yield self._words.error(error)


class OwnWords:
    """The events of `/v1/ask`."""

    def __init__(self, path: str) -> None:
        self._path = path

    def of(self, made: t.AnswerEvent) -> bytes:
        """One event of an answer."""
        return encode(made)

    def end(self) -> bytes:
        """The last event holds the whole answer: nothing more."""
        return b""

    def error(self, error: Exception) -> bytes:
        """The problem object."""
        return event("error", json.dumps(problem(error, self._path)))


AnswerWire = RetrievalEvent | TokenEvent | CitationOut | AskResponse
EVENTS: Mapping[str, type[AnswerWire]] = {
    "retrieval": RetrievalEvent,
    "token": TokenEvent,
    "citation": CitationOut,
    "done": AskResponse,
}
_NAMES = {kind: name for name, kind in EVENTS.items()}


def wire(made: t.AnswerEvent) -> AnswerWire:
    """One event of an answer in the words of the API."""
    if isinstance(made, t.Retrieved):
        return RetrievalEvent(hits=[HitOut.of(hit) for hit in made.hits])
    if isinstance(made, t.TextPiece):
        return TokenEvent(text=made.text)
    if isinstance(made, t.Citation):
        return CitationOut.of(made)
    return AskResponse.of(made)


def encode(made: t.AnswerEvent) -> bytes:
    """One event of an answer as it goes over the wire."""
    worded = wire(made)
    return event(_NAMES[type(worded)], worded.model_dump_json())


def event(name: str, data: str) -> bytes:
    """A server-sent event; `data` is JSON and therefore one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()
