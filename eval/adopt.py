"""A collection searched by what tuning chose, and back again: both survive a restart."""

from collections.abc import Mapping
from typing import Any

from rag import collection as shelf
from rag.choices import NAMES
from rag.errors import NotFound
from rag.orchestrator import Orchestrator

STAYING = {"context_tokens", "least_support"}  # unless tuning says something of them


def adopt(rag: Orchestrator, name: str, settings: Mapping[str, Any]) -> bool:
    """Search a collection by these choices; those of before are kept with it, in the same write.

    Context and threshold stay where `settings` say nothing of them. False when it was searched so
    already: then what was kept before stays too.
    """
    own = _own(rag, name)
    kept = {key: value for key, value in own.items() if key in STAYING}
    wanted: dict[str, Any] = {**kept, **settings}
    if wanted == own:
        return False
    changed = {**_unset(), **wanted, shelf.BEFORE_TUNING: own}
    shelf.update(rag.parts, rag.scope, name, settings=changed)
    return True


def back(rag: Orchestrator, name: str) -> dict[str, Any]:
    """Return to the choices of before the last tuning, and give them. Raises NotFound."""
    found = rag.parts.catalog.collection(rag.scope, name)
    before = found.settings.get(shelf.BEFORE_TUNING)
    if before is None:
        raise NotFound(
            f"Collection {name!r} keeps no settings of before a tuning.",
            hint="`rag eval tune COLLECTION FOLDER --write` keeps them.",
        )
    changed = {**_unset(), **before, shelf.BEFORE_TUNING: None}
    shelf.update(rag.parts, rag.scope, name, settings=changed)
    return dict(before)


def _own(rag: Orchestrator, name: str) -> dict[str, Any]:
    found = rag.parts.catalog.collection(rag.scope, name)
    return {key: value for key, value in found.settings.items() if key in NAMES}


def _unset() -> dict[str, Any]:
    return dict.fromkeys(NAMES, None)
