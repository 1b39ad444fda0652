"""Do the retrieved passages support an answer at all? Asked before anything is generated.

Where a calibration exists for the models that run (`calibration.json`, fitted by
`python -m eval.support` on questions whose answers were held out of a collection), a logistic
regression decides over two numbers: the weighted MaxSim of the best sentence, and the fused score
of the best hit. Among few candidates the fused score means nothing (it tells how far a hit stands
out from the others), so there the first number decides alone; so it does for a fusion that nothing
was fitted for, because the first number is the same whatever the fusion. Elsewhere only the obvious
is refused: what a cross-encoder gives less than `least_relevance` (1 %) of answering. The answer
says "uncalibrated" then.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from rag.choices import choices
from rag.generate import Request
from rag.odds import sigmoid
from rag.parts import Parts
from rag.quote import gather
from rag.settings import LATE_INTERACTION
from rag.types import SearchResult

FEW = "few candidates"
CALIBRATION = Path(__file__).parent / "calibration.json"


@dataclass(frozen=True, slots=True)
class Support:
    """`enough` decides between answering and abstaining; `how` says by what measure."""

    enough: bool
    how: str
    probability: float | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """probability = 1 / (1 + exp(-(bias + sentence * s + fused * f))); enough at `threshold`."""

    sentence: float
    fused: float
    bias: float
    threshold: float
    fitted_on: str

    def judge(self, sentence: float, fused: float) -> Support:
        """Support by these two numbers."""
        odds = self.bias + self.sentence * sentence + self.fused * fused
        probability = sigmoid(odds)
        how = f"{probability:.2f} of at least {self.threshold:.2f}, fitted on {self.fitted_on}"
        return Support(probability >= self.threshold, how, probability)


def assess(request: Request, found: SearchResult, parts: Parts) -> Support:
    """Whether to answer from this context."""
    if not request.context.passages:
        return Support(False, "there are no passages")
    own = choices(request.collection, parts.settings).least_support
    calibration = _calibration(request, found, parts)
    if calibration is None:
        return _uncalibrated(found, parts, parts.settings.least_relevance if own is None else own)
    late_interaction = parts.late_interaction_for(request.collection)
    evidence = gather(request.question, request.context, late_interaction, request.frequencies)
    fused = max((hit.scores.fused or 0.0 for hit in found.hits), default=0.0)
    if own is not None:
        calibration = replace(calibration, threshold=own)
    return calibration.judge(evidence.best, fused)


def _calibration(request: Request, found: SearchResult, parts: Parts) -> Calibration | None:
    if parts.reranker is None or parts.reranker.id != LATE_INTERACTION:
        return None
    few = found.candidates < parts.settings.retrieve_limit
    fusion = FEW if few else choices(request.collection, parts.settings).fusion
    return calibration_of(request.collection.pipeline["embedder"]["id"], fusion)


def _uncalibrated(found: SearchResult, parts: Parts, least: float) -> Support:
    logits = [hit.scores.rerank for hit in found.hits if hit.scores.rerank is not None]
    crossed = parts.reranker is not None and parts.reranker.id != LATE_INTERACTION
    if not crossed or not logits:
        return Support(True, "uncalibrated")
    probability = sigmoid(max(logits))
    return Support(probability >= least, "uncalibrated", probability)


def calibration_of(embedder: str, fusion: str) -> Calibration | None:
    """The calibration that is shipped for this embedder; `fusion` may be FEW."""
    known = calibrations()
    few = known.get(calibration_key(embedder, FEW))
    return known.get(calibration_key(embedder, fusion), few)


def calibration_key(embedder: str, fusion: str) -> str:
    """The name under which the calibration of late interaction is kept; `fusion` may be FEW."""
    return f"{embedder} / {LATE_INTERACTION} / {fusion}"


@lru_cache(maxsize=1)
def calibrations() -> Mapping[str, Calibration]:
    """The calibrations that are shipped, by combination."""
    rows: dict[str, dict[str, Any]] = json.loads(CALIBRATION.read_text(encoding="utf8"))
    return {name: Calibration(**row) for name, row in rows.items()}
