"""An answer that a server writes, as `rag.generate.TextStream`.

A thread of its own reads, so that several answers come at once and none waits for its reader.
"""

import json
import logging
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Self

from rag.errors import ModelUnavailable
from rag.models.stream import FinishReason, StopFilter
from rag.models.transport import Call, Transport
from rag.types import Usage
from rag.work import cancel_with, current_work

log = logging.getLogger(__name__)

_STOPS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "eos_token": "stop",  # TGI
    "stop_sequence": "stop",  # TGI
}


@dataclass(slots=True)
class Answer:
    """What the thread that talks to the server and the reader share about one answer."""

    stop: StopFilter
    notes: list[str]
    call: Call = field(default_factory=Call)
    pieces: SimpleQueue[str | None] = field(default_factory=SimpleQueue)
    usage: Usage | None = None
    finish_reason: FinishReason | None = None

    def take(self, data: str) -> bool:
        """Take one event. True: no more is wanted."""
        if data == "[DONE]":
            return True
        chunk = _chunk(data)
        if chunk.get("usage"):
            self.usage = _usage(chunk["usage"])
        for choice in chunk.get("choices") or ():
            self._show(self.stop.push(_text(choice)))
            if nested(choice, "delta", "reasoning_content"):
                self._note("The model's reasoning is left out.")
            if (reason := nested(choice, "finish_reason")) is not None:
                self.finish_reason = self._finish(str(reason))
        if self.stop.stopped:
            self.finish_reason = "stop"
        # Once a stop string has come here the server need not go on; otherwise usage follows.
        return self.stop.stopped

    def end(self) -> None:
        """Let go of held-back text, and say what is not known."""
        if self.call.cancelled.is_set() and self.finish_reason is None:
            self.finish_reason = "cancelled"
        if self.finish_reason in ("stop", "length") and not self.stop.stopped:
            self._show(self.stop.flush())
        if self.usage is None:
            self._note("The server gave no token counts.")

    def _finish(self, reason: str) -> FinishReason:
        if reason not in _STOPS:
            self._note(f"The server ended the answer for the reason {reason!r}.")
        return _STOPS.get(reason, "stop")

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _show(self, text: str) -> None:
        if text:
            self.pieces.put(text)


def read_answer(answer: Answer, transport: Transport, path: str, body: dict[str, Any]) -> None:
    """Read one answer, in a thread of its own. The reader is told of its end whatever happens."""
    try:
        try:
            with closing(transport.stream(path, body, answer.call)) as events:
                for data in events:
                    if answer.take(data):
                        break
        except ModelUnavailable as error:
            if answer.finish_reason is None:
                raise
            log.warning("%s The answer was whole by then.", error.message)
        if answer.finish_reason is None and not answer.call.cancelled.is_set():
            raise ModelUnavailable(f"{transport.name} ended its answer in the middle.")
        answer.end()
    finally:
        answer.pieces.put(None)


class RemoteStream(Iterator[str]):
    """The pieces of one answer. Close it, or use it in a `with`, to stop the server early.

    `finish_reason` is None while the server writes, then `stop`, `length` or `cancelled`. `usage`
    is what the server counted, which it tells at the end; zeros, and a note, where it does not.
    Iterating raises what went wrong: an answer that breaks off never passes for a short one. A
    stream that nobody holds any more hangs up, too.
    """

    def __init__(self, answer: Answer, future: Future[None]) -> None:
        self._answer = answer
        self._future = future
        self._ended = False
        weakref.finalize(self, answer.call.cancel)
        cancel_with(current_work(), self)

    @property
    def usage(self) -> Usage:
        """Tokens of prompt and answer as the server counted them."""
        return self._answer.usage or Usage()

    @property
    def notes(self) -> tuple[str, ...]:
        """Which parameters had no effect, and what the server did not tell."""
        return tuple(self._answer.notes)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None while it has not, and where it broke off."""
        return self._answer.finish_reason

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        piece = self._answer.pieces.get()
        if piece is not None:
            return piece
        self._ended = True
        if not self._future.cancelled():
            self._future.result()
        raise StopIteration

    def cancel(self) -> None:
        """Hang up. No waiting."""
        self._answer.call.cancel()
        if self._future.cancel():  # it was still waiting for a thread
            self._answer.end()
            self._answer.pieces.put(None)

    def close(self) -> None:
        """Hang up, and return when nothing runs any more. From any thread, as often as wanted."""
        self.cancel()
        if not self._future.cancelled():
            wait([self._future])
        self._ended = True
        self._answer.pieces.put(None)  # wakes a reader in another thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise ModelUnavailable(
            f"The model server sent an event that is no JSON: {error}."
        ) from error
    if not isinstance(chunk, dict):
        raise ModelUnavailable(f"The model server sent {data[:100]!r} for a piece of an answer.")
    failure = chunk.get("error") or (chunk if "choices" not in chunk else None)
    if failure and not chunk.get("usage"):
        said = failure.get("message", failure) if isinstance(failure, dict) else failure
        raise ModelUnavailable(f"The model server failed while it answered: {said}.")
    return chunk


def _text(choice: object) -> str:
    """A piece of a chat answer, or of a completion."""
    text = nested(choice, "delta", "content") if nested(choice, "delta") else nested(choice, "text")
    return text if isinstance(text, str) else ""


def _usage(found: object) -> Usage | None:
    counts = [nested(found, name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (n if isinstance(n, int) else None for n in counts)
    return None if prompt is None or completion is None else Usage(prompt, completion)


def nested(found: object, *names: str) -> Any:  # noqa: ANN401 - whatever JSON is there
    """`found[name][name]...`, None where something on the way is missing."""
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found
