"""The steps of an answer as spans of a trace: nowhere, unless OpenTelemetry is configured.

Names and attributes are those of OpenTelemetry's conventions for generative AI, which are still in
development (https://github.com/open-telemetry/semantic-conventions-genai): `chat {model}`,
`embeddings {model}`, `retrieval {collection}`, and around them `invoke_workflow answer`. For
reranking they name no operation yet; `rerank {model}` is what is proposed there (issue 253). What a
question, a document or an answer says is never among the attributes.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol, TypeVar

from rag.generate import TextStream
from rag.sampling import Sampling

Value = str | bool | int | float | Sequence[str]
Attributes = Mapping[str, Value]

OPERATIONS = {"embed": "embeddings", "rerank": "rerank", "generate": "chat"}
PROVIDER = "ragstone"  # no provider of the conventions' list: models run here, or behind us
ANSWER = "answer"


S = TypeVar("S", bound="Span")


class Span(Protocol):
    """Something that takes a while."""

    @property
    def trace_id(self) -> str:
        """Of the trace that it is part of, 32 hexadecimal digits; empty where there is none."""

    def child(self, name: str, attributes: Attributes) -> "Span":
        """A part of it that begins now."""

    def set(self, attributes: Attributes) -> None:
        """Say more about it."""

    def end(self, error: BaseException | None = None) -> None:
        """It is over; `error` says that it failed."""


class RequestSpan(Span, Protocol):
    """An HTTP request."""

    def answered(self, method: str, route: str, status: int) -> None:
        """Which route took it, and what it was answered."""


class Spans(Protocol):
    """Where spans go."""

    def start(self, name: str, attributes: Attributes) -> Span:
        """A span that begins now, part of the request that is current, if one is."""

    def request(
        self, method: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[RequestSpan]:
        """The span of an HTTP request, current within the block; its caller's trace goes on."""

    def close(self) -> None:
        """Send what has not been sent."""


class Silent:
    """Spans that nobody sees, and where they go."""

    trace_id = ""

    def start(self, name: str, attributes: Attributes) -> Span:  # noqa: ARG002
        """Itself."""
        return self

    def child(self, name: str, attributes: Attributes) -> Span:  # noqa: ARG002
        """Itself."""
        return self

    def request(
        self,
        method: str,  # noqa: ARG002
        headers: Mapping[str, str],  # noqa: ARG002
    ) -> AbstractContextManager[RequestSpan]:
        """Itself."""
        return nullcontext(self)

    def answered(self, method: str, route: str, status: int) -> None:
        """Nobody asks."""

    def set(self, attributes: Attributes) -> None:
        """Nobody asks."""

    def end(self, error: BaseException | None = None) -> None:
        """Nobody asks."""

    def close(self) -> None:
        """There is nothing to send."""


SILENT = Silent()


@contextmanager
def ended(span: S) -> Iterator[S]:
    """End a span with the block, and with what the block raises."""
    try:
        yield span
    except BaseException as error:
        span.end(error)
        raise
    span.end()


def step(stage: str, model: str) -> tuple[str, Attributes]:
    """(name, attributes) of the span of a stage; `model` is empty where none is asked."""
    operation = OPERATIONS.get(stage)
    if operation is None or not model:
        return stage, {}
    return f"{operation} {model}", _operation(operation) | {"gen_ai.request.model": model}


def answering() -> tuple[str, Attributes]:
    """(name, attributes) of the span of a whole answer."""
    operation = "invoke_workflow"
    return f"{operation} {ANSWER}", _operation(operation) | {"gen_ai.workflow.name": ANSWER}


def retrieval(collection: str, limit: int) -> tuple[str, Attributes]:
    """(name, attributes) of the span of a search."""
    operation = "retrieval"
    return f"{operation} {collection}", _operation(operation) | {
        "gen_ai.data_source.id": collection,
        "gen_ai.request.top_k": float(limit),
    }


@contextmanager
def chatting(span: Span, sampling: Sampling, stream: TextStream) -> Iterator[TextStream]:
    """A model's text, whose parameters, tokens and end are told to `span`, whatever ends it."""
    asked = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": sampling.seed,
    }
    span.set(
        {f"gen_ai.request.{name}": value for name, value in asked.items() if value is not None}
    )
    try:
        with stream as pieces:
            yield pieces
    finally:
        usage = stream.usage
        span.set(
            {
                "gen_ai.usage.input_tokens": usage.prompt_tokens,
                "gen_ai.usage.output_tokens": usage.completion_tokens,
                "gen_ai.response.finish_reasons": [stream.finish_reason or "error"],
            }
        )


def _operation(name: str) -> dict[str, Value]:
    return {"gen_ai.operation.name": name, "gen_ai.provider.name": PROVIDER}
