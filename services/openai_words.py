"""What OpenAI's clients send and expect: requests, responses, errors.

A parameter that would change the answer and cannot be carried out is refused by its name; those
that change nothing here are ignored:

    user, safety_identifier, metadata, store, service_tier, prompt_cache_key, parallel_tool_calls

and so are others at the value that means "as usual" (n 1, penalties 0, no tools, text format).
"""

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rag import types as t
from rag.cite import MARKER
from rag.errors import InvalidInput
from rag.sampling import Sampling
from services.schemas import CitationOut, CutOut, FilterIn, HitOut, SentenceOut, Text, Wire

PLAIN = "plain"  # the model that answers without retrieval

IGNORED = frozenset({
    "user", "safety_identifier", "metadata", "store", "service_tier", "prompt_cache_key",
    "parallel_tool_calls",
})  # fmt: skip
# What a client may say as long as it says nothing: the values that change no answer.
AS_USUAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}


class OpenAIRequest(BaseModel):
    """A request in which unknown parameters are refused by their name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_changes_nothing(cls, given: Any) -> Any:  # noqa: ANN401 - any JSON
        if not isinstance(given, dict):
            return given
        kept = {}
        for name, value in given.items():
            if name in cls.model_fields:
                kept[name] = value
            elif name in IGNORED or value is None or (name in AS_USUAL and value in AS_USUAL[name]):
                continue
            else:
                kept[name] = value  # refused, by its name
        return kept


class ContentPart(BaseModel):
    """A part of a message's content: text, nothing else."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["text", "input_text"]
    text: Text


class ChatMessage(BaseModel):
    """One turn. `developer` is the newer name of `system`."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[ContentPart]

    def message(self) -> t.Message:
        """As `rag` knows it."""
        text = (
            self.content
            if isinstance(self.content, str)
            else "".join(part.text for part in self.content)
        )
        return t.Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    include_usage: bool = False


class Ragstone(BaseModel):
    """Ragstone's own parameters, under `ragstone` (extra_body of the official client)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    filter: FilterIn | None = None
    limit: int | None = Field(None, ge=1)


class ChatRequest(OpenAIRequest):
    """POST /v1/chat/completions. `model` is a collection, or `plain`."""

    model: Text
    messages: list[ChatMessage] = Field(min_length=1)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    do_sample: bool | None = Field(None, description="Default: whether temperature is above 0.")
    seed: int | None = None
    stop: Text | list[Text] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    ragstone: Ragstone = Ragstone()

    def sampling(self) -> Sampling:
        """As `rag` knows it: temperature 0 is greedy, as it is at OpenAI."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        greedy = self.temperature == 0
        do_sample = self.do_sample
        if do_sample is None and self.temperature is not None:
            do_sample = not greedy
        length = self.max_completion_tokens
        return Sampling(
            None if greedy else self.temperature,
            self.top_p,
            self.max_tokens if length is None else length,
            do_sample,
            self.seed,
            stop,
        )

    def turns(self) -> tuple[list[t.Message], t.Message]:
        """(the history, the question). Raises InvalidInput when the last turn asks nothing."""
        *history, asked = [message.message() for message in self.messages]
        if asked.role != "user":
            raise InvalidInput("The last message must be the user's question.")
        return history, asked


class RagstoneOut(Wire):
    """What OpenAI's fields have no room for."""

    answer: str = Field(description="The whole text; markers of passages not there are taken out.")
    citations: list[CitationOut]
    hits: list[HitOut]
    abstained: bool
    models: dict[str, str]
    timings: dict[str, float]
    trace_id: str
    cuts: list[CutOut]
    notes: list[str]
    sentences: list[SentenceOut]

    @classmethod
    def of(cls, answer: t.Answer) -> Self:
        """From the value inside."""
        return cls(
            answer=answer.text,
            citations=[CitationOut.of(citation) for citation in answer.citations],
            hits=[HitOut.of(hit) for hit in answer.hits],
            abstained=answer.abstained,
            models=dict(answer.models),
            timings=dict(answer.timings),
            trace_id=answer.trace_id,
            cuts=[CutOut(what=cut.what, why=cut.why) for cut in answer.cuts],
            notes=list(answer.notes),
            sentences=[SentenceOut.of(sentence) for sentence in answer.sentences],
        )


def annotations(answer: t.Answer, base: str, collection: str) -> list[dict[str, Any]]:
    """OpenAI's `url_citation`s: where in the text a marker stands, and where it leads.

    That is the document's own address on the web, or the route of its original below `base`.
    """
    marks = [
        (found.start(), found.end(), {int(number) for number in re.findall(r"\d+", found[1])})
        for found in MARKER.finditer(answer.text)
    ]
    made = []
    # Citations come in the order of their sentences: each has the next marker of its number. (One
    # that proves several sentences comes once, so what follows it may stand at an earlier marker.)
    left = {n: iter([at for at in marks if n in at[2]]) for *_, some in marks for n in some}
    for citation in answer.citations:
        start, end, _ = next(left[citation.marker])
        made.append({
            "type": "url_citation",
            "url_citation": {
                "start_index": answer.text.index("[", start),  # a marker may have a space before
                "end_index": end,
                "title": citation.title,
                "url": _url(citation, base, collection),
            },
        })  # fmt: skip
    return made


def _url(citation: t.Citation, base: str, collection: str) -> str:
    if citation.source.startswith(("http://", "https://")):
        return citation.source
    where = quote(citation.document_id, safe="")
    return f"{base}/v1/documents/{where}/original?collection={quote(collection, safe='')}"


def usage(used: t.Usage) -> dict[str, int]:
    """Tokens as OpenAI counts them."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }


class EmbeddingsRequest(OpenAIRequest):
    """POST /v1/embeddings."""

    model: Text
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    input_type: Literal["document", "query"] = Field(
        "document", description="Which side of a search: models embed them differently."
    )

    @property
    def texts(self) -> list[str]:
        """As a list."""
        return [self.input] if isinstance(self.input, str) else list(self.input)


def embeddings(
    vectors: NDArray[np.float32], encoding: str, model: str, tokens: int
) -> dict[str, Any]:
    """The response; base64 is of little-endian float32, as OpenAI's clients decode it."""

    def encoded(vector: NDArray[np.float32]) -> str | list[float]:
        if encoding == "base64":
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return [float(value) for value in vector]

    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": encoded(vector)}
            for at, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


class RerankDocument(BaseModel):
    """A document of a rerank request that is not a plain string."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: Text


class RerankRequest(BaseModel):
    """POST /v1/rerank as Cohere and Jina take it (`documents`), or TEI (`texts`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    query: Text
    documents: list[Text | RerankDocument] | None = Field(None, max_length=1000)
    texts: list[Text] | None = Field(None, max_length=1000)
    model: Text | None = None
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    return_text: bool = False  # TEI
    raw_scores: bool = False  # TEI: the logits
    truncate: bool = False  # TEI; passages are always cut to what the model reads
    truncation_direction: Literal["right", "Right"] = "right"

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if (self.documents is None) == (self.texts is None):
            raise ValueError("give either documents or texts")
        return self

    @property
    def passages(self) -> list[str]:
        """The texts to score."""
        given: Sequence[str | RerankDocument] = self.documents or self.texts or []
        return [one if isinstance(one, str) else one.text for one in given]


def error_object(
    message: str, kind: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string", "examples": ["invalid_request_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
