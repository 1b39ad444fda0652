"""How much context a collection needs, and when to abstain on it; each proven on the other half."""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from eval.choose import gate, within_noise
from eval.contexts import CountTokens, best_hits, evidence, from_pool
from eval.datasets import Dataset
from eval.pool import LIMIT, Searchable
from eval.systems import Pooled, System
from rag.rerank import LateInteractionReranker
from rag.support import FEW, Calibration, calibration_of

BUDGETS = (250, 500, 750, 1000, 1500, 2000, 3000)
MAY_LOSE = 0.02  # of the answers in the context: one in fifty
LEAST_FOUND = 25  # questions of each half whose answer some context holds, or there is no choosing
KEEP = 0.9  # share of the answerable questions that are to be answered, as the shipped ones keep
ASKED_TWICE = 400  # questions, to fit the threshold on


@dataclass(frozen=True, slots=True)
class Answering:
    """What answering needs beyond searching. `count_tokens` counts as the generator does."""

    embedder: str
    late_interaction: LateInteractionReranker
    count_tokens: CountTokens


@dataclass(frozen=True, slots=True)
class Budget:
    """The smallest context that holds the answers as often as the largest; None: not chosen.

    `now` is how often the present settings' context holds them on the held-out half, and `worse`
    whether that of the chosen system does significantly less often.
    """

    tokens: int | None
    why: str
    tuning: Mapping[int, float] = field(default_factory=dict)  # budget -> share of the questions
    held_out: Mapping[int, float] = field(default_factory=dict)
    now: float = 0.0
    worse: bool = False


@dataclass(frozen=True, slots=True)
class Decisions:
    """Of questions with something to answer from, and of the same with it held out."""

    answered: float  # of the answerable: recall
    precision: float  # of the answered, those answerable
    abstained: float  # of the others

    def __str__(self) -> str:
        return (
            f"answers {self.answered:.1%} of the answerable, abstains on {self.abstained:.1%} of"
            f" the others; {self.precision:.1%} of what it answers is answerable"
        )


@dataclass(frozen=True, slots=True)
class Threshold:
    """`least_support`; None: not chosen. The decisions are those on the held-out half."""

    least_support: float | None
    why: str
    fitted: Decisions | None = None
    before: Decisions | None = None

    def as_dict(self) -> dict[str, Any]:
        """For files."""
        return asdict(self)


def choose_budget(
    recall: Mapping[str, Sequence[bool]],
    budgets: Sequence[int],
    tuning: Collection[str],
    *,
    seed: int = 0,
) -> Budget:
    """`recall[question]` is whether an answer is in each budget's context, and in the present one.

    Budgets are ascending; the present settings' comes last, with the system of now. The smallest
    budget within a standard error of the largest is taken when the held-out half shows that it
    loses no more than `MAY_LOSE` of the answers that are there now.
    """
    mine, others = (
        np.array([row for q, row in sorted(recall.items()) if (q in tuning) == half], dtype=float)
        for half in (True, False)
    )
    counts = [int(half[:, -2].sum()) if len(half) else 0 for half in (mine, others)]
    if min(counts) < LEAST_FOUND:
        why = f"only {counts[0]} and {counts[1]} answers are in any context, {LEAST_FOUND} needed"
        return Budget(None, why)
    at = next(i for i in range(len(budgets)) if within_noise(mine[:, -2] - mine[:, i]))
    found = gate("that of now", others[:, at], others[:, -1], MAY_LOSE, seed=seed)
    return Budget(
        budgets[at] if found.passed else None,
        f"{budgets[at]} tokens, {found}",
        _shares(budgets, mine),
        _shares(budgets, others),
        now=float(others[:, -1].mean()),
        worse=found.difference.high < 0,
    )


def _shares(budgets: Sequence[int], found: NDArray[np.float64]) -> dict[int, float]:
    return dict(zip(budgets, map(float, found.mean(axis=0)[:-1]), strict=True))


