"""How a collection is searched and answered from: its own choices, else the configured ones.

`rag eval tune` writes them; so can anybody through the settings of a collection.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from rag.catalog import Collection
from rag.errors import InvalidInput
from rag.settings import CitationPolicy, FusionName, Settings

RANGES: Mapping[str, tuple[type, float, float]] = {
    "dense_weight": (float, 0, 1),
    "rerank_limit": (int, 0, 200),
    "rerank_blend": (float, 0, 1),
    "context_tokens": (int, 64, 1_000_000),
    "least_support": (float, 0, 1),
}
LEAST_PASSAGES = 5  # that an answer is looked for in
UNRANKED_PASSAGES = 20  # the same where nothing is reranked: the context budget is what ends it
NAMES = frozenset({"fusion", "citation_policy", *RANGES})
PRIVATE = "private"  # a setting of a collection: no trace of its answers is kept


@dataclass(frozen=True, slots=True)
class Choices:
    """What decides between two rankings of one index.

    `dense_weight` is that of the dense list in `weighted` fusion, BM25 has the rest. The first
    `rerank_limit` hits are reranked, none for 0. `rerank_blend` is the weight of the reranker's
    score against the fused one, None: what the reranker itself is blended by. `least_support` is
    the probability below which a question is not answered, None: as the calibration was fitted.
    `citation_policy` is what becomes of sentences that nothing supports: see `rag.cite`.
    """

    fusion: FusionName
    dense_weight: float = 0.5
    rerank_limit: int = 20
    rerank_blend: float | None = None
    context_tokens: int = 1500
    least_support: float | None = None
    citation_policy: CitationPolicy = "mark"


def choices(collection: Collection, settings: Settings) -> Choices:
    """The choices of a collection, the configured ones where it has made none."""
    configured = {
        "fusion": settings.fusion,
        "rerank_limit": settings.rerank_limit,
        "context_tokens": settings.context_tokens,
        "citation_policy": settings.citation_policy,
    }
    own = {name: value for name, value in collection.settings.items() if name in NAMES}
    return Choices(**{**configured, **own})


def is_traced(collection: Collection, settings: Settings) -> bool:
    """Whether traces of its answers are kept: not of a private collection."""
    return settings.traces_kept_days > 0 and not collection.settings.get(PRIVATE, False)


def chosen_instead(collection: Collection, own: Mapping[str, Any]) -> Collection:
    """The same collection with other choices, for a question. Raises InvalidInput."""
    if unknown := sorted(set(own) - NAMES):
        raise InvalidInput(
            f"{unknown[0]!r} is no choice of a collection.",
            hint=f"There are {', '.join(sorted(NAMES))}.",
        )
    check_choices(own)
    return replace(collection, settings={**collection.settings, **own})


def answered_from(choices: Choices) -> int:
    """How many of the best hits an answer is looked for in."""
    return max(choices.rerank_limit or UNRANKED_PASSAGES, LEAST_PASSAGES)


def check_choices(given: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a choice with a wrong value."""
    if given.get("fusion", "dbsf") not in get_args(FusionName):
        raise InvalidInput(f"fusion must be one of {', '.join(get_args(FusionName))}.")
    if given.get("citation_policy", "mark") not in get_args(CitationPolicy):
        raise InvalidInput(f"citation_policy must be one of {', '.join(get_args(CitationPolicy))}.")
    for name, (kind, low, high) in RANGES.items():
        value = given.get(name, low)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise InvalidInput(f"{name} must be {what} from {low} to {high}.")
