"""What every service is made of: one lifespan, limits, problems, health."""

import asyncio
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from typing import Annotated
from uuid import uuid4

import uvicorn
from anyio import to_thread
from fastapi import APIRouter, Depends, FastAPI, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from rag import revisions
from rag.audit import Audit
from rag.errors import RagError
from rag.jobs import Ingestor
from rag.keys import Permission, refused
from rag.migrating import Migrator
from rag.orchestrator import Orchestrator
from rag.otel import open_spans
from rag.parts import ModelName, Parts, open_parts
from rag.settings import Settings, load_settings
from rag.spans import SILENT, Spans
from rag.types import Scope
from services import logs, mcp_server, metrics, problems, running
from services.auth import Caller, Gate, caller_of, check_start, tokens_of
from services.guard import Guard, Refuse
from services.headers import SecurityHeaders
from services.job_events import Followers
from services.limits import JSON_BYTES, BodyLimit, body_limit
from services.pauses import shorten_pauses
from services.requests import Observed, RequestMetrics
from services.schemas import Wire
from services.threads import Pool
from services.warmup import ALL_MODELS, WarmUp

VERSION = version("ragstone")  # reads files: once
CALL_THREADS = 16  # searches and lists that run at once
CALLS_WAITING = 256
FETCH_THREADS = 4  # requests whose documents are fetched from URLs at once
FETCHES_WAITING = 16
PROBE_SECONDS = 0.5  # between two looks at whether all is ready
DOOR_THREADS = 4  # callers whose keys are looked up at once
DOORS_WAITING = 1024


class Probes:
    """What is looked at at most so often, however many ask: anybody may."""

    def __init__(self) -> None:
        self._pool = Pool(1)
        self._turn = asyncio.Lock()
        self._found: dict[str, str] = {}
        self._at = float("-inf")

    async def found(self, look: Callable[[], dict[str, str]]) -> dict[str, str]:
        """What was found last; it is looked again when that is old."""
        async with self._turn:
            if time.monotonic() - self._at > PROBE_SECONDS:
                self._found = await self._pool.run(look)
                self._at = time.monotonic()
            return self._found


@dataclass(frozen=True)
class Service:
    """What the routes work with; built by the lifespan, and narrowed to the caller of a request."""

    orchestrator: Orchestrator
    gate: Gate
    doors: Pool
    answers: Pool
    calls: Pool
    fetches: Pool
    probes: Probes
    backups: Pool
    scrapes: Pool
    followers: Followers
    ingestor: Ingestor
    migrator: Migrator
    warm_up: WarmUp | None
    nonce: str  # tells this run of the service from others
    requests: RequestMetrics
    caller: Caller | None = None

    @cached_property
    def measured(self) -> metrics.Measured:
        """What `/metrics` shows."""
        return metrics.Measured(self)

    @property
    def parts(self) -> Parts:
        """Stores and models."""
        return self.orchestrator.parts

    @property
    def audit(self) -> Audit:
        """Who wrote what."""
        return self.parts.audit

    @property
    def known(self) -> Caller:
        """Who asks. Raises Unauthenticated outside of a request."""
        if self.caller is None:
            raise refused()
        return self.caller

    @property
    def scope(self) -> Scope:
        """Whose data the service touches."""
        return self.orchestrator.scope

    def of(self, caller: Caller) -> "Service":
        """The same, as far as this caller reaches."""
        if caller.scope == self.scope:
            return replace(self, caller=caller)
        return replace(self, orchestrator=self.orchestrator.within(caller.scope), caller=caller)


async def service_of(request: Request) -> Service:
    """The running service, for what tells nothing of anybody's data."""
    service: Service = request.app.state.service
    return service


# What it reads was read by the guard; here it tells the readers of /docs and /openapi.json.
BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="API key",
    description="Needed from the first `rag keys create` on; or a token of the identity provider.",
)


def needs(
    permission: Permission | None, *, writes: bool = False
) -> Callable[..., Awaitable[Service]]:
    """A dependency: the service as far as the caller reaches, who must have a permission.

    What `writes` is in the audit log.
    """

    async def narrowed(
        request: Request,
        _: Annotated[HTTPAuthorizationCredentials | None, Security(BEARER)],
    ) -> Service:
        caller = caller_of(request.scope["state"])
        if permission is not None:
            caller.needs(permission)
        request.state.writes = writes
        return (await service_of(request)).of(caller)

    return narrowed


