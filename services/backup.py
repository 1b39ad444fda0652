"""Backups of a running service: `POST /v1/backup` sends one as it is made."""

import logging
from collections.abc import Generator
from functools import partial

from fastapi import APIRouter, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rag.backup import pieces
from rag.errors import RagError
from services.requests import CLIENT_GONE
from services.service import Operating, Service
from services.threads import Stream, first, unless_gone

log = logging.getLogger(__name__)

ZIP = "application/zip"

router = APIRouter(prefix="/v1", tags=["maintenance"])

_FILE = {
    "description": "The backup. One that breaks off has no end, and `rag restore` refuses it.",
    "content": {ZIP: {"schema": {"type": "string", "format": "binary"}}},
}


@router.post("/backup", response_class=Response, responses={200: _FILE})
async def backup(request: Request, service: Operating) -> Response:
    """Everything of all tenants as one file, consistent at one moment, while the service goes on.

    `rag restore FILE` puts it into an empty folder. One backup is made at a time.
    """
    made = service.backups.stream(partial(_pieces, service))
    begun = await first(made, request.receive)
    return Download(begun, made) if begun is not None else Response(status_code=CLIENT_GONE)


def _pieces(service: Service) -> Generator[bytes]:
    yield from pieces(service.parts)


class Download(Response):
    """Sends pieces as they come; when the client goes, what makes them is stopped.

    `first` has been taken from `rest` already: errors before it are ordinary problems. One that
    comes later breaks the connection off, so that no client takes what it has for the whole.
    """

    def __init__(self, first: bytes, rest: Stream[bytes]) -> None:
        self.status_code = 200
        self.background = None
        name = "ragstone-backup.zip"
        self.init_headers(
            {
                "Content-Type": ZIP,
                "Content-Disposition": f'attachment; filename="{name}"',
                "Cache-Control": "no-store",
            }
        )
        self._first = first
        self._rest = rest

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await unless_gone(receive, self._send(send))
        finally:
            await self._rest.close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(start)
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in self._rest:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            log.debug("the client of a backup went away")
        except RagError as error:
            log.error("a backup broke off: %s", error)
            raise
