"""Middleware: the headers that tell a browser to distrust what it gets from here."""

from collections.abc import Mapping

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Answers are data: opened in a browser, nothing in them runs or is fetched.
POLICY = "default-src 'none'; frame-ancestors 'none'"
NOT_STORED = "no-store"
OWN_POLICY = ("/docs",)  # Swagger's page, whose scripts FastAPI takes from a public server
YEAR = 31_536_000  # seconds


class SecurityHeaders:
    """Adds them where a route has not set its own; with `tls` browsers are to come back by it."""

    def __init__(self, app: ASGIApp, *, tls: bool) -> None:
        self._app = app
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._set(MutableHeaders(scope=message), scope["path"])
            await send(message)

        await self._app(scope, receive, with_headers)

    def _set(self, headers: MutableHeaders, path: str) -> None:
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        if not path.startswith(OWN_POLICY):
            headers.setdefault("Content-Security-Policy", POLICY)
        if path.startswith(("/v1/", "/score")):
            headers.setdefault("Cache-Control", NOT_STORED)
        if self._tls:
            headers.setdefault("Strict-Transport-Security", f"max-age={YEAR}")
