"""How the next token is drawn from a causal LM's logits: one request, one random generator."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from rag.models.lm import SAMPLING_DEFAULTS, first_set, sampling_notes
from rag.sampling import Sampling

# What shapes the draw, in the order in which transformers applies it; the value that changes
# nothing; what applies it.
_WARPERS: tuple[tuple[str, float | None, Callable[[Any], LogitsProcessor]], ...] = (
    ("temperature", 1.0, TemperatureLogitsWarper),
    ("top_h", None, TopHLogitsWarper),
    ("top_k", 0, TopKLogitsWarper),
    ("top_p", 1.0, TopPLogitsWarper),
    ("min_p", None, MinPLogitsWarper),
    ("typical_p", 1.0, TypicalLogitsWarper),
    ("epsilon_cutoff", 0.0, EpsilonLogitsWarper),
    ("eta_cutoff", 0.0, EtaLogitsWarper),
)


class Draw(LogitsProcessor):
    """Draws the next token with a random generator of its own and leaves no other choice.

    `generate(do_sample=True)` draws from torch's one global generator, which every other thread
    draws from as well: a seed would not repeat. The draw is otherwise the same, token for token.
    Continuous batching has no seeds, and of all that shapes a draw only temperature, top_k and
    top_p for each request: it draws here, too.
    """

    def __init__(self, settings: dict[str, Any], seed: int | None, device: torch.device) -> None:
        self._random = torch.Generator(device)
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)
        self._warpers = LogitsProcessorList(
            warper(value)
            for name, neutral, warper in _WARPERS
            if (value := settings[name]) is not None and value != neutral
        )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Logits (1, vocabulary) to 0 for the token drawn and minus infinity for all others."""
        warped = self._warpers(input_ids, scores)  # type: ignore[arg-type]  # a LongTensor in name
        drawn = torch.multinomial(warped.softmax(-1), num_samples=1, generator=self._random)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def draw_settings(
    own: GenerationConfig, sampling: Sampling
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the draw is made with: the request's values, the model's own, transformers'.

    Also notes on what was asked for without effect.
    """
    asked = {name: getattr(sampling, name) for name in ("do_sample", "temperature", "top_p")}
    names = ["do_sample", *(name for name, _, _ in _WARPERS)]
    settings = {
        name: first_set(asked.get(name), getattr(own, name, None), SAMPLING_DEFAULTS.get(name))
        for name in names
    }
    notes = sampling_notes(
        sampling, do_sample=bool(settings["do_sample"]), num_beams=own.num_beams or 1
    )
    return settings, notes


def without_sampling(config: GenerationConfig) -> GenerationConfig:
    """The configuration for one greedy beam; penalties and suppressed tokens stay."""
    greedy = copy.deepcopy(config)
    nothing = dict.fromkeys([*(name for name, _, _ in _WARPERS), "stop_strings", "max_length"])
    options = nothing | {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    greedy.update(**options)  # type: ignore[no-untyped-call]  # transformers has no types here
    return greedy