# How a route gets at the service says what its caller must be permitted; it sees nothing else.
Anybody = Annotated[Service, Depends(service_of)]
Known = Annotated[Service, Depends(needs(None))]
Running = Annotated[Service, Depends(needs("read"))]
Noting = Annotated[Service, Depends(needs("read", writes=True))]
Writing = Annotated[Service, Depends(needs("write", writes=True))]
Administering = Annotated[Service, Depends(needs("admin", writes=True))]
Operating = Annotated[Service, Depends(needs("operate", writes=True))]


class Application(FastAPI):
    """FastAPI inside of what sees every request, those that fail included."""

    def build_middleware_stack(self) -> ASGIApp:
        """Middleware that is added in the usual way does not see what becomes of an error."""
        inside = SecurityHeaders(super().build_middleware_stack(), tls=self.state.tls)
        return Observed(inside, self.state.requests)


def build(
    title: str,
    routers: Iterable[APIRouter],
    settings: Settings | None = None,
    orchestrator: Orchestrator | None = None,
    *,
    models: Sequence[ModelName] = ALL_MODELS,
    ingests: bool = True,
    agents: bool = False,
    refuse: Refuse = problems.refuse,
) -> FastAPI:
    """An application of these routers, which need these models.

    With `ingests` it works on the documents that were accepted, here or by other services; with
    `agents` it speaks MCP at `/mcp`.

    Its lifespan opens the Orchestrator of `settings` and closes it again; one that is given stays
    its giver's to close.
    """
    if orchestrator is not None:
        settings = orchestrator.parts.settings
    settings = settings or load_settings()
    app = Application(
        title=title,
        version=VERSION,
        lifespan=partial(
            _lifespan,
            settings=settings,
            given=orchestrator,
            models=models,
            ingests=ingests,
            agents=agents,
            spans=open_spans(settings.otel),
        ),
        # Its own spans would hold paths and queries. Versions that have none take no notice.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        responses=problems.RESPONSES,
        redirect_slashes=False,
        redoc_url=None,
    )
    app.state.requests = RequestMetrics()
    app.state.tls = settings.tls_certificate is not None
    # The last one is the outermost.
    app.add_middleware(BodyLimit, limit=body_limit(settings))
    app.add_middleware(Guard, refuse=refuse)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-ID"],
        )
    problems.install(app)
    for router in (*routers, health, metrics.router):
        app.include_router(router)
    return app


def run(create: Callable[[Settings], FastAPI]) -> None:
    """Serve an application with the settings of the environment until told to stop."""
    try:
        settings = load_settings()
        app = create(settings)
        serve(app, settings)
    except RagError as error:
        sys.exit(str(error))


def serve(app: FastAPI, settings: Settings) -> None:
    """Serve an application at the configured address until told to stop.

    Raises InvalidInput where everybody on a network would be let in.
    """
    check_start(settings)
    logs.configure(settings)
    password = settings.tls_key_password
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.grace_seconds,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        ssl_keyfile_password=password.get_secret_value() if password else None,
        forwarded_allow_ips=settings.forwarded_allow_ips,
        server_header=False,
        log_config=None,
        access_log=False,  # `Observed` writes one, without queries
    )
    server = Server(config, app)
    shorten_pauses()
    with suppress(KeyboardInterrupt):  # uvicorn has shut down already when it lets it through
        server.run()
    if not server.started:
        sys.exit(3)  # the log says why


