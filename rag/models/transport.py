"""HTTP to a model server: timeouts, retries, a circuit breaker, and requests that can be cut.

One `Transport` talks to one server. What is tried again is what cannot have had an effect: a
connection that was never made, and the answers 429 and 503, which say that nothing was done. Waits
grow exponentially with full jitter (Brooker, "Exponential Backoff and Jitter", AWS, 2015) on top of
what the server's `Retry-After` asks for. Nothing is tried again once an answer has begun. A server
that keeps failing is left alone for a while (`rag.models.breaker`).
"""

import itertools
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from pydantic import SecretStr

from rag.errors import InvalidInput, ModelUnavailable, Overloaded, RagError
from rag.models.breaker import Breaker

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 2**20  # 2,048 vectors of 4,096 dimensions are some 180 MB of JSON
MAX_ERROR_BYTES = 2**16
MAX_MESSAGE_CHARS = 500  # of what a server says about an error
# uvicorn closes idle connections after five seconds; a request must not meet that moment.
KEEP_ALIVE_SECONDS = 4.0

_TRY_AGAIN = (429, 503)
_CALLERS_FAULT = (400, 413, 422)
_NO_SUCH_PATH = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait for a server and how often to try. Seconds.

    `read_timeout` is the longest silence: before an answer begins, and between two of its pieces.
    `total_timeout` holds for a request with all its retries; it is looked at whenever something
    arrives, so a request ends at most one silence later. `retries` counts what follows the first
    attempt. A server that asks for a longer pause than `retry_wait` is not asked again.
    """

    connect_timeout: float = 5.0
    read_timeout: float = 60.0
    total_timeout: float = 600.0
    retries: int = 2
    retry_wait: float = 20.0
    breaker_failures: int = 5
    breaker_seconds: float = 30.0


FIRST_WAIT = 0.5  # seconds; doubled with every retry, and multiplied by the jitter


class Call:
    """One request that any thread can cut, whatever it is waiting for."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()
        self._guard = threading.Lock()
        self._socket: socket.socket | None = None

    def cancel(self) -> None:
        """Hang up. The server sees its client go; the reading thread wakes with an error."""
        with self._guard:
            self.cancelled.set()
            self._hang_up()

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """httpcore's trace hook: learns which socket the request runs over."""
        if event.endswith(("connect_tcp.complete", "start_tls.complete")):
            with self._guard:
                self._socket = info["return_value"].get_extra_info("socket")
                if self.cancelled.is_set():
                    self._hang_up()

    def done(self) -> None:
        """The socket is no longer this call's."""
        with self._guard:
            self._socket = None

    def _hang_up(self) -> None:
        if self._socket is not None:
            # Closing would not wake a thread that reads. `SSLSocket.shutdown` would take the TLS
            # layer from under that thread, so the plain socket's is called.
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


class NotServed(ModelUnavailable):
    """The server has nothing at this path (404, 405, 501)."""


