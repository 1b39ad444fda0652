"""What goes over the wire. Requests refuse fields that they do not know, and guess no types."""

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from rag import types as t
from rag.builds import Migration, Options, Query
from rag.catalog import Collection, DocumentRecord
from rag.journal import Job, Task
from rag.prove import Proof
from rag.retrieve import Mode
from rag.sampling import Sampling
from rag.settings import FusionName
from services.kinds import problem_type


def _storable(value: Any) -> Any:  # noqa: ANN401 - any JSON
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except ValueError as error:  # NaN, half a surrogate
        raise ValueError("it holds what JSON cannot hold (NaN or half a surrogate)") from error
    return value


def _readable(value: str) -> str:
    if "\0" in value or any("\ud800" <= sign <= "\udfff" for sign in value):
        raise ValueError("it holds characters that are no text (NUL or half a surrogate)")
    return value


Text = Annotated[str, AfterValidator(_readable)]
CollectionName = Annotated[Text, Field(max_length=200, description="The collection's name.")]
MetadataIn = Annotated[
    dict[str, str | int | FiniteFloat | bool | list[str] | None], AfterValidator(_storable)
]
FilterIn = Annotated[
    dict[str, Any],
    AfterValidator(_storable),
    Field(description='Metadata conditions, such as {"author": "Stevenson"}; all must hold.'),
]


class Wire(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(frozen=True)


class Asked(BaseModel):
    """A request, or a part of one. `true` is no number and `"5"` no integer."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# Asking


class MessageIn(Asked):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text

    def message(self) -> t.Message:
        """As `rag` knows it."""
        return t.Message(self.role, self.content)


class SamplingIn(Asked):
    """How the language model picks its tokens; their ranges are checked by `rag.sampling`."""

    temperature: float | None = Field(None, description="Above 0 and at most 2.")
    top_p: float | None = Field(None, description="Above 0 and at most 1.")
    max_new_tokens: int | None = Field(None, description="At least 1.")
    do_sample: bool | None = Field(None, description="false: the likeliest token every time.")
    seed: int | None = Field(None, description="The same seed draws the same tokens.")
    stop: Text | list[Text] | None = Field(None, description="Strings that end the text.")

    def sampling(self) -> Sampling:
        """As `rag` knows it."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            self.temperature, self.top_p, self.max_new_tokens, self.do_sample, self.seed, stop
        )


class AskRequest(SamplingIn):
    """A question."""

    question: Text
    collection: CollectionName = "default"
    history: list[MessageIn] = []
    stream: bool = Field(False, description="true: the answer comes as server-sent events.")
    filter: FilterIn | None = None
    limit: int | None = Field(None, ge=1, description="How many passages to retrieve.")

    def options(self) -> dict[str, Any]:
        """The options of `Orchestrator.stream`."""
        return {
            "collection": self.collection,
            "history": tuple(turn.message() for turn in self.history),
            "sampling": self.sampling(),
            "filter": self.filter,
            "limit": self.limit,
        }


class SearchRequest(Asked):
    """A search."""

    query: Text
    collection: CollectionName = "default"
    limit: int = Field(10, ge=1)
    mode: Mode = "hybrid"
    rerank: bool = True
    filter: FilterIn | None = None


class ScoresOut(Wire):
    """The score of every stage; null where a stage did not return the passage."""

    dense: float | None
    bm25: float | None
    fused: float | None
    rerank: float | None

    @classmethod
    def of(cls, scores: t.Scores) -> Self:
        """From the value inside."""
        names = ("dense", "bm25", "fused", "rerank")
        return cls(**{name: _number(getattr(scores, name)) for name in names})


class HitOut(Wire):
    """A passage that was found; `text` is the document's text from `start` to `end`."""

    document_id: str
    chunk_id: str
    title: str
    text: str
    start: int
    end: int
    page: int | None
    headings: list[str]
    source: str
    metadata: dict[str, Any]
    score: float
    scores: ScoresOut

    @classmethod
    def of(cls, hit: t.Hit) -> Self:
        """From the value inside."""
        chunk = hit.chunk
        return cls(
            document_id=chunk.document_id,
            chunk_id=hit.point_id,
            title=chunk.title,
            text=chunk.text,
            start=chunk.start,
            end=chunk.end,
            page=chunk.page,
            headings=list(chunk.headings),
            source=chunk.source,
            metadata=dict(chunk.metadata),
            score=float(hit.score),
            scores=ScoresOut.of(hit.scores),
        )


class CutOut(Wire):
    """Something that was left out, and why."""

    what: str
    why: str


class SearchResponse(Wire):
    """Hits, best first, the seconds of each stage, and what was left out."""

    hits: list[HitOut]
    timings: dict[str, float]
    cuts: list[CutOut]

    @classmethod
    def of(cls, found: t.SearchResult) -> Self:
        """From the value inside."""
        return cls(
            hits=[HitOut.of(hit) for hit in found.hits],
            timings=dict(found.timings),
            cuts=_cuts(found.cuts),
        )


