"""Ragstone's side: its models through `rag.parts`, its answers through `rag serve` over HTTP.

What runs is decided by RAG_ variables alone, as a user would decide it.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from ingestion import Ingest
from limits import Limits
from protocol import answer_all, serve, timed

from rag.generate import LanguageModelGenerator
from rag.parts import Parts, open_parts
from rag.sampling import Sampling
from rag.settings import Settings, load_settings

READY_SECONDS = 600  # a first start converts models
ANSWER_SECONDS = 600


def check_settings() -> None:
    """Raise ValueError for a RAG_ variable that is no setting: it would change nothing, unseen."""
    known = {f"RAG_{name.upper()}" for name in Settings.model_fields}
    if unknown := sorted(n for n in os.environ if n.startswith("RAG_") and n not in known):
        raise ValueError(f"this version of Ragstone has no setting {', '.join(unknown)}")


class _Models:
    """Opens the parts over an empty data folder."""

    def __init__(self) -> None:
        check_settings()
        self._folder = tempfile.TemporaryDirectory(prefix="perf-")
        self.parts: Parts = open_parts(load_settings(data=Path(self._folder.name)))

    def close(self) -> None:
        self.parts.close()
        self._folder.cleanup()


class Embed(_Models):
    """`Embedder.embed_passages`."""

    def load(self) -> dict[str, str]:
        self.embedder = self.parts.embedder
        return {"precision": _precision(self.embedder.encoder)}

    def encode(self, texts: list[str], save: str | None = None) -> dict[str, float]:
        seconds, vectors = timed(lambda: self.embedder.embed_passages(texts))
        if save:
            np.savez(save, values=vectors)
        return {"seconds": seconds}


class Rerank(_Models):
    """`Reranker.relevance`."""

    def load(self) -> dict[str, str]:
        reranker = self.parts.reranker
        if reranker is None:
            raise ValueError("the settings name no reranker")
        self.reranker = reranker
        return {"precision": _precision(getattr(reranker, "_model", reranker))}

    def score(self, asked: list[list[Any]], save: str | None = None) -> dict[str, Any]:
        """Seconds of each question; `asked` are pairs of a question and its passages."""
        seconds, scores = [], []
        for question, passages in asked:
            spent, found = timed(lambda q=question, p=passages: self._relevance(q, p))
            seconds.append(spent)
            scores.append(found)
        if save:
            np.savez(save, values=np.stack(scores))
        return {"seconds": seconds}

    def _relevance(self, question: str, passages: Sequence[str]) -> Any:  # noqa: ANN401
        return self.reranker.relevance(question, passages, lambda _: ({}, 0))


class Generate(_Models):
    """`LanguageModel.stream`."""

    def load(self) -> dict[str, str]:
        generator = self.parts.generator
        if not isinstance(generator, LanguageModelGenerator):
            raise ValueError(f"{generator.id} is no language model")
        self.model = generator.model
        return {"precision": _precision(self.model)}

    def one(self, request: dict[str, Any]) -> dict[str, float]:
        """Seconds to the first piece of text and to the end, and the tokens that the model read
        and wrote."""
        start = time.perf_counter()
        first = None
        with self.model.stream(request["prompt"], _sampling(request)) as pieces:
            for _ in pieces:
                first = first or time.perf_counter()
        seconds = time.perf_counter() - start
        if not pieces.usage.completion_tokens:
            raise ValueError("nothing was generated")
        # Text that is held back (half a character, say) came at the end.
        return {
            "first": (first - start) if first else seconds,
            "seconds": seconds,
            "tokens": pieces.usage.completion_tokens,
            "prompt_tokens": pieces.usage.prompt_tokens,
        }

    def concurrent(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """All requests at once, each from a thread of its own."""
        with ThreadPoolExecutor(len(requests)) as threads:
            done = list(threads.map(self.one, requests))
        return {
            "first": [one["first"] for one in done],
            "finished": [one["seconds"] for one in done],
            "tokens": [one["tokens"] for one in done],
        }


class Pipeline:
    """`rag serve` in a process of its own, and a client that asks it over HTTP."""

    def __init__(self) -> None:
        check_settings()
        self._server: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def load(self, models: dict[str, str], folder: str, options: dict[str, int]) -> dict[str, Any]:
        self._options = options
        port = _free_port()
        environment = os.environ | {
            "RAG_EMBEDDER": models["embedder"],
            "RAG_RERANKER": models["reranker"],
            "RAG_GENERATOR": models["generator"],
            "RAG_DATA": folder,
            "RAG_PORT": str(port),
            "RAG_RERANK_LIMIT": str(options["rerank"]),
            "RAG_CONTEXT_TOKENS": str(options["window"] // 2),  # nothing is left out
            "RAG_MAX_ANSWERS": str(options["concurrency"]),
        }
        serve_command = [sys.executable, "-c", "from services.cli import main; main()", "serve"]
        self._server = subprocess.Popen(
            serve_command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=ANSWER_SECONDS, trust_env=False,
            limits=httpx.Limits(max_connections=None),
        )  # fmt: skip
        _wait(self._ready, READY_SECONDS)
        return {"precision": "as configured", "pid": self._server.pid}

    def ingest(self, texts: list[str]) -> dict[str, float]:
        body = {"documents": [{"text": text} for text in texts]}  # known by their text
        client = self._opened()
        seconds, answer = timed(lambda: client.post("/v1/documents?wait=true", json=body))
        answer.raise_for_status()
        failed = [row for row in answer.json()["documents"] if row["status"] == "failed"]
        if failed:
            raise ValueError(f"{len(failed)} documents failed, such as {failed[0]['error']}")
        return {"seconds": seconds}

    def answer(self, questions: list[str], concurrency: int) -> dict[str, Any]:
        first: list[float] = []
        cuts: set[str] = set()
        found = answer_all(lambda q: self._ask(q, first, cuts), questions, concurrency)
        return found | {"first": first, "cuts": sorted(cuts)}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.terminate()
            self._server.wait(60)

    def _ask(self, question: str, first: list[float], cuts: set[str]) -> int:
        body = {
            "question": question, "stream": True, "do_sample": False,
            "limit": self._options["context"], "max_new_tokens": self._options["new_tokens"],
        }  # fmt: skip
        start, event, came = time.perf_counter(), "", False
        with self._opened().stream("POST", "/v1/ask", json=body) as answer:
            if answer.is_error:
                raise ValueError(f"{answer.status_code}: {answer.read().decode()}")
            for line in answer.iter_lines():
                event = line.removeprefix("event: ") if line.startswith("event: ") else event
                if not line.startswith("data: "):
                    continue
                if event in ("token", "done") and not came:
                    came = True
                    first.append(time.perf_counter() - start)
                if event == "error":
                    raise ValueError(line)
                if event == "done":
                    done = json.loads(line.removeprefix("data: "))
                    if done["abstained"]:
                        raise ValueError("it abstained: nothing was generated")
                    cuts |= {f"{cut['what']}: {cut['why']}" for cut in done["cuts"]}
                    return int(done["usage"]["completion_tokens"])
        raise ValueError("the stream ended without `done`")

    def _ready(self) -> bool:
        assert self._server is not None
        if (code := self._server.poll()) is not None:
            raise ValueError(f"`rag serve` ended with exit code {code}")
        try:
            return self._opened().get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _opened(self) -> httpx.Client:
        if self._client is None:
            raise ValueError("open first")
        return self._client


def _precision(model: object) -> str:
    """What the engine says of itself; one that says nothing is named by its class."""
    engine = getattr(model, "engine", model)
    return f"{type(engine).__name__} {getattr(engine, 'precision', '')}".strip()


def _sampling(request: dict[str, Any]) -> Sampling:
    names = ("temperature", "top_p", "max_new_tokens", "do_sample", "seed")
    return Sampling(**{name: request.get(name) for name in names})


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"not ready after {seconds:.0f} seconds")
        time.sleep(0.05)


if __name__ == "__main__":
    serve({
        "embed": Embed, "rerank": Rerank, "generate": Generate, "pipeline": Pipeline,
        "limits": Limits, "ingest": Ingest,
    })  # fmt: skip
