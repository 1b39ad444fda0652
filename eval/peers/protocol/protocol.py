"""A worker's side of the benchmark: one JSON object a line comes in, one goes out.

    {"call": "encode", "arguments": {...}}
    {"result": ...}  or  {"error": "ValueError: ...", "trace": "..."}

Standard library only, because it runs in the environment of every peer. Whatever a library prints
goes to standard error, so that it never stands between two replies.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def serve(tasks: Mapping[str, Callable[[], object]]) -> None:
    """Make the object that the command line names and call its methods until input ends.

    A method that raises is answered with its error, and the worker goes on. Then the object's
    `close` is called if it has one.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)
    worker = tasks[sys.argv[1]]()
    try:
        for line in sys.stdin:
            replies.write(json.dumps(_reply(worker, json.loads(line))) + "\n")
            replies.flush()
    finally:
        getattr(worker, "close", lambda: None)()


def _reply(worker: object, request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"result": getattr(worker, request["call"])(**request["arguments"])}
    except Exception as error:  # noqa: BLE001 - reported to the other side, whatever it is
        return {
            "error": f"{type(error).__name__}: {error}",
            "trace": traceback.format_exc(),
        }


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result) of a call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def answer_all(
    ask: Callable[[str], int], questions: Sequence[str], concurrency: int
) -> dict[str, Any]:
    """Put all questions from `concurrency` threads; `ask` returns the tokens of its answer."""

    def one(question: str) -> tuple[float, int]:
        return timed(lambda: ask(question))

    with ThreadPoolExecutor(concurrency) as threads:
        seconds, answers = timed(lambda: list(threads.map(one, questions)))
    return {
        "seconds": seconds,
        "latencies": [latency for latency, _ in answers],
        "tokens": [tokens for _, tokens in answers],
    }


class Counted:
    """Counts the tokens that a transformers model makes, by standing before its `generate`."""

    def __init__(self, model: Any) -> None:  # noqa: ANN401 - of a library that only peers have
        self._generate = model.generate
        self._made = threading.local()
        model.generate = self

    def __call__(self, inputs: Any = None, **options: Any) -> Any:  # noqa: ANN401
        made = self._generate(inputs, **options)
        prompt = inputs if inputs is not None else options["input_ids"]
        self._made.tokens = int(made.shape[-1] - prompt.shape[-1])
        return made

    @property
    def tokens(self) -> int:
        """Tokens of this thread's latest call."""
        return int(self._made.tokens)