class CitationOut(Wire):
    """A claim's proof; `quote` is the document's text from `start` to `end`."""

    marker: int
    document_id: str
    title: str
    source: str
    page: int | None
    headings: list[str]
    quote: str
    start: int
    end: int
    scores: ScoresOut

    @classmethod
    def of(cls, citation: t.Citation) -> Self:
        """From the value inside."""
        return cls(
            marker=citation.marker,
            document_id=citation.document_id,
            title=citation.title,
            source=citation.source,
            page=citation.page,
            headings=list(citation.headings),
            quote=citation.quote,
            start=citation.start,
            end=citation.end,
            scores=ScoresOut.of(citation.scores),
        )


class SentenceOut(Wire):
    """A sentence of the answer, `answer[start:end]`, and whether what it cites supports it.

    `supported` and `support`, how likely that is, are null where it claims nothing to be checked.
    `markers` are the passages that support it.
    """

    start: int
    end: int
    supported: bool | None
    support: float | None
    markers: list[int]

    @classmethod
    def of(cls, sentence: t.Sentence) -> Self:
        """From the value inside."""
        return cls(
            start=sentence.start,
            end=sentence.end,
            supported=sentence.supported,
            support=_number(sentence.support),
            markers=list(sentence.markers),
        )


class UsageOut(Wire):
    """Tokens that the generator read and wrote."""

    prompt_tokens: int
    completion_tokens: int


class AskResponse(Wire):
    """An answer and everything needed to check it. `hits` are the nearest passages."""

    answer: str
    citations: list[CitationOut]
    abstained: bool
    models: dict[str, str]
    timings: dict[str, float]
    usage: UsageOut
    trace_id: str
    cuts: list[CutOut]
    notes: list[str]
    sentences: list[SentenceOut]
    hits: list[HitOut]

    @classmethod
    def of(cls, answer: t.Answer) -> Self:
        """From the value inside."""
        usage = answer.usage
        return cls(
            answer=answer.text,
            citations=[CitationOut.of(citation) for citation in answer.citations],
            abstained=answer.abstained,
            models=dict(answer.models),
            timings=dict(answer.timings),
            usage=UsageOut(
                prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens
            ),
            trace_id=answer.trace_id,
            cuts=_cuts(answer.cuts),
            notes=list(answer.notes),
            sentences=[SentenceOut.of(sentence) for sentence in answer.sentences],
            hits=[HitOut.of(hit) for hit in answer.hits],
        )


# Documents


class DocumentIn(Asked):
    """A text to ingest, or a URL to fetch. The same id, or the same source, again replaces."""

    text: str | None = None  # what cannot be stored of it is replaced, and said in a warning
    url: Text | None = Field(
        None,
        description="http or https; the document is fetched while the request waits.",
        examples=["https://example.org/manual.pdf"],
    )
    id: Text | None = Field(None, description="Default: made from source, URL, or text.")
    title: Text | None = None
    source: Text | None = Field(None, description="Where the text came from, such as a URL.")
    metadata: MetadataIn = {}

    @model_validator(mode="after")
    def _has_one_content(self) -> Self:
        if (self.text is None) == (self.url is None):
            raise ValueError("a document has either a text or a url")
        if self.url is not None and self.source is not None:
            raise ValueError("the source of a document with a url is that url")
        return self


class DocumentsRequest(Asked):
    """Texts to ingest."""

    documents: list[DocumentIn] = Field(min_length=1)
    collection: CollectionName = "default"


class UploadFields(Asked):
    """The fields of a form beside its files."""

    collection: CollectionName = "default"
    metadata: MetadataIn = {}
    id: Text | None = None
    title: Text | None = None
    password: Text | None = Field(None, max_length=1000)
    sources: list[Text] | None = None


class DocumentText(Asked):
    """The JSON body of a document that is put in its place."""

    text: str
    title: Text | None = None
    metadata: MetadataIn = {}


class DocumentChanges(Asked):
    """An RFC 7396 merge patch: what is left out stays, null removes."""

    title: Text | None = Field(
        None, max_length=2000, description="null: the title that was found in the document."
    )
    metadata: MetadataIn | None = Field(
        None, description="Keys that are null are removed; null removes all of them."
    )


