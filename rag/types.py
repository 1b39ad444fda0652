"""The values that travel along the two paths. All frozen; offsets count characters from 0."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Metadata = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose data a call may touch. Every store and catalog call takes one.

    `None` means all of the tenant's: every collection, the documents of every group, the traces of
    every caller. An empty set means none at all; of documents, only those that name no group. What
    that comes to is decided in `rag.access`.
    """

    tenant: str
    groups: frozenset[str] | None = None
    collections: frozenset[str] | None = None
    caller: str | None = None  # whose traces are seen; and who has asked

    def allows(self, collection: str) -> bool:
        """Whether the scope reaches this collection."""
        return self.collections is None or collection in self.collections


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading line of a document: where it starts, its level (1 = outermost) and its words."""

    start: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file within a document, to be one of its own.

    `content_hash` is the digest of `content`, which is left out where the object store has it.
    """

    name: str
    media_type: str
    content_hash: str
    content: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Document:
    """What parsing made of a file. Every offset in the system counts characters of `text`.

    `pages` holds the offset at which each page (or slide) starts: `pages[0]` is page 1. Empty when
    the format has no pages. A line break in `text` made by a parser is always a hard one: wrapped
    lines of one paragraph have been joined, table rows are a line each.
    """

    text: str
    title: str
    media_type: str
    pages: tuple[int, ...] = ()
    headings: tuple[Heading, ...] = ()
    metadata: Metadata = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    attachments: tuple[Attachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document that is embedded and found as one. `text == document.text[start:end]`.

    `tokens` counts what the embedder sees: title, heading path and text with special tokens.
    `page` is the page of the first character, 1-based, None where the format has no pages.
    `page_breaks` are the document offsets inside the chunk at which further pages start.
    `lead` is the white space between the chunk before and this one, so that neighbours can be
    merged into exactly what the document says.
    """

    document_id: str
    generation: int
    index: int
    title: str
    text: str
    start: int
    end: int
    tokens: int
    page: int | None = None
    page_breaks: tuple[int, ...] = ()
    headings: tuple[str, ...] = ()
    lead: str = ""
    source: str = ""
    metadata: Metadata = field(default_factory=dict)

    def page_at(self, offset: int) -> int | None:
        """The page of a document offset inside the chunk."""
        return None if self.page is None else self.page + bisect_right(self.page_breaks, offset)

    @property
    def embedded_text(self) -> str:
        """What the embedder and the reranker read: title, heading path, then the text."""
        # A heading that repeats the title, as most first headings do, would be embedded twice.
        path = [self.title, *(h for h in self.headings if h != self.title)]
        prefix = " > ".join(part for part in path if part)
        return f"{prefix}\n{self.text}" if prefix else self.text


@dataclass(frozen=True, slots=True)
class Scores:
    """The score of every stage that saw a hit. None: that stage did not return it."""

    dense: float | None = None
    bm25: float | None = None
    fused: float | None = None
    rerank: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk with the score that orders it now, and those of every stage so far."""

    point_id: str
    chunk: Chunk
    score: float
    scores: Scores


@dataclass(frozen=True, slots=True)
class Passage:
    """One numbered entry of the context: neighbouring chunks of one document, merged.

    `text == document.text[start:end]`; `number` is what `[n]` in an answer points at.
    """

    number: int
    document_id: str
    title: str
    text: str
    start: int
    end: int
    tokens: int
    page: int | None
    headings: tuple[str, ...]
    source: str
    scores: Scores
    chunks: tuple[Chunk, ...] = ()

    def place(self, offset: int) -> tuple[int | None, tuple[str, ...]]:
        """(page, headings) of the chunk that holds a document offset.

        A quote late in a merged passage has its own page, not that of the passage's start.
        """
        holding = [chunk for chunk in self.chunks if chunk.start <= offset]
        if not holding:
            return self.page, self.headings
        return holding[-1].page_at(offset), holding[-1].headings


@dataclass(frozen=True, slots=True)
class Quote:
    """A span of a passage: `passage.text[start:end]`."""

    passage: Passage
    start: int
    end: int

    @property
    def text(self) -> str:
        """Its words."""
        return self.passage.text[self.start : self.end]


@dataclass(frozen=True, slots=True)
class Cut:
    """Something that was left out on the way, and why. Nothing is cut in silence."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """A hit that went no further, and why."""

    hit: Hit
    why: str


@dataclass(frozen=True, slots=True)
class Context:
    """The passages that the generator reads, and the hits that are in none of them."""

    passages: tuple[Passage, ...]
    tokens: int
    cuts: tuple[Cut, ...] = ()
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class Citation:
    """A claim's proof: `quote == document.text[start:end]` of document `document_id`."""

    marker: int
    document_id: str
    title: str
    source: str
    page: int | None
    headings: tuple[str, ...]
    quote: str
    start: int
    end: int
    scores: Scores


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer: `answer.text[start:end]`, and whether what it cites supports it.

    `support` is how likely that is. Both are None where it claims nothing that could be checked.
    `markers` are the passages that support it.
    """

    start: int
    end: int
    supported: bool | None
    support: float | None
    markers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written by the generator, counted with its own tokenizer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, best first, with the seconds each stage took and what was left out.

    `candidates` counts what was retrieved, before reranking and `limit`; `dropped` are those of
    them that are no hits, best first.
    """

    hits: tuple[Hit, ...]
    timings: Mapping[str, float]
    cuts: tuple[Cut, ...] = ()
    candidates: int = 0
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and everything needed to check it.

    `passages` are what the generator read; `support` is how likely they hold an answer, None where
    nothing judged that. `finish_reason` is `stop`, or `length` when the generator was not done.
    `trace_id` is empty where no trace is kept. `sentences` says of each which passages support it.
    """

    text: str
    citations: tuple[Citation, ...]
    abstained: bool
    question: str
    hits: tuple[Hit, ...]
    models: Mapping[str, str]
    timings: Mapping[str, float]
    usage: Usage
    trace_id: str
    cuts: tuple[Cut, ...] = ()
    notes: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()
    support: float | None = None
    finish_reason: str = "stop"
    sentences: tuple[Sentence, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """What ingesting did with one document.

    `status` is `ingested`, `replaced`, `unchanged`, `deleted`, `failed` or `cancelled`; a failed
    one says why in `error`, and in `kind` which class of `rag.errors` it was. `truncated_tokens`
    are those that the embedder did not read; None where nothing was embedded now.
    """

    id: str
    status: str
    source: str = ""
    title: str = ""
    chunks: int = 0
    tokens: int = 0
    pages: int = 0
    characters: int = 0
    truncated_tokens: int | None = 0
    warnings: Sequence[str] = ()
    error: str = ""
    hint: str = ""
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Event of an answer in the making: the hits that it will be made from."""

    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Event of an answer in the making: the next piece of its text."""

    text: str


AnswerEvent = Retrieved | TextPiece | Citation | Answer
"""What `Orchestrator.stream` yields, in this order; the `Answer` comes last and holds it all."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the ingestion of one document is. `stage` is parse, split, embed or store."""

    source: str
    stage: str
    done: int = 0
    total: int = 0
