"""Do the retrieved passages support an answer at all? Asked before anything is generated."""

from collections.abc import Sequence
from dataclasses import dataclass

from rag.generate import Request
from rag.parts import Parts
from rag.types import Hit


@dataclass(frozen=True, slots=True)
class Support:
    """`enough` decides between answering and abstaining; `how` says by what measure."""

    enough: bool
    probability: float | None
    how: str


def assess(request: Request, hits: Sequence[Hit], parts: Parts) -> Support:
    return Support(bool(hits), None, "uncalibrated")
