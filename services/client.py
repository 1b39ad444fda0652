"""What the command line needs of a running server, as calls: its API, and its errors as ours."""

import json
import math
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from rag.errors import NotFound, Overloaded, RagError, StoreUnreachable
from services.kinds import class_of

PAGE = 1000
CURSOR = "cursor"  # the parameter that takes the `next` of the page before
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 60.0  # the events of a job keep a connection alive every 15
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
AWAY = (502, 503, 504)

T = TypeVar("T")


class Client:
    """A server at a base URL. Waits up to `patience` seconds for one that is away, then raises
    StoreUnreachable; `find` says where it is by then, since a new one may listen elsewhere.

    Everything that it asks for may be asked again: the uploads carry a key.
    """

    def __init__(
        self,
        url: str,
        *,
        patience: float,
        api_key: SecretStr = SecretStr(""),  # noqa: B008 - frozen
        find: Callable[[], str | None] = lambda: None,
        verify: ssl.SSLContext | bool = True,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url
        self._patience = patience
        self._find = find
        self._sleep = sleep
        timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        # What it talks to is on this machine: no proxy of the environment.
        headers = authorization(api_key)
        self._http = httpx.Client(timeout=timeout, headers=headers, verify=verify, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **params: str | int) -> Any:  # noqa: ANN401 - any JSON
        """What a route answers. Raises the error that it names."""
        return self._patiently(lambda: self._send("GET", path, params=params)).json()

    def post(self, path: str, body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - any JSON
        """What a route answers to JSON."""
        return self._patiently(lambda: self._send("POST", path, json=dict(body))).json()

    def try_post(self, path: str, body: Mapping[str, Any], *, seconds: float | None) -> Any:  # noqa: ANN401 - any JSON
        """The same once, in so many seconds; None: any time. Raises TimeoutError, Overloaded."""
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            with _reached(self.url):
                return self._send("POST", path, json=dict(body), timeout=timeout).json()
        except StoreUnreachable as error:
            if isinstance(error.__cause__, httpx.ReadTimeout):
                raise TimeoutError from error
            raise

    def delete(self, path: str, **params: str | bool) -> Any:  # noqa: ANN401 - any JSON
        """Delete what is there; what the route answers, None for nothing. Raises NotFound."""
        response = self._patiently(lambda: self._send("DELETE", path, params=params))
        return response.json() if response.content else None

    def upload(
        self,
        files: Sequence[tuple[str, BinaryIO]],
        *,
        sources: Sequence[str],
        key: str,
        **fields: str,
    ) -> Any:  # noqa: ANN401 - any JSON
        """Send files, each with its name and its source; read from their beginning, not held whole.

        The same `key` again does nothing twice. Raises Overloaded when the server has no room.
        """
        form = {**fields, "sources": json.dumps(list(sources))}

        def send() -> httpx.Response:
            parts = [("files", (name, file, "application/octet-stream")) for name, file in files]
            headers = {"Idempotency-Key": key}
            return self._send("POST", "/v1/documents", data=form, files=parts, headers=headers)

        return self._patiently(send, wait_for_room=False).json()

    def pages(self, path: str, field: str, **params: str) -> Iterator[dict[str, Any]]:
        """Every item of a list that comes in pages."""
        at: dict[str, str] = {}
        while True:
            page = self.get(path, limit=PAGE, **params, **at)
            yield from page[field]
            if page["next"] is None:
                return
            at = {CURSOR: page["next"]}

    def events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, data) of server-sent events up to `end`; begun again when they break off."""
        while True:
            opened = self._patiently(lambda: self._open(path))
            try:
                for name, data in _events(opened.iter_lines()):
                    yield name, data
                    if name == "end":
                        return
            except httpx.TransportError:
                pass  # as when the server stops in order
            finally:
                opened.close()
            self._sleep(FIRST_PAUSE)

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, data) of the events that a route answers JSON with. Raises what they name."""
        with _reached(self.url), self._http.stream("POST", self.url + path, json=body) as response:
            _check(response)
            for name, data in _events(response.iter_lines()):
                if name == "error":
                    raise error_of(data)
                yield name, data

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401
        response = self._http.request(method, self.url + path, **options)
        _check(response)
        return response

    def _open(self, path: str) -> httpx.Response:
        request = self._http.build_request("GET", self.url + path)
        response = self._http.send(request, stream=True)
        try:
            _check(response)
        except BaseException:
            response.close()
            raise
        return response

    def _patiently(self, call: Callable[[], T], *, wait_for_room: bool = True) -> T:
        """Again and again while the server is away, or has no room where that is waited for."""
        until, pause = time.monotonic() + self._patience, FIRST_PAUSE
        while True:
            try:
                return call()
            except Overloaded as error:
                if not wait_for_room or time.monotonic() >= until:
                    raise
                self._sleep(min(error.retry_after, LONGEST_PAUSE))
            except (httpx.TransportError, _Away) as error:
                if time.monotonic() >= until:
                    raise _unreachable(self.url, error) from error
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                self.url = self._find() or self.url


class _Away(Exception):
    """A server, or what stands before it, says that it cannot answer now."""


def authorization(api_key: SecretStr) -> dict[str, str]:
    """The headers that show a key to a server; none where there is no key."""
    key = api_key.get_secret_value()
    return {"Authorization": f"Bearer {key}"} if key else {}


def path_of(document_id: str) -> str:
    """The route of a document, whatever its id holds."""
    return f"/v1/documents/{quote(document_id, safe='')}"


def error_of(problem: Mapping[str, Any]) -> RagError:
    """What a problem object was before it was sent."""
    kind = class_of(str(problem.get("type", "")))
    message = str(problem.get("detail") or problem.get("title") or "The server failed.")
    return kind(message, hint=str(problem.get("hint") or ""))


def failure(response: httpx.Response) -> RagError:
    """What an answer that is no success says."""
    response.read()
    try:
        error = error_of(response.json())
    except (ValueError, AttributeError):  # something that is not ours stands before the server
        error = RagError(
            f"The server answered {response.status_code}.", hint="Is it a Ragstone server?"
        )
    if isinstance(error, Overloaded):
        error.retry_after = _seconds(response.headers.get("retry-after", ""))
    elif response.status_code == 404 and type(error) is RagError:
        return NotFound(error.message, hint=error.hint)
    return error


def _check(response: httpx.Response) -> None:
    """Raise what an answer that is no success says."""
    if response.is_success:
        return
    error = failure(response)
    if response.status_code in AWAY and type(error) is RagError:
        raise _Away(str(error))
    raise error


def _seconds(header: str) -> float:
    try:
        found = float(header)
    except ValueError:
        return 1.0
    return found if math.isfinite(found) and found > 0 else 1.0


def _events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


@contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except (httpx.TransportError, _Away) as error:
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> StoreUnreachable:
    return StoreUnreachable(
        f"The server at {url} does not answer any more: {error}.",
        hint="Start it again; what it accepted is on its disk and goes on then.",
    )
