"""Do the retrieved passages support an answer at all? Asked before anything is generated.

Where a calibration exists for the models that run (`calibration.json`, fitted by
`python -m eval.support` on questions whose answers were held out of a collection), a logistic
regression over two numbers decides: the weighted MaxSim of the best sentence, and the fused score
of the best hit. Elsewhere only the obvious is refused, and the answer says "uncalibrated".
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rag.collection import fusion_of
from rag.generate import Request
from rag.parts import Parts
from rag.quote import gather
from rag.settings import LATE_INTERACTION, NO_RERANKER
from rag.types import Hit

CALIBRATION = Path(__file__).parent / "calibration.json"
# Below this logit a cross-encoder is all but sure that the best passage does not answer (1 %).
LEAST_LOGIT = math.log(0.01 / 0.99)


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

    def probability(self, sentence: float, fused: float) -> float:
        """The probability that the context answers."""
        return 1 / (1 + math.exp(-(self.bias + self.sentence * sentence + self.fused * fused)))


def assess(request: Request, hits: Sequence[Hit], parts: Parts) -> Support:
    """Whether to answer from this context."""
    if not request.context.passages:
        return Support(False, "there are no passages")
    reranker = parts.reranker.id if parts.reranker is not None else NO_RERANKER
    fusion = fusion_of(request.collection, parts.settings)
    calibration = calibrations().get(calibration_key(parts.embedder.id, reranker, fusion))
    if calibration is None:
        logit = max((hit.scores.rerank for hit in hits if hit.scores.rerank is not None), default=0)
        refused = reranker not in (LATE_INTERACTION, NO_RERANKER) and logit < LEAST_LOGIT
        return Support(not refused, "uncalibrated")
    probability = calibration.probability(*features(request, hits, parts))
    how = f"{probability:.2f}, at least {calibration.threshold:.2f} by {calibration.fitted_on}"
    return Support(probability >= calibration.threshold, how, probability)


def features(request: Request, hits: Sequence[Hit], parts: Parts) -> tuple[float, float]:
    """(weighted MaxSim of the best sentence of the context, best fused score of the hits)."""
    evidence = gather(
        request.question, request.context, parts.late_interaction, request.frequencies
    )
    return evidence.best, max((hit.scores.fused or 0.0 for hit in hits), default=0.0)


def calibration_key(embedder: str, reranker: str, fusion: str) -> str:
    """The name under which a combination's calibration is kept."""
    return f"{embedder} / {reranker} / {fusion}"


@lru_cache(maxsize=1)
def calibrations() -> Mapping[str, Calibration]:
    """The calibrations that are shipped, by combination."""
    rows: dict[str, dict[str, Any]] = json.loads(CALIBRATION.read_text(encoding="utf8"))
    return {name: Calibration(**row) for name, row in rows.items()}