class Server(uvicorn.Server):
    """uvicorn that says in the data folder where it listens, for as long as nobody else can open
    that folder. Work in the background is told first to stop: it is put back, and the time that is
    left is for answers to end in.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Run the lifespan, then listen."""
        await super().startup(sockets)
        if self.started and self._service.parts.alone:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            settings, nonce = self._service.parts.settings, self._service.nonce
            running.announce(settings.data, host, port, nonce, settings.tls_certificate)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections, let requests end, then the lifespan."""
        service = self._service
        running.withdraw(service.parts.settings.data, service.nonce)
        await to_thread.run_sync(service.migrator.close)
        await to_thread.run_sync(service.ingestor.close)
        await super().shutdown(sockets)

    @property
    def _service(self) -> Service:
        service: Service = self._app.state.service
        return service


@asynccontextmanager
async def _lifespan(
    app: FastAPI,
    settings: Settings,
    given: Orchestrator | None,
    models: Sequence[ModelName],
    ingests: bool,
    agents: bool,
    spans: Spans,
) -> AsyncIterator[None]:
    orchestrator = given if given is not None else await to_thread.run_sync(_open, settings)
    if spans is not SILENT:
        orchestrator.parts.spans = spans
    ingestor, migrator = Ingestor(orchestrator), Migrator(orchestrator.parts)
    warm_up = WarmUp(orchestrator.parts, models) if settings.warm_up else None
    answers = Pool(settings.max_answers, waiting=settings.answers_waiting)
    calls = Pool(CALL_THREADS, waiting=CALLS_WAITING)
    fetches = Pool(FETCH_THREADS, waiting=FETCHES_WAITING)
    backups = Pool(1)
    gate = Gate(settings, orchestrator.parts.keys, orchestrator.scope, tokens_of(settings))
    app.state.service = Service(
        orchestrator,
        gate=gate,
        doors=Pool(DOOR_THREADS, waiting=DOORS_WAITING),
        answers=answers,
        calls=calls,
        fetches=fetches,
        probes=Probes(),
        backups=backups,
        scrapes=Pool(1, waiting=8),
        followers=Followers(settings.jobs_followed),
        ingestor=ingestor,
        migrator=migrator,
        warm_up=warm_up,
        nonce=uuid4().hex,
        requests=app.state.requests,
    )
    if ingests:
        await to_thread.run_sync(ingestor.start)
        await to_thread.run_sync(migrator.start)
    try:
        async with AsyncExitStack() as stack:
            if agents:
                serving = _serving_agents(app)
                await stack.enter_async_context(serving)
            yield
    finally:
        if warm_up is not None:
            await to_thread.run_sync(warm_up.close)
        await to_thread.run_sync(migrator.close)
        await to_thread.run_sync(ingestor.close)
        # Requests that were cut off end only now; models and stores stay until they have.
        await answers.drain()
        await calls.drain()
        await fetches.drain()
        await backups.drain()
        if given is None:
            await to_thread.run_sync(orchestrator.parts.close)
        elif spans is not SILENT:
            orchestrator.parts.spans = SILENT
        await to_thread.run_sync(spans.close)


@asynccontextmanager
async def _serving_agents(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service

    def of_caller(request: Request | None) -> Orchestrator:
        caller = caller_of(request.scope["state"] if request is not None else {})
        caller.needs("read")
        return service.of(caller).orchestrator

    server = mcp_server.build(of_caller, service.calls.run, service.answers.run, VERSION)
    served = server.streamable_http_app(
        streamable_http_path="/mcp",
        max_request_body_size=JSON_BYTES,
        stateless_http=True,  # no tool needs a session, and each request brings its own key
        # On the loopback interface other Host headers are refused.
        host=service.parts.settings.host,
    )
    app.router.routes.extend(served.routes)
    async with server.session_manager.run():
        yield


def _open(settings: Settings) -> Orchestrator:
    return Orchestrator(open_parts(settings), Scope(settings.tenant))


class Health(Wire):
    """That the process answers; `nonce` is another one after every start."""

    status: str
    version: str
    nonce: str


class Readiness(Wire):
    """That what the service needs answers, too."""

    status: str
    checks: dict[str, str]


health = APIRouter(tags=["health"])


@health.head("/healthz", include_in_schema=False)
@health.get("/healthz")
async def healthz(service: Anybody) -> Health:
    """Answers at once, whatever else the service is doing."""
    return Health(status="ok", version=VERSION, nonce=service.nonce)


@health.head("/readyz", include_in_schema=False, response_model=Readiness)
@health.get("/readyz", response_model=Readiness)
async def readyz(request: Request, service: Anybody) -> Readiness | Response:
    """200 when catalog, store, disk and models can be used; else 503, with the same `checks`."""
    checks = await service.probes.found(partial(_checks, service))
    if set(checks.values()) == {"ok"}:
        return Readiness(status="ok", checks=checks)
    failing = "; ".join(f"{name}: {found}" for name, found in checks.items() if found != "ok")
    return problems.respond_http(503, failing, request.url.path, checks=checks)


def _checks(service: Service) -> dict[str, str]:
    parts = service.parts
    checks = {
        "catalog": _check(lambda: parts.catalog.collections(service.scope)),
        "migrations": _check_revision(parts),
        "store": _check(parts.store.ping),
        "disk": _check_disk(parts.settings),
    }
    if service.warm_up is not None:
        checks["models"] = service.warm_up.check()
    return checks


def _check(call: Callable[[], object]) -> str:
    try:
        call()
    except RagError as error:
        problems.note_inside(error)
        return str(error)
    return "ok"


def _check_revision(parts: Parts) -> str:
    try:
        found = parts.database.revision()
    except RagError as error:
        problems.note_inside(error)
        return str(error)
    if found == (newest := revisions.newest()):
        return "ok"
    return f"the catalog's tables are at revision {found}, this version needs {newest}: restart it"


def _check_disk(settings: Settings) -> str:
    free = shutil.disk_usage(settings.data).free
    if free >= settings.min_free_bytes:
        return "ok"
    return f"{free} bytes are free below the data folder, {settings.min_free_bytes} are needed"
