"""How large a body may be: said before it is read where its length is announced."""

from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.errors import TooLarge
from rag.settings import Settings
from services.problems import is_json, respond

JSON_BYTES = 2**20  # questions, searches, settings
# Texts in JSON are held in memory, and parsing 8 MiB of them holds the interpreter for up to 25 ms,
# in which no other request goes on. Files do neither.
JSON_DOCUMENTS_BYTES = 8 * 2**20
FORM_BYTES = 2**20  # what a multipart body holds besides its files

Limit = Callable[[Scope], int]


def body_limit(settings: Settings) -> Limit:
    """The bytes that a request may have, by its method, path and type."""

    def limit(scope: Scope) -> int:
        if scope["method"] == "PUT" and scope["path"].startswith("/v1/documents/"):
            json = is_json(_header(scope, b"content-type").decode("latin-1"))
            return JSON_DOCUMENTS_BYTES if json else settings.max_file_bytes
        if scope["path"] != "/v1/documents":
            return JSON_BYTES
        if _header(scope, b"content-type").startswith(b"multipart/"):
            return settings.max_file_bytes + FORM_BYTES
        return JSON_DOCUMENTS_BYTES

    return limit


class BodyLimit:
    """Middleware: 413 for a body above its limit, announced or not."""

    def __init__(self, app: ASGIApp, limit: Limit) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        announced = _header(scope, b"content-length")
        if announced.isdigit() and int(announced[:20]) > limit:
            await respond(too_large(limit), scope["path"])(scope, receive, send)
            return
        await self._app(scope, _counting(receive, limit), send)


def too_large(limit: int) -> TooLarge:
    """What is said of a body above its limit."""
    return TooLarge(
        f"The body has more than {limit} bytes.",
        hint="Send less at once; large documents go as files, which RAG_MAX_FILE_BYTES bounds.",
    )


def _counting(receive: Receive, limit: int) -> Receive:
    read = 0

    async def counted() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > limit:
            # FastAPI lets only HTTPException through while it reads a body.
            raise HTTPException(413) from too_large(limit)
        return message

    return counted


def _header(scope: Scope, name: bytes) -> bytes:
    return next((value for key, value in scope["headers"] if key == name), b"")
