"""Middleware: nobody gets past it whom the gate does not know; writes and denials are audited."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.audit import Entry
from rag.errors import RagError
from services import logs
from services.auth import Caller

log = logging.getLogger(__name__)

DENIED = (401, 403)
# What says nothing of anybody's documents: whether the service runs, and how it is spoken to.
PUBLIC = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico"})
AGENTS = "/mcp"
PUBLIC_BELOW = ("/assets/", "/docs/")

Refuse = Callable[[Scope, RagError], Response]


class Guard:
    """Sets `caller` in the state of a request; what follows refuses a request without one."""

    def __init__(self, app: ASGIApp, refuse: Refuse) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        audited = self._audited(scope, send)
        if not is_public(scope["path"]):
            service = scope["app"].state.service
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            ask = partial(service.gate.caller, headers, _address(scope), scope["method"])
            try:
                state["caller"] = caller = await service.doors.run(ask)
                if scope["path"] == AGENTS:  # its tools are no routes that say what they need
                    caller.needs("read")
            except RagError as error:
                await self._refuse(scope, error)(scope, receive, audited)
                return
        try:
            await self._app(scope, receive, audited)
        except Exception:
            if state.get("writes") and not state.get("written_down"):
                await _write_down(scope, HTTPStatus.INTERNAL_SERVER_ERROR)
            raise

    def _audited(self, scope: Scope, send: Send) -> Send:
        """Sends, having written down what is to be written down before the answer begins."""

        async def audited(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = message["status"]
                if status in DENIED or scope["state"].get("writes"):
                    await _write_down(scope, status)
            await send(message)

        return audited


def is_public(path: str) -> bool:
    """Whether everybody may ask for it."""
    return path in PUBLIC or path.startswith(PUBLIC_BELOW)


async def _write_down(scope: Scope, status: int) -> None:
    scope["state"]["written_down"] = True
    caller: Caller | None = scope["state"].get("caller")
    route = scope.get("route")
    entry = Entry(
        at=datetime.now(UTC),
        tenant=caller.scope.tenant if caller else "",
        caller=caller.name if caller else "",
        action=f"{scope['method']} {getattr(route, 'name', '')}".strip()[:200],
        target=_target(scope)[:2000],
        status=status,
        address=_address(scope),
        request_id=logs.request_id(),
    )
    service = scope["app"].state.service
    try:
        await service.doors.run(partial(service.audit.write, entry))
    except RagError as error:
        log.error("the audit log does not have %s: %s", entry, error)


def _target(scope: Scope) -> str:
    """What was written: the path, and what a route says of the rest (`Service.writes`)."""
    named = f"{scope['path']} {scope['state'].get('subject', '')}".strip()
    # Whoever reads it does so in a terminal.
    return logs.shown(named.encode("utf8", "backslashreplace").decode())


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0])[:64] if client else ""
