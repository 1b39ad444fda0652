"""How a causal LM picks its tokens. The same four names on every backend and every protocol."""

import math
from dataclasses import dataclass
from typing import TypeGuard

from rag.errors import InvalidInput

MAX_TEMPERATURE = 2.0
MAX_SEED = 2**32 - 1
MAX_STOPS = 4
MAX_STOP_CHARS = 100


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling parameters of one request. None: whatever the model's own configuration says.

    `do_sample=False` is greedy: temperature, top_p and seed then change nothing. `stop` strings end
    the text just before the first of them and never appear in it.
    """

    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None
    do_sample: bool | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def validate(self, limit_new_tokens: int) -> None:
        """Raise `InvalidInput` naming the first parameter out of range, and its range.

        `limit_new_tokens` is the largest `max_new_tokens` that the caller may ask for.
        """
        _check_do_sample(self.do_sample)
        _check_temperature(self.temperature, self.do_sample)
        _check_top_p(self.top_p)
        _check_integer("max_new_tokens", self.max_new_tokens, 1, limit_new_tokens)
        _check_integer("seed", self.seed, 0, MAX_SEED)
        _check_stop(self.stop)


def _check_do_sample(value: object) -> None:
    if value is not None and not isinstance(value, bool):
        raise InvalidInput(f"do_sample must be true or false, not {value!r}.")


def _check_temperature(value: object, do_sample: bool | None) -> None:
    if value is None:
        return
    if _is_number(value) and value == 0:
        if do_sample is False:
            return
        raise InvalidInput(
            f"temperature must be above 0 and at most {MAX_TEMPERATURE:g}, not 0.",
            hint="For the most likely token every time, set do_sample to false.",
        )
    if not (_is_number(value) and 0 < value <= MAX_TEMPERATURE):
        raise InvalidInput(
            f"temperature must be a number above 0 and at most {MAX_TEMPERATURE:g}, not {value!r}."
        )


def _check_top_p(value: object) -> None:
    if value is not None and not (_is_number(value) and 0 < value <= 1):
        raise InvalidInput(f"top_p must be a number above 0 and at most 1, not {value!r}.")


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}, not {value!r}.")


def _check_stop(value: object) -> None:
    if not isinstance(value, tuple) or len(value) > MAX_STOPS:
        raise InvalidInput(f"stop must be a list of at most {MAX_STOPS} strings, not {value!r}.")
    for text in value:
        if not isinstance(text, str) or not 0 < len(text) <= MAX_STOP_CHARS:
            raise InvalidInput(
                f"stop strings must have 1 to {MAX_STOP_CHARS} characters, not {text!r}."
            )


def _is_number(value: object) -> TypeGuard[float]:
    # bool is an int in Python, but `"temperature": true` on the wire is a mistake.
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