class ReportOut(Wire):
    """What ingesting did with one document, or how far it is.

    `status` is queued or running, then ingested, replaced, unchanged, failed or cancelled. `error`
    says why it failed, or, while it is queued, why it has to be tried again; `hint` what to do,
    `problem` the type of the problem.
    """

    id: str
    status: str
    parent: str | None = Field(None, description="The mail that the document is attached to.")
    source: str
    title: str | None = None
    stage: str | None = None
    done: int | None = Field(None, description="Chunks that are stored.")
    total: int | None = Field(None, description="Chunks in all; 0 before it is split.")
    retries: int | None = None
    chunks: int
    tokens: int
    pages: int | None = None
    characters: int | None = None
    truncated_tokens: int | None = Field(None, description="That the embedder did not read.")
    warnings: list[str]
    error: str | None = None
    hint: str | None = None
    problem: str | None = None

    @classmethod
    def of(cls, task: Task) -> Self:
        """From the value inside."""
        report = task.report or t.DocumentReport(task.document_id, task.state, task.source.origin)
        under_way = task.state in ("queued", "running")
        return cls(
            id=report.id,
            status=report.status,
            parent=task.source.parent or None,
            source=report.source,
            title=report.title or None,
            stage=(task.stage or None) if under_way else None,
            done=task.done if under_way else None,
            total=task.total if under_way else None,
            retries=task.retries or None,
            chunks=report.chunks,
            tokens=report.tokens,
            pages=report.pages if task.report else None,
            characters=report.characters if task.report else None,
            truncated_tokens=report.truncated_tokens if task.report else None,
            warnings=list(report.warnings),
            error=task.error.message if task.error else None,
            hint=(task.error.hint or None) if task.error else None,
            problem=problem_type(task.error.as_error()) if task.error else None,
        )

    @classmethod
    def of_job(cls, job: Job) -> list[Self]:
        """A report for each document, in the order in which they were sent."""
        return [cls.of(task) for task in job.tasks]


class DocumentsResponse(Wire):
    """What became of the documents of a request; GET /v1/jobs/{job_id} says how it goes on."""

    documents: list[ReportOut]
    job_id: str


class JobResponse(Wire):
    """An ingest job. `failed` means that no document of it could be ingested."""

    job_id: str
    collection: str
    state: Literal["receiving", "queued", "running", "done", "failed", "cancelled"]
    created_at: datetime
    documents: list[ReportOut]

    @classmethod
    def of(cls, job: Job) -> Self:
        """From the value inside."""
        return cls(
            job_id=job.id,
            collection=job.collection,
            state=job.state,
            created_at=job.created_at,
            documents=ReportOut.of_job(job),
        )


class JobList(Wire):
    """A page of jobs, newest first; `next` is the `before` of the next page, null on the last."""

    jobs: list[JobResponse]
    next: str | None = None


class DocumentOut(Wire):
    """A document as it is stored; `content_hash` is the SHA-256 of what was sent, `fingerprint`
    that of everything it was made from.

    `parent` is the mail that it is attached to, null for all that was sent by itself.
    """

    id: str
    parent: str | None
    title: str
    source: str
    media_type: str
    metadata: dict[str, Any]
    content_hash: str
    fingerprint: str
    chunks: int
    tokens: int
    pages: int
    characters: int
    warnings: list[str]
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, record: DocumentRecord) -> Self:
        """From the value inside."""
        return cls(
            id=record.id,
            parent=record.parent,
            title=record.title,
            source=record.source,
            media_type=record.media_type,
            metadata=dict(record.metadata),
            content_hash=record.content_hash,
            fingerprint=record.fingerprint,
            chunks=record.chunks,
            tokens=record.tokens,
            pages=record.pages,
            characters=record.characters,
            warnings=list(record.warnings),
            created_at=record.created_at,
            updated_at=record.updated_at,
        )


class DocumentList(Wire):
    """A page of documents by id; `next` is the `cursor` of the next page, null on the last.

    With a filter a page may hold fewer documents than its limit, or none, and not be the last.
    """

    documents: list[DocumentOut]
    next: str | None


class ChunkOut(Wire):
    """A passage as it was embedded; `text` is the document's text from `start` to `end`."""

    index: int
    text: str
    start: int
    end: int
    pages: list[int]
    headings: list[str]
    tokens: int

    @classmethod
    def of(cls, chunk: t.Chunk) -> Self:
        """From the value inside."""
        first = chunk.page
        last = chunk.page_at(max(chunk.start, chunk.end - 1))
        return cls(
            index=chunk.index,
            text=chunk.text,
            start=chunk.start,
            end=chunk.end,
            pages=[] if first is None or last is None else list(range(first, last + 1)),
            headings=list(chunk.headings),
            tokens=chunk.tokens,
        )


class ChunkList(Wire):
    """A page of a document's passages; `next` is the `cursor` of the next, null on the last."""

    chunks: list[ChunkOut]
    total: int
    next: str | None


class Deleted(Wire):
    """The documents that a filter picked; with `dry_run` they are all still there."""

    count: int
    dry_run: bool
    documents: list[str]


class PlaceOut(Wire):
    """What one place holds of a document, counted there; null where it could not be asked."""

    what: str
    before: int | None
    after: int | None
    why: str
    shared: bool


