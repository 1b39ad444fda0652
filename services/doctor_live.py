"""`rag doctor --live`: a running server, asked for all that it says of itself, and for a search."""

import time
from collections.abc import Iterator

import httpx

from rag import __version__
from rag.errors import StoreUnreachable
from rag.settings import Settings
from services import running
from services.client import authorization, failure
from services.doctor import Check

PLAIN = "plain"  # listed among the models; no collection
TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # a first search may have to load a model


def address(settings: Settings, given: str | None) -> str:
    """The server that is named, or has the data folder open, or would be where the settings say."""
    if given is not None:
        url = given if "://" in given else f"http://{given}"
        return url.rstrip("/")
    scheme = "https" if settings.tls_certificate else "http"
    return running.find(settings.data) or f"{scheme}://{settings.host}:{settings.port}"


def examine_live(url: str, settings: Settings) -> Iterator[Check]:
    """A check after the other, as they are made. Raises StoreUnreachable when nobody answers."""
    headers = authorization(settings.api_key)
    verify = running.trusted(settings.data, url)
    with httpx.Client(
        base_url=url, headers=headers, timeout=TIMEOUT, verify=verify, trust_env=False
    ) as http:
        server = Server(http)
        try:
            health = server.ask("GET", "/healthz")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise StoreUnreachable(
                f"No server answers at {url}: {_why(error)}.",
                hint="Start one with `rag serve`, or name its address: rag doctor --live URL.",
            ) from error
        try:
            version = str(health.raise_for_status().json()["version"])
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            said = f"{url} answers {health.status_code}, and not as a Ragstone server does"
            yield Check("server", False, said, needed=True)
            return
        yield Check("server", True, f"{url}, {server.took}", needed=True)
        same = version == __version__
        said = version if same else f"{version}, here {__version__}"
        yield Check("version", same, said, needed=True)
        for name, look in (("ready", _ready), ("metrics", _metrics), ("search", _search)):
            try:
                yield from look(server)
            except httpx.HTTPError as error:
                yield Check(name, False, f"no answer: {_why(error)}", needed=True)


class Server:
    """Answers, and how long each took."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http
        self._seconds = 0.0

    @property
    def took(self) -> str:
        """How long the latest answer took."""
        return f"{1000 * self._seconds:.1f} ms"

    def ask(self, method: str, path: str, body: object = None) -> httpx.Response:
        """What a route answers, whatever it is."""
        began = time.perf_counter()
        response = self._http.request(method, path, json=body)
        self._seconds = time.perf_counter() - began
        return response


def _ready(server: Server) -> Iterator[Check]:
    response = server.ask("GET", "/readyz")
    try:
        checks = dict(response.json()["checks"])
    except (ValueError, KeyError, TypeError):
        yield Check("ready", False, _refused(response), needed=True)
        return
    for name, found in checks.items():
        yield Check(f"ready: {name}", found == "ok", str(found), needed=True)


def _metrics(server: Server) -> Iterator[Check]:
    response = server.ask("GET", "/metrics")
    if not response.is_success:
        yield Check("metrics", False, _refused(response), needed=True)
        return
    series = [line for line in response.text.splitlines() if line.startswith("ragstone_")]
    yield Check("metrics", bool(series), f"{len(series)} series, {server.took}", needed=True)


def _search(server: Server) -> Iterator[Check]:
    """A whole round trip: the catalog, the embedder, the store, the reranker."""
    listed = server.ask("GET", "/v1/models")
    if listed.status_code == 404:
        yield Check("search", None, "not a service that answers: it has no /v1/models")
        return
    if not listed.is_success:
        yield Check("search", False, _refused(listed), needed=True)
        return
    names = [one["id"] for one in listed.json()["data"] if one["id"] != PLAIN]
    if not names:
        yield Check("search", None, "there is no collection yet")
        return
    asked = {"collection": names[0], "query": "What is this about?", "limit": 1}
    response = server.ask("POST", "/v1/search", asked)
    if not response.is_success:
        yield Check("search", False, _refused(response), needed=True)
        return
    hits = len(response.json()["hits"])
    yield Check("search", True, f"{hits} hits in {names[0]!r}, {server.took}", needed=True)


def _refused(response: httpx.Response) -> str:
    said = f"{response.status_code}: {failure(response)}"
    if response.status_code in (401, 403):
        said += " RAG_API_KEY says which key is shown."
    return said


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__