class _NoAnswer(Exception):
    """The server failed. `again`: it did nothing yet; `pause`: seconds that it asked for."""

    def __init__(
        self, error: RagError, *, again: bool = False, pause: float = 0.0, alive: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.again = again
        self.pause = pause
        self.alive = alive


class _Cancelled(Exception):
    """The call was cut by its owner."""


@dataclass(frozen=True, slots=True)
class _Request:
    """One request and what bounds it; `deadline` on the transport's clock."""

    client: httpx.Client
    method: str
    path: str
    body: object
    call: Call
    deadline: float


class Transport:
    """Requests to one model server. Safe to use from several threads.

    `name` is what messages call it ("The embedder at http://..."), `setting` the prefix of the
    settings that hints name (`RAG_EMBEDDER`). `clock`, `sleep(event, seconds)` and `jitter` (0 to
    1) are time and chance, for tests to replace.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        setting: str,
        api_key: SecretStr | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[threading.Event, float], object] = threading.Event.wait,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = f"The {name} at {url}"
        self.setting = setting
        self.limits = limits or Limits()
        self._url = url.rstrip("/")
        self.host = httpx.URL(url).host
        self._key = api_key.get_secret_value() if api_key else ""
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._breaker = Breaker(
            self.name, self.limits.breaker_failures, self.limits.breaker_seconds, clock
        )
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx.Client(
            headers=headers, limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_SECONDS)
        )
        # A stream has a connection of its own, made and closed with it: `Call` cuts that.
        self._streams = httpx.Client(
            headers=headers, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()
        self._streams.close()

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever JSON the server sends
        """The JSON at a path below the server's URL. Raises as `post` does."""
        return self._json("GET", path, None)

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - whatever JSON comes back
        """The JSON answer to a JSON body.

        Raises `InvalidInput` where the server finds fault with the request (400, 413, 422),
        `Overloaded` where it stays too busy (429), `ModelUnavailable` for everything else.
        """
        return self._json("POST", path, body)

    def stream(self, path: str, body: object, call: Call) -> Generator[str, None, None]:
        """The data of each server-sent event that answers a JSON body.

        Ends when the server ends its answer, or when `call` is cancelled. Raises as `post` does,
        and `ModelUnavailable` for a connection that breaks.
        """
        with suppress(_Cancelled), self._answer(self._streams, "POST", path, body, call) as chunks:
            yield from events(chunks)

    def _json(self, method: str, path: str, body: object) -> Any:  # noqa: ANN401
        received = bytearray()
        with self._answer(self._client, method, path, body, Call()) as chunks:
            for chunk in chunks:
                received += chunk
                if len(received) > MAX_BODY_BYTES:
                    raise ModelUnavailable(f"{self.name} sent more than {MAX_BODY_BYTES:,} bytes.")
        try:
            return json.loads(received)
        except ValueError as error:
            raise ModelUnavailable(
                f"{self.name} answered {path} with something that is not JSON: {error}.",
                hint=f"Check {self.setting}_URL.",
            ) from error

    @contextmanager
    def _answer(
        self, client: httpx.Client, method: str, path: str, body: object, call: Call
    ) -> Iterator[Iterator[bytes]]:
        """The body of a good answer, piece by piece, after as many attempts as that takes."""
        self._breaker.admit()
        deadline = self._clock() + self.limits.total_timeout
        request = _Request(client, method, path, body, call, deadline)
        try:
            response = self._attempts(request)
            self._breaker.succeeded()
            try:
                yield self._chunks(response, request)
            finally:
                call.done()
                response.close()
        except _NoAnswer as failure:
            if call.cancelled.is_set():
                self._breaker.abandoned()
                raise _Cancelled from failure
            if failure.alive:
                self._breaker.succeeded()
            else:
                self._breaker.failed()
            raise failure.error from failure.__cause__
        except BaseException:
            self._breaker.abandoned()
            raise

    def _attempts(self, request: _Request) -> httpx.Response:
        """The first answer with status 200."""
        cancelled = request.call.cancelled
        for attempt in itertools.count(1):
            if cancelled.is_set():
                raise _Cancelled
            try:
                return self._attempt(request)
            except _NoAnswer as failure:
                wait = self._wait(failure, attempt)
                if wait is None or self._clock() + wait >= request.deadline or cancelled.is_set():
                    raise
                log.warning(
                    "Attempt %d of %d: %s Next one in %.2f s.",
                    attempt, self.limits.retries + 1, failure.error.message, wait,
                )  # fmt: skip
                self._sleep(cancelled, wait)
        raise AssertionError("unreachable: the loop returns or raises")

    def _wait(self, failure: _NoAnswer, attempt: int) -> float | None:
        """Seconds from the attempt that failed to the next, None where there is none."""
        last = attempt > self.limits.retries
        if last or not failure.again or failure.pause > self.limits.retry_wait:
            return None
        backoff = min(self.limits.retry_wait, FIRST_WAIT * 2.0 ** (attempt - 1))
        return failure.pause + self._jitter() * backoff

    def _attempt(self, request: _Request) -> httpx.Response:
        limits = self.limits
        silence = max(0.001, min(limits.read_timeout, request.deadline - self._clock()))
        built = request.client.build_request(
            request.method,
            self._url + request.path,
            json=request.body,
            timeout=httpx.Timeout(silence, connect=min(limits.connect_timeout, silence)),
            extensions={"trace": request.call.trace},
        )
        try:
            response = request.client.send(built, stream=True)
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        if response.status_code == 200:
            return response
        try:
            raise self._refusal(response)
        finally:
            request.call.done()
            response.close()

    def _chunks(self, response: httpx.Response, request: _Request) -> Iterator[bytes]:
        try:
            for chunk in response.iter_bytes():
                if self._clock() > request.deadline:
                    raise _NoAnswer(self._late(silence=0.0))
                yield chunk
        except httpx.HTTPError as error:
            raise self._broken(error) from error

    def _broken(self, error: httpx.HTTPError) -> _NoAnswer:
        connecting = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if isinstance(error, httpx.TimeoutException) and not connecting:
            return _NoAnswer(self._late(error.request.extensions["timeout"]["read"]))
        if connecting:
            message = f"{self.name} cannot be reached: {error}."
            hint = f"Start it, or check {self.setting}_URL."
            return _NoAnswer(ModelUnavailable(message, hint=hint), again=True)
        return _NoAnswer(ModelUnavailable(f"{self.name} broke off: {error}."))

    def _late(self, silence: float) -> ModelUnavailable:
        # A shorter silence than the setting's was all that the total time had left.
        limits = self.limits
        if silence == limits.read_timeout:
            how, limit = f"silent for {silence:g} s", "READ"
        else:
            how, limit = f"{limits.total_timeout:g} s in all", "TOTAL"
        return ModelUnavailable(
            f"{self.name} took too long: {how}.", hint=f"RAG_REMOTE_{limit}_TIMEOUT allows longer."
        )

    def _refusal(self, response: httpx.Response) -> _NoAnswer:
        """What a status other than 200 means."""
        status = response.status_code
        said = self._said(response)
        message = f"{self.name} answers {status}: {said}"
        pause = retry_after(response.headers.get("Retry-After", ""), datetime.now(UTC))
        if status == 429:
            error: RagError = Overloaded(message, retry_after=max(pause, 1.0))
        elif status in _CALLERS_FAULT:
            error = InvalidInput(message)
        elif status in (401, 403):
            error = ModelUnavailable(message, hint=f"Set {self.setting}_API_KEY.")
        elif status in _NO_SUCH_PATH:
            error = NotServed(message, hint=f"Check {self.setting}_URL.")
        else:
            error = ModelUnavailable(message, hint="Its log may say why.")
        return _NoAnswer(error, again=status in _TRY_AGAIN, pause=pause, alive=status < 500)

    def _said(self, response: httpx.Response) -> str:
        received = bytearray()
        with suppress(httpx.HTTPError):  # the status alone says enough
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MAX_ERROR_BYTES:
                    break
        text = _message(received.decode("utf-8", "replace"))
        # Some servers repeat the key that they refuse.
        text = text.replace(self._key, "***") if self._key else text
        return text[:MAX_MESSAGE_CHARS] or "(nothing more)"


def _message(text: str) -> str:
    """The sentence within an error's JSON: OpenAI's, TEI's and FastAPI's forms; else all of it."""
    try:
        found = json.loads(text)
    except ValueError:
        return text.strip()
    while isinstance(found, dict):
        found = next((found[k] for k in ("error", "message", "detail") if found.get(k)), str(found))
    return str(found)


def retry_after(value: str, now: datetime) -> float:
    """Seconds that a `Retry-After` header asks for: a number or a date (RFC 9110, 10.2.3).

    0 for none and for what is neither.
    """
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())


def events(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of server-sent events (WHATWG HTML, 9.2); an event without its end is none.

    Lines end with a line feed, with or without a carriage return. Not `str.splitlines`: that would
    also cut at U+2028, which stands unescaped in the JSON of some servers.
    """
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
            continue
        field, _, value = line.partition(b":")
        if field in (b"data", b"error"):  # older llama.cpp servers send a failure as `error: {...}`
            data.append(value.removeprefix(b" ").decode("utf-8", "replace"))


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    rest = bytearray()
    for chunk in chunks:
        *whole, end = chunk.split(b"\n")
        for line in whole:
            rest += line
            yield bytes(rest).removesuffix(b"\r")
            rest.clear()
        rest += end
