"""A model server on the loopback interface: the protocols over real sockets, and failures at will.

What means something is answered by real tiny models; what only has to arrive is canned.
"""

import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rag.sampling import Sampling
from rag.types import Message


class Exchange(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: "ModelServer"
    body: Any = None

    def do_GET(self):
        self._route()

    def do_POST(self):
        self._route()

    def log_message(self, *_: object) -> None:
        """Silent."""

    def _route(self):
        length = int(self.headers.get("Content-Length", 0))
        self.body = json.loads(self.rfile.read(length)) if length else None
        with self.server.guard:
            self.server.requests.append((self.path, dict(self.headers), self.body))
            queued = self.server.queued[self.path]
            reply = queued.popleft() if queued else self.server.routes.get(self.path)
        if reply is None:
            self.json({"detail": "Not Found"}, status=404)
        else:
            reply(self)

    def json(self, answer: object, *, status: int = 200, **headers: str) -> None:
        self.text(json.dumps(answer), status=status, **headers)

    def text(self, answer: str, *, status: int = 200, **headers: str) -> None:
        content = answer.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def start_events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send_raw(self, content: bytes) -> None:
        """One chunk of the body."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))

    def event(self, data: object) -> None:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        self.send_raw(f"data: {text}\n\n".encode())

    def end_events(self) -> None:
        self.event("[DONE]")
        self.send_raw(b"")

    def hang_up(self) -> None:
        """Close without finishing what was begun."""
        self.close_connection = True

    def wait_for_hang_up(self) -> None:
        """Return once the client has closed its end."""
        self.rfile.read(1)
        self.server.hung_up.set()
        self.close_connection = True


Reply = Callable[[Exchange], None]


class ModelServer(ThreadingHTTPServer):
    """`routes` answer always, `queued` replies once each and first. `requests` keeps what came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.guard = threading.Lock()
        self.routes: dict[str, Reply] = {}
        self.queued: dict[str, deque[Reply]] = defaultdict(deque)
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.hung_up = threading.Event()
        self.released = threading.Event()  # lets go of replies that stall

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, path: str, *replies: Reply) -> None:
        self.queued[path].extend(replies)

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, _, body in self.requests if asked == path]

    def handle_error(self, *_: object) -> None:
        """A client that has hung up is what some tests are about."""


@contextmanager
def model_server() -> Iterator[ModelServer]:
    server = ModelServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("NO_PROXY", "127.0.0.1")
            environment.setenv("no_proxy", "127.0.0.1")
            yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def status(code: int, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's form."""
    return lambda exchange: exchange.json({"error": {"message": message}}, status=code, **headers)


def answer(value: object) -> Reply:
    return lambda exchange: exchange.json(value)


def stall(exchange: Exchange) -> None:
    """Say nothing until the test is over."""
    exchange.server.released.wait(20)
    exchange.close_connection = True


def chunk(text: str = "", finish: str | None = None, **more: object) -> dict[str, object]:
    """A piece of a chat answer."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice], **more}


def events(*data: object, whole: bool = True) -> Reply:
    """These events; then `[DONE]`, or a connection that breaks."""

    def reply(exchange: Exchange) -> None:
        exchange.start_events()
        for one in data:
            exchange.event(one)
        if whole:
            exchange.end_events()
        else:
            exchange.hang_up()

    return reply


def serve_tei(server: ModelServer, *, info: dict[str, Any], encoder=None, cross_encoder=None):
    """text-embeddings-inference over local models, with its refusal of too large batches."""
    server.routes["/info"] = answer(info)

    def too_many(exchange: Exchange, texts: list[str]) -> bool:
        most = info["max_client_batch_size"]
        if len(texts) > most:
            exchange.json({"error": f"batch size > {most}", "error_type": "Validation"}, status=413)
        return len(texts) > most

    def embed(exchange: Exchange) -> None:
        texts = exchange.body["inputs"]
        if not too_many(exchange, texts):
            vectors = encoder.encode(texts, max_tokens=info["max_input_length"])
            exchange.json(vectors.tolist())

    def rerank(exchange: Exchange) -> None:
        body = exchange.body
        if not too_many(exchange, body["texts"]):
            assert body["raw_scores"] is True
            scores = cross_encoder.logits(body["query"], body["texts"]).tolist()
            ranks = [{"index": i, "score": score} for i, score in enumerate(scores)]
            exchange.json(sorted(ranks, key=lambda rank: -rank["score"]))

    server.routes["/embed"] = embed
    server.routes["/rerank"] = rerank


def serve_openai(server: ModelServer, *, name: str, entry: dict[str, Any], lm=None, encoder=None):
    """OpenAI's API over local models; routes that a test has set already stay as they are."""
    server.routes["/v1/models"] = answer({"data": [{"id": name, **entry}]})

    def embeddings(exchange: Exchange) -> None:
        vectors = encoder.encode(exchange.body["input"], max_tokens=512).tolist()
        rows = [{"index": i, "embedding": vector} for i, vector in enumerate(vectors)]
        exchange.json({"data": rows[::-1]})  # the index counts, not the order

    def chat(exchange: Exchange) -> None:
        turns = tuple(Message(m["role"], m["content"]) for m in exchange.body["messages"])
        _generate(exchange, lm, turns, lambda text: {"delta": {"content": text}})

    def completions(exchange: Exchange) -> None:
        _generate(exchange, lm, exchange.body["prompt"], lambda text: {"text": text})

    server.routes.setdefault("/v1/embeddings", embeddings)
    server.routes.setdefault("/v1/chat/completions", chat)
    server.routes.setdefault("/v1/completions", completions)


def _generate(exchange: Exchange, lm, prompt, piece: Callable[[str], dict[str, object]]) -> None:
    body = exchange.body
    drawn = body["temperature"] > 0
    sampling = Sampling(
        temperature=body["temperature"] if drawn else None,
        top_p=body.get("top_p"),
        max_new_tokens=body["max_tokens"],
        do_sample=drawn,
        seed=body.get("seed"),
        stop=tuple(body.get("stop", ())),
    )
    exchange.start_events()
    with lm.stream(prompt, sampling) as stream:
        for text in stream:
            exchange.event({"choices": [{"index": 0, "finish_reason": None, **piece(text)}]})
        reason = {"index": 0, "finish_reason": stream.finish_reason, **piece("")}
        exchange.event({"choices": [reason]})
        used = stream.usage
        counts = {"prompt_tokens": used.prompt_tokens, "completion_tokens": used.completion_tokens}
    if body["stream_options"]["include_usage"]:
        exchange.event({"choices": [], "usage": counts})
    exchange.end_events()
