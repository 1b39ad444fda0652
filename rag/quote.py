"""Answering without a language model: the sentences that cover the question best, verbatim.

A sentence is judged where it stands: by the vectors that its tokens have inside their chunk, and
those of the title and headings before it, so that "It was lit in 1811" is about what the title
names. The first quote is the sentence with the highest IDF-weighted MaxSim; each further one must
cover question tokens that those before do not (greedy maximisation of a submodular cover: Lin and
Bilmes, "A Class of Submodular Functions for Document Summarization", ACL 2011). So a question
with two halves gets a sentence for each.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from rag.generate import FixedText, Generated, Request, refuse
from rag.models.tokens import TokenVectors
from rag.rerank import Frequencies, LateInteractionReranker, max_similarities
from rag.sampling import Sampling
from rag.sentences import sentence_spans
from rag.settings import QUOTE
from rag.types import Chunk, Context, Passage, Quote

MIN_QUOTE_CHARS = 25  # shorter sentences are headings, captions, "See below."
MIN_GAIN = 0.03  # of coverage; what the next quoted sentence must add


@dataclass(frozen=True, slots=True)
class Evidence:
    """Sentences of the context against the tokens of the question.

    `cover` float32 (sentences, tokens): the best cosine of each question token in each sentence;
    `weights` float32 (tokens,) sum to 1.
    """

    sentences: tuple[Quote, ...]
    cover: NDArray[np.float32]
    weights: NDArray[np.float32]

    @property
    def best(self) -> float:
        """The weighted MaxSim of the best sentence; 0 without sentences."""
        return float((self.cover @ self.weights).max()) if self.sentences else 0.0


class QuoteGenerator:
    """At most `most` sentences, each followed by the marker of its passage."""

    id = QUOTE
    revision = ""  # it has no weights of its own

    def __init__(self, late_interaction: LateInteractionReranker, *, most: int) -> None:
        self._late_interaction = late_interaction
        self._most = most

    def count_tokens(self, text: str) -> int:
        """Tokens of a text in the embedder's tokenizer."""
        return self._late_interaction.count_tokens(text)

    def answer(self, request: Request) -> Generated:
        """The quoted sentences; or that nothing supports an answer."""
        evidence = gather(
            request.question, request.context, self._late_interaction, request.frequencies
        )
        if not evidence.sentences:
            return refuse(request.context)
        chosen = greedy_cover(evidence.cover, evidence.weights, self._most)
        quotes = tuple(evidence.sentences[at] for at in chosen)
        text = FixedText([_quoted(q) for q in quotes], notes=_unused(request.sampling))
        return Generated(text, request.context, quotes)


def gather(
    question: str,
    context: Context,
    late_interaction: LateInteractionReranker,
    frequencies: Frequencies,
) -> Evidence:
    """Compare every sentence of the context with the question."""
    asked, weights = late_interaction.question_tokens(question, frequencies)
    found: list[Quote] = []
    cover: list[NDArray[np.float32]] = []
    texts = [[chunk.embedded_text for chunk in passage.chunks] for passage in context.passages]
    read = iter(late_interaction.token_vectors([text for some in texts for text in some]))
    for passage in context.passages:
        own = list(islice(read, len(passage.chunks)))
        for quote, chunk, vectors in _sentences(passage, own):
            found.append(quote)
            cover.append(max_similarities(asked, _tokens_of(quote, chunk, vectors)))
    stacked = np.stack(cover) if cover else np.zeros((0, len(asked.ids)), dtype=np.float32)
    return Evidence(tuple(found), stacked, weights)


def greedy_cover(cover: NDArray[np.float32], weights: NDArray[np.float32], most: int) -> list[int]:
    """Rows chosen one by one, each the one that adds most to the weighted cover of the columns."""
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


def _sentences(
    passage: Passage, read: list[TokenVectors]
) -> list[tuple[Quote, Chunk, TokenVectors]]:
    """The sentences that can stand as a quote, each with the chunk that holds all of it."""
    found = []
    for start, end in sentence_spans(passage.text):
        if end - start < MIN_QUOTE_CHARS:
            continue
        first, last = passage.start + start, passage.start + end
        for chunk, vectors in zip(passage.chunks, read, strict=True):
            if chunk.start <= first and last <= chunk.end:
                found.append((Quote(passage, start, end), chunk, vectors))
                break
    return found


def _tokens_of(quote: Quote, chunk: Chunk, read: TokenVectors) -> TokenVectors:
    """The tokens of a sentence within its chunk, and those of the title and headings."""
    prefix = len(chunk.embedded_text) - len(chunk.text)
    start = prefix + quote.passage.start + quote.start - chunk.start
    end = start + quote.end - quote.start
    inside = (read.offsets[:, 0] >= start) & (read.offsets[:, 1] <= end)
    kept = inside | (read.offsets[:, 1] <= prefix)
    return TokenVectors(read.ids[kept], read.vectors[kept], read.offsets[kept])


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
