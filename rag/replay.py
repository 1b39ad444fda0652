"""The question of a trace asked again, with something else in the place of what it was asked with.

Today's documents answer it: what was changed or deleted since is not what it was.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from rag.choices import NAMES
from rag.errors import InvalidInput
from rag.orchestrator import Orchestrator
from rag.question import Asked
from rag.sampling import Sampling
from rag.types import AnswerEvent

OF_SAMPLING = frozenset(field.name for field in fields(Sampling))
OF_QUESTION = frozenset({"question", "collection", "filter", "limit"})
CHANGEABLE = OF_SAMPLING | OF_QUESTION | NAMES


def replay(rag: Orchestrator, asked: Asked, changes: Mapping[str, Any]) -> Iterator[AnswerEvent]:
    """The answer as it is now, in the making. Raises InvalidInput for an unknown change."""
    now = changed(asked, changes)
    return rag.stream(
        now.question,
        collection=now.collection,
        history=now.history,
        sampling=now.sampling,
        filter=now.filter,
        limit=now.limit,
        instead=now.instead,
    )


def changed(asked: Asked, changes: Mapping[str, Any]) -> Asked:
    """The question with these parameters of sampling, choices or fields of its own."""
    if unknown := sorted(changes.keys() - CHANGEABLE):
        raise InvalidInput(
            f"{unknown[0]!r} is nothing that a question can be asked with.",
            hint=f"There are: {', '.join(sorted(CHANGEABLE))}.",
        )
    own = {name: value for name, value in changes.items() if name in OF_QUESTION}
    drawn = {name: value for name, value in changes.items() if name in OF_SAMPLING}
    if isinstance(drawn.get("stop"), list):
        drawn["stop"] = tuple(drawn["stop"])
    _check(own)
    instead = {name: value for name, value in changes.items() if name in NAMES}
    return replace(
        asked,
        **own,
        sampling=replace(asked.sampling, **drawn),
        instead={**asked.instead, **instead},
    )


def _check(own: Mapping[str, Any]) -> None:
    """What the orchestrator takes for granted of its arguments' kinds."""
    kinds: dict[str, tuple[type, ...]] = {
        "question": (str,),
        "collection": (str,),
        "filter": (dict, type(None)),
        "limit": (int, type(None)),
    }
    for name, value in own.items():
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            wanted = {"filter": "an object", "limit": "a whole number"}.get(name, "a text")
            raise InvalidInput(f"{name} must be {wanted}, not {value!r:.80}.")
