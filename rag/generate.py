"""Context -> a stream of text: by a language model, or by quoting."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rag.catalog import Collection
from rag.cite import Quote
from rag.errors import InvalidInput
from rag.prompt import NO_ANSWER, answer_messages
from rag.rerank import Frequencies, LateInteractionReranker, max_similarities
from rag.sampling import Sampling
from rag.sentences import sentence_spans
from rag.settings import QUOTE
from rag.types import Context, Cut, Message, Passage, Usage

MIN_QUOTE_CHARS = 25  # shorter sentences are headings, captions, "See below."
MIN_GAIN = 0.03  # of coverage; what the next quoted sentence must add


Prompt = str | tuple[Message, ...]


class TextStream(Protocol):
    """Pieces of text as they are made. `usage` and `notes` are complete once it has ended."""

    @property
    def usage(self) -> Usage:
        """Tokens read and written so far."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Which parameters had no effect, and why."""

    def __iter__(self) -> Iterator[str]: ...
    def __next__(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def close(self) -> None:
        """Stop; returns when nothing runs any more."""


class LanguageModel(Protocol):
    """An engine that runs a causal LM."""

    id: str
    context_window: int  # tokens of prompt and answer together

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
    """All that an answer is made from."""

    question: str
    context: Context
    frequencies: Frequencies
    sampling: Sampling
    history: Sequence[Message]
    collection: Collection


@dataclass(slots=True)
class Generated:
    """A running answer: its text stream, and what is known about it already.

    `quotes` are the spans that the text consists of, when it consists of quotes; None: the text
    has to be compared with the passages. `context` is what the generator really read.
    """

    stream: TextStream
    context: Context
    quotes: tuple[Quote, ...] | None = None
    cuts: tuple[Cut, ...] = ()


class Generator(Protocol):
    """What answers from a context."""

    id: str

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this generator counts its context."""

    def answer(self, request: Request) -> Generated:
        """Start answering."""


class LanguageModelGenerator:
    """Answers with a causal LM."""

    def __init__(self, model: LanguageModel, *, default_new_tokens: int) -> None:
        self.id = model.id
        self.model = model
        self.default_new_tokens = default_new_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the model's own tokenizer."""
        return self.model.count_tokens(text)

    def answer(self, request: Request) -> Generated:
        """Start answering; passages that do not fit the model's window are left out, and said."""
        sampling = with_default_length(request.sampling, self.default_new_tokens)
        room = self.model.context_window - (sampling.max_new_tokens or 0)
        context = request.context
        while True:
            messages = answer_messages(
                request.question,
                context,
                history=request.history,
                system_prompt=request.collection.system_prompt,
                answer_language=request.collection.answer_language,
            )
            if len(context.passages) <= 1 or self._tokens(messages) <= room:
                break
            context = Context(context.passages[:-1], context.tokens - context.passages[-1].tokens)
        left_out = len(request.context.passages) - len(context.passages)
        why = f"the window of {self.id} holds {self.model.context_window} tokens"
        cuts = (Cut(f"{left_out} passages", why),) if left_out else ()
        return Generated(self.model.stream(messages, sampling), context, cuts=cuts)

    def _tokens(self, messages: Sequence[Message]) -> int:
        return self.model.count_tokens(self.model.render(messages))


def with_default_length(sampling: Sampling, new_tokens: int) -> Sampling:
    """The same sampling with a length when it has none."""
    if sampling.max_new_tokens is not None:
        return sampling
    return replace(sampling, max_new_tokens=new_tokens)


class QuoteGenerator:
    """Answers without a language model: the sentences that cover the question best, verbatim.

    The first sentence is the one with the highest IDF-weighted MaxSim; each further one must cover
    question tokens that those before do not (greedy maximisation of a submodular cover: Lin and
    Bilmes, "A Class of Submodular Functions for Document Summarization", ACL 2011). So a question
    with two halves gets a sentence for each.
    """

    id = QUOTE

    def __init__(self, late_interaction: LateInteractionReranker, *, most: int) -> None:
        self._late_interaction = late_interaction
        self._most = most

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the embedder's tokenizer."""
        return self._late_interaction.count_tokens(text)

    def answer(self, request: Request) -> Generated:
        """The quoted sentences, each followed by its marker; or that nothing supports an answer."""
        quotes = self.quotes(request.question, request.context, request.frequencies)
        pieces = [_quoted(quote) for quote in quotes] or [NO_ANSWER]
        return Generated(
            FixedText(pieces, notes=_unused(request.sampling)), request.context, quotes
        )

    def quotes(
        self, question: str, context: Context, frequencies: Frequencies
    ) -> tuple[Quote, ...]:
        """The best sentences, best first, at most `most`."""
        candidates = [quote for passage in context.passages for quote in sentences(passage)]
        if not candidates:
            return ()
        asked, weights = self._late_interaction.question_tokens(question, frequencies)
        read = self._late_interaction.token_vectors([_in_place(quote) for quote in candidates])
        cover = np.stack([max_similarities(asked, r) for r in read])
        chosen = _greedy_cover(cover, weights, self._most)
        return tuple(candidates[at] for at in chosen)


def refuse(context: Context) -> Generated:
    """The answer when no passage supports one."""
    return Generated(FixedText([NO_ANSWER]), context, ())


def sentences(passage: Passage) -> list[Quote]:
    """The sentences of a passage that can stand as a quote."""
    spans = [s for s in sentence_spans(passage.text) if s[1] - s[0] >= MIN_QUOTE_CHARS]
    return [Quote(passage, start, end) for start, end in spans]


def _in_place(quote: Quote) -> str:
    """A sentence with its title: "It was lit in 1811" is about what the title names."""
    return f"{quote.passage.title}\n{quote.passage.text[quote.start : quote.end]}"


def _greedy_cover(cover: NDArray[np.float32], weights: NDArray[np.float32], most: int) -> list[int]:
    chosen: list[int] = []
    covered = np.zeros(cover.shape[1], dtype=np.float32)
    for _ in range(min(most, len(cover))):
        gains = (np.maximum(cover, covered) - covered) @ weights
        best = int(gains.argmax())
        if chosen and gains[best] < MIN_GAIN:
            break
        chosen.append(best)
        covered = np.maximum(covered, cover[best])
    return chosen


def _quoted(quote: Quote) -> str:
    return f"{quote.passage.text[quote.start : quote.end]} [{quote.passage.number}]"


def _unused(sampling: Sampling) -> tuple[str, ...]:
    given = [
        name
        for name in ("temperature", "top_p", "max_new_tokens", "do_sample", "seed", "stop")
        if getattr(sampling, name) not in (None, ())
    ]
    if not given:
        return ()
    return (f"{', '.join(given)} had no effect: the quote generator samples nothing",)


@dataclass(slots=True)
class FixedText:
    """A text stream of pieces that are known already, joined by line breaks."""

    pieces: Sequence[str]
    notes: tuple[str, ...] = ()
    usage: Usage = field(default_factory=Usage)
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
