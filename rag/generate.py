"""Context -> a stream of text, by a language model. (`quote.py` answers without one.)"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from rag.catalog import Collection
from rag.errors import InvalidInput
from rag.history import shortened
from rag.prompt import NO_ANSWER, answer_messages
from rag.rerank import Frequencies
from rag.sampling import Sampling
from rag.types import Context, Cut, Message, Quote, Usage

Prompt = str | tuple[Message, ...]


class TextStream(Protocol):
    """Pieces of text as they are made. `usage` and `notes` are complete once it has ended."""

    @property
    def usage(self) -> Usage:
        """Tokens read and written so far."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Which parameters had no effect, and why."""

    @property
    def finish_reason(self) -> str | None:
        """`stop`, `length` or `cancelled` once it has ended."""

    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None:
        """Stop; returns when nothing runs any more."""


class LanguageModel(Protocol):
    """An engine that runs a causal LM."""

    id: str
    revision: str  # of its weights; empty where a server does not say
    context_window: int  # tokens of prompt and answer together
    marks: tuple[str, ...]  # what its tokenizer reads as special tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special ones."""

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model reads it."""

    def stream(self, prompt: Prompt, sampling: Sampling) -> TextStream:
        """Start generating. Raises InvalidInput for a prompt that does not fit."""

    def close(self) -> None:
        """Let threads and memory go."""


@dataclass(frozen=True, slots=True)
class Request:
    """All that an answer is made from. `cuts` is what of the conversation was left out of it."""

    question: str
    context: Context
    frequencies: Frequencies
    sampling: Sampling
    history: Sequence[Message]
    collection: Collection
    cuts: tuple[Cut, ...] = ()


@dataclass(slots=True)
class Generated:
    """A running answer: its text stream, and what is known about it already.

    `quotes` are the spans that the text consists of, when it consists of quotes; None: the text
    has to be compared with the passages. `context` is what the generator really read; `prompt` the
    conversation that a language model did.
    """

    stream: TextStream
    context: Context
    quotes: tuple[Quote, ...] | None = None
    cuts: tuple[Cut, ...] = ()
    prompt: tuple[Message, ...] = ()


class Generator(Protocol):
    """What answers from a context."""

    id: str
    revision: str

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this generator counts its context."""

    def answer(self, request: Request) -> Generated:
        """Start answering."""


class LanguageModelGenerator:
    """Answers with a causal LM."""

    def __init__(self, model: LanguageModel, *, default_new_tokens: int) -> None:
        self.id = model.id
        self.revision = model.revision
        self.model = model
        self.default_new_tokens = default_new_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the model's own tokenizer."""
        return self.model.count_tokens(text)

    def answer(self, request: Request) -> Generated:
        """Start answering. What does not fit the model's window is left out, and said."""
        sampling = with_default_length(request.sampling, self.default_new_tokens)
        room = self.model.context_window - (sampling.max_new_tokens or 0)
        fitting = self._fit(request, room)
        cuts = _cuts(request, fitting, f"the window of {self.id} holds {room} tokens of prompt")
        messages = self._messages(fitting)
        stream = self.model.stream(messages, sampling)
        return Generated(stream, fitting.context, cuts=cuts, prompt=messages)

    def _fit(self, request: Request, room: int) -> Request:
        """What of a request fits into so many tokens: history goes first, the oldest before the
        others, then the worst passages, then the end of the best one.
        """
        history = list(request.history)
        passages = list(request.context.passages)
        while (over := self._tokens(request) - room) > 0 and (history or passages):
            if history:
                while history and over > 0:
                    over -= self.model.count_tokens(history.pop(0).content)
            elif len(passages) > 1:
                passages.pop()
            else:
                (best,) = passages
                passages = []
                left = self.model.count_tokens(best.text) - over
                if text := shortened(best.text, max(0, left), self.model.count_tokens):
                    tokens = self.model.count_tokens(text)
                    end = best.start + len(text)
                    passages = [replace(best, text=text, end=end, tokens=tokens)]
            tokens = sum(passage.tokens for passage in passages)
            context = replace(request.context, passages=tuple(passages), tokens=tokens)
            request = replace(request, history=tuple(history), context=context)
        return request

    def _messages(self, request: Request) -> tuple[Message, ...]:
        return answer_messages(
            request.question,
            request.context,
            history=request.history,
            system_prompt=request.collection.system_prompt,
            answer_language=request.collection.answer_language,
            marks=self.model.marks,
        )

    def _tokens(self, request: Request) -> int:
        return self.model.count_tokens(self.model.render(self._messages(request)))


def _cuts(asked: Request, read: Request, why: str) -> tuple[Cut, ...]:
    """What of a request the generator does not read."""
    cuts = []
    if older := len(asked.history) - len(read.history):
        cuts.append(Cut(f"the oldest {older} messages of the history", why))
    before, after = asked.context.passages, read.context.passages
    if left_out := len(before) - len(after):
        cuts.append(Cut(f"{left_out} passages", why))
    if after and after[0].end < before[0].end:
        cuts.append(Cut("the end of passage 1", why))
    return tuple(cuts)


def with_default_length(sampling: Sampling, new_tokens: int) -> Sampling:
    """The same sampling with a length when it has none."""
    if sampling.max_new_tokens is not None:
        return sampling
    return replace(sampling, max_new_tokens=new_tokens)


def refuse(context: Context) -> Generated:
    """The answer when no passage supports one."""
    return Generated(FixedText([NO_ANSWER]), context, ())


@dataclass(slots=True)
class FixedText:
    """A text stream of pieces that are known already, joined by line breaks."""

    pieces: Sequence[str]
    notes: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
    finish_reason: str | None = "stop"
    _at: int = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self._at >= len(self.pieces):
            raise StopIteration
        piece = self.pieces[self._at]
        self._at += 1
        return piece if self._at == 1 else f"\n{piece}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more comes."""
        self._at = len(self.pieces)


def plain(model: Generator, prompt: Prompt, sampling: Sampling) -> TextStream:
    """Generate without retrieval. Raises InvalidInput where no language model runs."""
    if not isinstance(model, LanguageModelGenerator):
        raise InvalidInput(
            f"The generator {model.id!r} only quotes documents and cannot answer freely.",
            hint="Ask with retrieval, or configure a language model with RAG_GENERATOR.",
        )
    return model.model.stream(prompt, with_default_length(sampling, model.default_new_tokens))
