"""A causal LM's tokens as text, piece by piece, as they come out of any engine."""

import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Literal, Self

from rag.types import Usage
from rag.work import cancel_with, current_work

FinishReason = Literal["stop", "length", "cancelled"]


class Detokenizer:
    """Token ids to text, one at a time; the pieces add up to the text of all ids.

    A piece never ends inside a character: bytes that are not yet a whole one are held back.
    `decode` turns a list of ids into text and leaves special tokens out. Where a model writes bytes
    that are no UTF-8, the number of U+FFFD may differ from that of decoding all ids at once.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        # ids[start:read] have been emitted. They are decoded again with what follows because a
        # token's text depends on its left neighbour: SentencePiece drops a leading space.
        self._start = 0
        self._read = 0

    def push(self, token_id: int) -> str:
        """The text that this token completes, "" while a character is incomplete."""
        self._ids.append(token_id)
        piece = self._pending()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._start, self._read = self._read, len(self._ids)
        return piece

    def flush(self) -> str:
        """What is still held back: bytes that never became a character, as U+FFFD."""
        piece = self._pending()
        self._start = self._read = len(self._ids)
        return piece

    def _pending(self) -> str:
        emitted = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        if text.startswith(emitted):
            return text[len(emitted) :]
        # A byte-fallback decoder spoils a whole run of byte tokens for one bad byte, those that
        # were a character before included.
        return self._decode(self._ids[self._read :])


class StopFilter:
    """Lets text through up to the first stop string, and nothing of the stop string itself.

    "First" is the one that is complete first; then how the text is cut into pieces does not matter.
    """

    def __init__(self, stops: Collection[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can be shown. Sets `stopped` once a stop string has come."""
        text = self._held + text
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)[1]]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """The text held back for a stop string that never came."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


class Generation:
    """What the engine's thread and the reader's thread share about one request.

    The engine calls `push` with every token and ends when it returns True, then `finish`.
    """

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        *,
        stops: Sequence[str],
        end_ids: Collection[int],
        max_new_tokens: int,
    ) -> None:
        self.cancelled = threading.Event()
        self.pieces: SimpleQueue[str | None] = SimpleQueue()
        self.completion_tokens = 0
        self.finish_reason: FinishReason | None = None
        self._text = Detokenizer(decode)
        self._stop = StopFilter(stops)
        self._end_ids = frozenset(end_ids)
        self._max_new_tokens = max_new_tokens

    def push(self, token_id: int) -> bool:
        """Take the next token. True: generate no more."""
        if self.finish_reason is None:
            self.finish_reason = self._take(token_id)
        return self.finish_reason is not None

    def _take(self, token_id: int) -> FinishReason | None:
        if self.cancelled.is_set():
            return "cancelled"
        self.completion_tokens += 1
        if token_id in self._end_ids:
            return "stop"
        self._show(self._stop.push(self._text.push(token_id)))
        if self._stop.stopped:
            return "stop"
        return "length" if self.completion_tokens >= self._max_new_tokens else None

    def finish(self) -> None:
        """Let go of held-back text and tell the reader that no more comes."""
        if self.finish_reason is None and self.cancelled.is_set():
            self.finish_reason = "cancelled"
        if self.finish_reason in ("stop", "length") and not self._stop.stopped:
            self._show(self._stop.push(self._text.flush()))
            if not self._stop.stopped:
                self._show(self._stop.flush())
        self.pieces.put(None)

    def _show(self, text: str) -> None:
        if text:
            self.pieces.put(text)


class TokenStream(Iterator[str]):
    """The pieces of one answer. Close it, or use it in a `with`, to stop the model early.

    `finish_reason` is None while the model runs, then `stop` (end token or stop string), `length`
    (`max_new_tokens` reached) or `cancelled`. `usage` counts what has been generated so far, the
    end token included. `notes` says which parameters had no effect and why. Iterating raises what
    the engine raised. A stream that nobody holds any more stops its model, too, and so does one
    whose work is cancelled.
    """

    def __init__(
        self,
        generation: Generation,
        future: Future[None],
        *,
        prompt_tokens: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        self._generation = generation
        self._future = future
        self._prompt_tokens = prompt_tokens
        self._ended = False
        weakref.finalize(self, generation.cancelled.set)
        cancel_with(current_work(), self)

    @property
    def usage(self) -> Usage:
        """Tokens of the prompt and of the answer so far."""
        return Usage(self._prompt_tokens, self._generation.completion_tokens)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None while it has not."""
        return self._generation.finish_reason

    def __next__(self) -> str:
        if self._ended:
            raise StopIteration
        piece = self._generation.pieces.get()
        if piece is not None:
            return piece
        self._ended = True
        if not self._future.cancelled():
            self._future.result()
        raise StopIteration

    def cancel(self) -> None:
        """Ask the model to stop, at the latest after the token that it is computing. No waiting."""
        self._generation.cancelled.set()
        if self._future.cancel():  # it was still waiting for its turn, nobody else will finish it
            self._generation.finish()

    def close(self) -> None:
        """Cancel, and return when the model has stopped. From any thread, as often as wanted."""
        self.cancel()
        # `wait` would wait for a future cancelled before its turn until that turn comes.
        if not self._future.cancelled():
            wait([self._future])
        self._ended = True
        self._generation.pieces.put(None)  # wakes a reader in another thread

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
