"""`POST /score` as Azure Machine Learning's text generation endpoints take it.

Each shape of the request ends as the same thing: inputs, parameters, and whether to retrieve.
"""

from collections.abc import Generator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from pydantic import Field, model_validator
from starlette.responses import Response

from rag import scoring
from rag.errors import RagError, TooLarge
from rag.orchestrator import Orchestrator
from rag.scoring import Given, Scoring
from services.requests import CLIENT_GONE
from services.schemas import Asked, CollectionName, MessageIn, SamplingIn, Text
from services.service import Running
from services.threads import last

MAX_INPUTS = 64  # in one request

router = APIRouter(tags=["azure ml"])

Inputs = Annotated[list[Text] | list[MessageIn], Field(min_length=1)]
Scored = list[dict[str, str]] | dict[str, str]


class ScoreParameters(SamplingIn):
    """How to generate. `return_full_text` repeats the prompt in front of its continuation."""

    return_full_text: bool | None = None
    retrieval: bool | None = Field(None, description="true: answer from the documents.")
    collection: CollectionName | None = Field(None, description="Of which; default: the body's.")


class InputData(Asked):
    """Texts to continue, or one conversation."""

    input_string: Inputs
    parameters: ScoreParameters | None = None


class ScoreRequest(Asked):
    """Inputs under `input_data` or `inputs`; parameters inside, or beside as `params`."""

    input_data: InputData | Inputs | None = None
    inputs: InputData | Inputs | None = None
    parameters: ScoreParameters | None = None
    params: ScoreParameters | None = None
    retrieval: bool | None = None
    collection: CollectionName = "default"

    @model_validator(mode="after")
    def _one_input(self) -> "ScoreRequest":
        if (self.input_data is None) == (self.inputs is None):
            raise ValueError("give either input_data or inputs")
        return self

    @property
    def input_strings(self) -> list[str] | list[MessageIn]:
        """The texts, or the turns of a conversation."""
        given = self.input_data if self.input_data is not None else self.inputs
        assert given is not None
        return given.input_string if isinstance(given, InputData) else given

    @property
    def merged(self) -> ScoreParameters:
        """The parameters of all places; inner ones win."""
        given = self.input_data or self.inputs
        inner = given.parameters if isinstance(given, InputData) else None
        merged: dict[str, Any] = {"retrieval": self.retrieval}
        for parameters in (self.params, self.parameters, inner):
            if parameters is not None:
                merged |= parameters.model_dump(exclude_none=True)
        return ScoreParameters(**merged)


_SAMPLING = {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 24, "do_sample": True}
_EXAMPLES: dict[str, Any] = {
    "texts": {
        "summary": "Texts to continue",
        "value": {
            "input_data": {
                "input_string": ["A lighthouse is", "Fog signals are"],
                "parameters": {**_SAMPLING, "return_full_text": True},
            }
        },
    },
    "chat": {
        "summary": "A conversation",
        "value": {
            "input_data": {
                "input_string": [{"role": "user", "content": "What is a lighthouse?"}],
                "parameters": _SAMPLING,
            }
        },
    },
    "params": {
        "summary": "Parameters beside the inputs",
        "value": {"input_data": ["A lighthouse is"], "params": {"max_new_tokens": 8}},
    },
    "inputs": {
        "summary": "Under the name inputs",
        "value": {
            "inputs": {"input_string": ["A lighthouse is"]},
            "parameters": {"max_new_tokens": 8, "return_full_text": False},
        },
    },
    "retrieval": {
        "summary": "Answered from the documents",
        "value": {
            "input_data": {
                "input_string": ["Who built the Bell Rock lighthouse?"],
                "parameters": {"max_new_tokens": 24, "return_full_text": False},
            },
            "retrieval": True,
            "collection": "default",
        },
    },
}


@router.post("/score", response_model=Scored)
async def score(
    request: Request,
    body: Annotated[ScoreRequest, Body(openapi_examples=_EXAMPLES)],
    service: Running,
) -> Scored | Response:
    """Texts to `[{"0": "..."}, {"1": "..."}]`, a conversation to `{"output": "..."}`.

    A text comes back with its prompt in front (with `retrieval` on a line of its own), unless
    `return_full_text` is false.
    """
    steps = service.answers.stream(partial(_score, service.orchestrator, body))
    scored = await last(steps, request.receive)
    return scored if scored is not None else Response(status_code=CLIENT_GONE)


def _score(rag: Orchestrator, body: ScoreRequest) -> Generator[Scored | None]:
    """None while texts are made, so that it can be stopped there; then all of them."""
    given, parameters = body.input_strings, body.merged
    turns = tuple(turn.message() for turn in given if isinstance(turn, MessageIn))
    inputs: list[Given] = [turns] if turns else [text for text in given if isinstance(text, str)]
    if len(inputs) > MAX_INPUTS:
        raise TooLarge(f"There are {len(inputs)} inputs, the limit is {MAX_INPUTS}.")
    how = Scoring(
        parameters.sampling(),
        retrieval=bool(parameters.retrieval),
        collection=parameters.collection or body.collection,
        full_text=not turns and parameters.return_full_text is not False,
    )
    how.validate(rag, inputs)
    for made in scoring.score(rag, inputs, how):
        if made is None:
            yield None
            continue
        texts = [_text_or_raise(one) for one in made]
        yield {"output": texts[0]} if turns else [{str(n): text} for n, text in enumerate(texts)]


def _text_or_raise(made: str | RagError) -> str:
    if isinstance(made, RagError):
        raise made
    return made
