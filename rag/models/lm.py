"""What every engine of causal LMs agrees on: whose settings win, and how long an answer may be."""

from typing import Any, NamedTuple, TypeVar

from rag.errors import InvalidInput
from rag.sampling import Sampling
from rag.types import Message

_T = TypeVar("_T")

Prompt = str | tuple[Message, ...]

# An answer's length when neither the request nor the model's configuration sets one. transformers'
# own 20 is too short for any answer.
DEFAULT_NEW_TOKENS = 256

# transformers' defaults, for what neither the request nor generation_config.json sets.
SAMPLING_DEFAULTS: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
}


class Load(NamedTuple):
    """How many requests a model is at work on, and how many wait for their turn."""

    running: int
    waiting: int


def first_set(*values: _T | None) -> _T | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def sampling_notes(sampling: Sampling, *, do_sample: bool, num_beams: int) -> tuple[str, ...]:
    """What of a request, or of the model's own configuration, has no effect, in sentences."""
    notes = []
    idle = [name for name in ("temperature", "top_p") if getattr(sampling, name)]
    if idle and not do_sample:
        notes.append(f"do_sample is off, so {' and '.join(idle)} had no effect.")
    if num_beams > 1:
        notes.append("The model asks for beam search, which cannot stream: one beam was used.")
    return tuple(notes)


def answer_tokens(
    asked: int | None, own: int | None, *, prompt_tokens: int, window: int, model_id: str
) -> int:
    """How many tokens an answer may have: what was asked for, else the model's own or our default.

    Raises `InvalidInput` when prompt and answer do not fit the window together.
    """
    room = window - prompt_tokens
    if asked is None:
        asked = min(own or DEFAULT_NEW_TOKENS, max(room, 1))
    if asked > room:
        raise InvalidInput(
            f"The prompt has {prompt_tokens} tokens and max_new_tokens is {asked}, together "
            f"more than the {window} that {model_id} can hold.",
            hint="Shorten the prompt or ask for fewer tokens.",
        )
    return asked
