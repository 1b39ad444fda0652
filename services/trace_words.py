"""Traces and feedback as they go over the wire."""

from dataclasses import asdict
from datetime import datetime
from typing import Any, Self

from pydantic import Field

from rag.trace import Candidate, Feedback, Rating, Trace
from rag.traces import MAX_FEEDBACK_CHARS, TraceRow
from services.schemas import Asked, AskResponse, ScoresOut, Text, Wire


class CandidateOut(Wire):
    """A passage that retrieval found; `why` says why the generator did not read it."""

    rank: int
    document_id: str
    title: str
    start: int
    end: int
    page: int | None
    score: float
    scores: ScoresOut
    passage: int | None = Field(description="Its number in the prompt and behind `[n]`.")
    cited: bool
    why: str

    @classmethod
    def of(cls, candidate: Candidate) -> Self:
        """From the value inside."""
        return cls(
            rank=candidate.rank,
            document_id=candidate.document_id,
            title=candidate.title,
            start=candidate.start,
            end=candidate.end,
            page=candidate.page,
            score=candidate.score,
            scores=ScoresOut.of(candidate.scores),
            passage=candidate.passage,
            cited=candidate.cited,
            why=candidate.why,
        )


class MessageOut(Wire):
    """A turn of a conversation."""

    role: str
    content: str


class FeedbackOut(Wire):
    """What a reader said of an answer."""

    id: str
    trace_id: str
    rating: Rating
    correction: str
    comment: str
    created_at: datetime

    @classmethod
    def of(cls, said: Feedback) -> Self:
        """From the value inside."""
        return cls(**asdict(said))


class TraceOut(Wire):
    """How an answer came about. `candidates` are best first; `answer` has no `hits` beside them."""

    id: str
    created_at: datetime
    collection: str
    question: str = Field(description="As it was asked.")
    searched: str = Field(description="As it was searched for: understood without the history.")
    history: list[MessageOut]
    filter: dict[str, Any] | None
    limit: int | None
    sampling: dict[str, Any]
    instead: dict[str, Any] = Field(description="Choices for this question alone.")
    choices: dict[str, Any]
    settings: dict[str, Any]
    fingerprints: dict[str, Any]
    prompt: list[MessageOut] = Field(description="Empty where no language model read one.")
    written: str = Field(description="The generator's text, before citations were checked.")
    answer: AskResponse
    candidates: list[CandidateOut]
    feedback: list[FeedbackOut]

    @classmethod
    def of(cls, trace: Trace) -> Self:
        """From the value inside."""
        asked = trace.asked
        return cls(
            id=trace.id,
            created_at=trace.created_at,
            collection=asked.collection,
            question=asked.question,
            searched=trace.answer.question,
            history=[MessageOut(role=turn.role, content=turn.content) for turn in asked.history],
            filter=dict(asked.filter) if asked.filter is not None else None,
            limit=asked.limit,
            sampling=asdict(asked.sampling),
            instead=dict(asked.instead),
            choices=asdict(trace.choices),
            settings=dict(trace.settings),
            fingerprints=dict(trace.fingerprints),
            prompt=[MessageOut(role=turn.role, content=turn.content) for turn in trace.prompt],
            written=trace.written,
            answer=AskResponse.of(trace.answer),
            candidates=[CandidateOut.of(one) for one in trace.candidates],
            feedback=[FeedbackOut.of(said) for said in trace.feedback],
        )


class TraceRowOut(Wire):
    """A trace in a list; `rating` is the latest one given, null where there is none."""

    id: str
    collection: str
    created_at: datetime
    question: str
    rating: Rating | None

    @classmethod
    def of(cls, row: TraceRow) -> Self:
        """From the value inside."""
        return cls(**asdict(row))


class TraceList(Wire):
    """A page of traces, newest first; `next` is the `before` of the next, null on the last."""

    traces: list[TraceRowOut]
    next: str | None


class ReplayRequest(Asked):
    """What is to be otherwise: sampling parameters, a collection's choices, `limit`, `filter`."""

    instead: dict[str, Any] = Field(
        {}, alias="with", examples=[{"rerank_limit": 0, "temperature": 0.2}]
    )


class FeedbackRequest(Asked):
    """What a reader says of an answer."""

    trace_id: Text = Field(max_length=80, description="The answer's.")
    rating: Rating
    correction: Text = Field("", max_length=MAX_FEEDBACK_CHARS, description="What is right.")
    comment: Text = Field("", max_length=MAX_FEEDBACK_CHARS)