class ProofOut(Wire):
    """What there was of a document and what is left; `gone` when nothing is that is its alone."""

    id: str
    collection: str
    gone: bool
    places: list[PlaceOut]

    @classmethod
    def of(cls, proof: Proof) -> Self:
        """From the value inside."""
        return cls(
            id=proof.document_id,
            collection=proof.collection,
            gone=proof.gone,
            places=[PlaceOut(**asdict(place)) for place in proof.places],
        )


# Collections


class CollectionSettings(Asked):
    """Choices made per collection; null, or left out, means the default."""

    bm25_language: str | None = Field(None, max_length=40)
    fusion: FusionName | None = None
    dense_weight: float | None = Field(None, ge=0, le=1, description="In weighted fusion.")
    rerank_limit: int | None = Field(None, ge=0, le=200, description="Hits reranked; 0: none.")
    rerank_blend: float | None = Field(
        None, ge=0, le=1, description="Weight of the reranker's score against the fused one."
    )
    context_tokens: int | None = Field(None, ge=64, le=1_000_000)
    least_support: float | None = Field(
        None, ge=0, le=1, description="Probability below which a question is not answered."
    )
    private: bool | None = Field(None, description="true: no trace of its answers is kept.")


class CollectionChanges(Asked):
    """What of a collection is to change; what is left out stays."""

    settings: CollectionSettings = CollectionSettings()
    system_prompt: Text | None = Field(None, max_length=20_000)
    answer_language: Text | None = Field(None, max_length=50)


class CollectionRequest(CollectionChanges):
    """A collection to make."""

    name: CollectionName


class CollectionOut(Wire):
    """A collection; its vectors were made by `embedder`."""

    name: str
    chunks: int
    embedder: str
    settings: dict[str, Any]
    system_prompt: str
    answer_language: str
    created_at: datetime

    @classmethod
    def of(cls, found: Collection) -> Self:
        """From the value inside."""
        return cls(
            name=found.name,
            chunks=found.chunks,
            embedder=found.pipeline["embedder"]["id"],
            settings=dict(found.settings),
            system_prompt=found.system_prompt,
            answer_language=found.answer_language,
            created_at=found.created_at,
        )


class CollectionList(Wire):
    """Every collection, by name."""

    collections: list[CollectionOut]


# Migrations


class QueryIn(Asked):
    """A question to compare both indexes with, and the documents that answer it, where known."""

    text: Text = Field(min_length=1)
    documents: list[Text] = []


class MigrationRequest(Asked):
    """Build an index by another embedder beside a collection, then put it in place."""

    to: Text = Field(min_length=1, description="The embedder: an id on the hub, or a folder.")
    task: Text = Field("", description="Of a model with an instruction per task (LLM-Embedder).")
    flip: bool = Field(True, description="false: build and compare it, and leave it aside.")
    most_loss: float = Field(
        0.02,
        ge=0,
        le=1,
        description="It is left aside when it finds the document that a question looks for among"
        " the first ten more rarely than the old one, by more than this.",
    )
    queries: list[QueryIn] = Field([], description="Default: made of the collection.")

    def options(self) -> Options:
        """As `rag` knows it."""
        queries = tuple(Query(one.text, tuple(one.documents)) for one in self.queries)
        return Options(self.flip, self.most_loss, queries)


class MigrationOut(Wire):
    """A migration. `done` of `total` documents are the same in both indexes.

    `serving` and `aside` are the embedders of the index that answers and of the other one.
    `comparison` is there once both were asked the same questions.
    """

    collection: str
    state: Literal["building", "ready", "flipping", "flipped", "returning", "failed", "dropping"]
    serving: str
    aside: str
    done: int
    total: int
    documents_per_second: float
    seconds_left: float | None
    doing: str
    comparison: dict[str, Any] | None
    error: str | None
    hint: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, found: Migration) -> Self:
        """From the value inside."""
        left = (found.total - found.done) / found.rate if found.rate > 0 else None
        return cls(
            collection=found.collection.name,
            state=found.state,
            serving=found.collection.pipeline["embedder"]["id"],
            aside=found.build.pipeline["embedder"]["id"],
            done=found.done,
            total=found.total,
            documents_per_second=found.rate,
            seconds_left=None if found.settled else left,
            doing=found.doing,
            comparison=dict(found.report) if found.report is not None else None,
            error=found.error.message if found.error else None,
            hint=found.error.hint if found.error else None,
            created_at=found.created_at,
            updated_at=found.updated_at,
        )


def _number(score: float | None) -> float | None:
    return None if score is None else float(score)


def _cuts(cuts: tuple[t.Cut, ...]) -> list[CutOut]:
    return [CutOut(what=cut.what, why=cut.why) for cut in cuts]
