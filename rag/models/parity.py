"""How far an engine's results are from torch's in float32, and whether that is near enough.

Measured after every conversion on fixed texts and kept with the converted model. Arrays in, numbers
out: nothing here runs a model.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TEXTS = Path(__file__).with_name("parity.json")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What agreement a converted encoder or reranker must reach to be used.

    `cosine`: the smallest cosine of a text's two vectors. `rank`: Kendall's tau between the orders
    of passages, mean over questions. `logit`: the mean distance of two logits in units of the
    standard deviation of the reference's.
    """

    cosine: float = 0.999
    cosine_int8: float = 0.99
    rank: float = 0.9
    logit: float = 0.1


def faults(figures: Mapping[str, float], bounds: Mapping[str, float]) -> list[str]:
    """Which figures are out of their bounds, in words. A figure called an error has an upper one.

    NaN is within no bounds.
    """
    found = []
    for name, bound in bounds.items():
        value = figures[name]
        upper = name.endswith("error")
        if not (value <= bound if upper else value >= bound):
            asked = "at most" if upper else "at least"
            found.append(f"{name} is {value:.4g}, {asked} {bound:g} is asked for")
    return found


@dataclass(frozen=True, slots=True)
class Texts:
    """Fixed texts to compare engines on: questions, and passages of very different lengths."""

    questions: tuple[str, ...]
    passages: tuple[str, ...]


@cache
def fixed_texts() -> Texts:
    """The texts shipped with the package."""
    found = json.loads(TEXTS.read_text("utf-8"))
    return Texts(tuple(found["questions"]), tuple(found["passages"]))


def embedding_agreement(
    questions: tuple[NDArray[np.float32], NDArray[np.float32]],
    passages: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> Mapping[str, float]:
    """Agreement of (reference, engine) vectors float32 (n, dim) of questions and of passages."""
    least = min(float(cosines(*pair).min()) for pair in (questions, passages))
    tau = kendall(questions[0] @ passages[0].T, questions[1] @ passages[1].T)
    return {"cosine": least, "rank": tau}


def logit_agreement(
    reference: NDArray[np.float32], engine: NDArray[np.float32]
) -> Mapping[str, float]:
    """Agreement of two sets of logits, float32 (questions, passages)."""
    return {"logit error": logit_error(reference, engine), "rank": kendall(reference, engine)}


def logit_error(
    reference: NDArray[np.float32], engine: NDArray[np.float32], scale: float | None = None
) -> float:
    """Mean distance of two logits in units of `scale`; None: the reference's standard deviation."""
    scale = float(reference.std()) if scale is None else scale
    return float(np.abs(reference - engine).mean() / max(scale, 1e-9))


def kendall(reference: NDArray[np.float32], engine: NDArray[np.float32]) -> float:
    """Kendall's tau-a between the rows of two score matrices (n, m), mean over the n rows.

    (concordant - discordant) / pairs; a pair that only one side ties counts as neither.
    """
    first, second = np.triu_indices(reference.shape[1], k=1)
    signs = np.sign(reference[:, first] - reference[:, second])
    others = np.sign(engine[:, first] - engine[:, second])
    return float((signs * others).mean())


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row of a with the same row of b, float32 (n,)."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: NDArray[np.float32] = (a * b).sum(axis=1) / np.maximum(norms, 1e-12)
    return found
