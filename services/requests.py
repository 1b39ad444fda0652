"""What every request has, whatever answers it: an id, a span, its counts, a line in the log."""

import logging
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.metrics import SECONDS
from rag.spans import SILENT, Spans
from services import logs

log = logging.getLogger(__name__)

HEADER = b"x-request-id"
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"  # a method that nobody takes, a path that no route has
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds
CLIENT_GONE = 499  # nginx's status for it; nobody reads it


class RequestMetrics:
    """Counts requests by their route: a path may hold anything, and would be a series each."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "ragstone_http_requests_total",
            "Requests by route and status; 499: the client went away before the answer.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "ragstone_http_request_seconds",
            "Seconds until a request was answered whole, streams to their end.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request ended."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


class Observed:
    """Around everything else, so that whatever answers or fails is inside. Nothing is buffered."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else OTHER
        began, status = time.perf_counter(), 0
        with _spans(scope).request(
            method, dict(_headers(scope, b"traceparent", b"tracestate"))
        ) as span:
            given = dict(_headers(scope, HEADER)).get(HEADER.decode(), "")
            request = logs.begin(given, span.trace_id)

            async def answering(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                    named = (HEADER, request.id.encode())
                    message = {**message, "headers": [*message.get("headers", ()), named]}
                await send(message)

            try:
                await self._app(scope, receive, answering)
            except Exception:
                status = status or 500
                raise
            finally:
                seconds, route = time.perf_counter() - began, _route(scope)
                status = status or CLIENT_GONE
                self._metrics.answered(method, route or OTHER, status, seconds)
                span.answered(method, route, status)
                _write(method, route, status, seconds)


def _write(method: str, route: str, status: int, seconds: float) -> None:
    """The route and not the path, which holds ids, and never what follows its question mark."""
    milliseconds = round(1000 * seconds, 1)
    fields = {"method": method, "route": route, "status": status, "ms": milliseconds}
    level = logging.DEBUG if route in PROBES and status < 400 else logging.INFO
    log.log(
        level, "%s %s %d %.1f ms", method, route or "-", status, milliseconds,
        extra={"fields": fields},
    )  # fmt: skip


def _spans(scope: Scope) -> Spans:
    """Those of the running service; a request may come before there is one."""
    service = getattr(scope["app"].state, "service", None)
    return service.parts.spans if service is not None else SILENT


def _route(scope: Scope) -> str:
    """The template of the route that took the request; empty where none did."""
    if "endpoint" not in scope:
        return ""
    path, values = str(scope["path"]), scope.get("path_params")
    if not values:
        return path
    # What a route knows as its path may lack the prefix of the router that it was included by.
    template = str(scope["route"].path_format)
    tail = template.format(**values)
    return path.removesuffix(tail) + template if path.endswith(tail) else template


def _headers(scope: Scope, *names: bytes) -> Iterable[tuple[str, str]]:
    for name, value in scope["headers"]:
        if name in names:
            yield name.decode(), value.decode("latin-1")