def fit_threshold(
    pool: Iterable[Pooled],
    source: Searchable,
    answering: Answering,
    system: System,
    judged: Dataset,
    tuning: Collection[str],
    *,
    seed: int = 0,
    show: bool = True,
) -> Threshold:
    """The probability below which not to answer, for the model of support that is shipped.

    Each question is asked of the whole collection, and with its relevant documents held out.
    """
    if source.reranker is None or source.reranker.id != answering.late_interaction.id:
        return Threshold(None, "support is calibrated for late interaction alone")
    calibration = calibration_of(answering.embedder, system.choices.fusion)
    if calibration is None:
        return Threshold(None, f"nothing is calibrated for {answering.embedder}")
    asked = judged.judged
    picked = set(random.Random(seed).sample(asked, min(ASKED_TWICE, len(asked))))
    rows = []
    for one in track(pool, "asking twice", total=len(asked), disable=not show):
        if one.query in picked:
            rows += _both_ways(one, source, answering, system, judged)
    own = system.choices.least_support
    return threshold_of(rows, tuning, calibration.threshold if own is None else own)


def _both_ways(
    one: Pooled,
    source: Searchable,
    answering: Answering,
    system: System,
    judged: Dataset,
) -> list[tuple[str, float, bool]]:
    """(question, probability, answerable), once or twice.

    A question whose relevant documents are not in its context is in neither class.
    """
    question = judged.queries[one.query]
    relevant = judged.relevant(one.query)
    hits, _ = source.retrieve(question, LIMIT)
    with_it = from_pool(one, hits, system)
    without = best_hits(question, hits, source, system.choices, relevant)
    rows = []
    for best, wanted in ((with_it, True), (without, False)):
        read = evidence(
            question, best, source, answering.late_interaction, system.choices, relevant,
            answering.count_tokens,
        )  # fmt: skip
        few = len(hits) < LIMIT
        model = calibration_of(answering.embedder, FEW if few else system.choices.fusion)
        if read.answerable == wanted and model is not None:
            rows.append((one.query, _probability(model, read.sentence, read.fused), wanted))
    return rows


def _probability(model: Calibration, sentence: float, fused: float) -> float:
    return model.judge(sentence, fused).probability or 0.0


def threshold_of(
    rows: Sequence[tuple[str, float, bool]], tuning: Collection[str], present: float
) -> Threshold:
    """The threshold that keeps KEEP of the answerable questions of the tuning half.

    The present one stays when what it keeps there is KEEP but for chance; another one is taken when
    it does so on the held-out half.
    """
    mine = [p for query, p, answerable in rows if answerable and query in tuning]
    others = [(p, answerable) for query, p, answerable in rows if query not in tuning]
    kept = [p for p, answerable in others if answerable]
    if min(len(mine), len(kept)) < LEAST_FOUND:
        return Threshold(None, f"{len(mine)} and {len(kept)} answerable, {LEAST_FOUND} needed")
    before = decisions(others, present)
    share = float(np.mean(np.array(mine) >= present))
    if abs(share - KEEP) <= 1.96 * (KEEP * (1 - KEEP) / len(mine)) ** 0.5:
        why = f"{present} stays: it keeps {share:.1%} of the answerable, {KEEP:.0%} but for chance"
        return Threshold(None, why, None, before)
    threshold = round(float(np.quantile(mine, 1 - KEEP)), 3)
    fitted = decisions(others, threshold)
    least = KEEP - 1.645 * (KEEP * (1 - KEEP) * (1 / len(mine) + 1 / len(kept))) ** 0.5
    if fitted.answered < least:
        why = f"at {threshold} the held-out half keeps {fitted.answered:.1%}, not {least:.1%}"
        return Threshold(None, why, fitted, before)
    return Threshold(threshold, f"{threshold} keeps {KEEP:.0%} of the answerable", fitted, before)


def decisions(rows: Iterable[tuple[float, bool]], threshold: float) -> Decisions:
    """What a threshold does to (probability, answerable)."""
    known = list(rows)
    answered = [answerable for p, answerable in known if p >= threshold]
    answerable = sum(wanted for _, wanted in known)
    others = len(known) - answerable
    return Decisions(
        sum(answered) / max(answerable, 1),
        sum(answered) / max(len(answered), 1),
        1 - (len(answered) - sum(answered)) / max(others, 1),
    )
