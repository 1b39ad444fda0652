"""The check of citations: python -m eval.citations [--write] [--reranker MODEL]

Fits the calibrations of `rag.check` on the labelled sentences in fit.jsonl, and judges them on
citations.jsonl, which has other documents. The sentences were written by hand: no language model
made them. Precision is the share of sentences called supported that are; recall the share of
supported ones that are called so; caught, of unsupported ones, by the kind of edit.
"""

import argparse
import json
import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from eval.labelled_citations import EDITED, Labelled, load
from eval.vectors import open_embedder
from rag.check import (
    CALIBRATION,
    WORDS,
    Calibration,
    Checker,
    Meaning,
    by_logits,
    by_token_vectors,
    by_words,
)
from rag.rerank import LateInteractionReranker
from rag.settings import LATE_INTERACTION, PROFILES

FITTED_ON = "eval/labelled/fit.jsonl"
FAR = 0.5  # what a sentence with a passage from elsewhere counts against a labelled one
ANY = Calibration((1.0,) * 7, 0.0, 0.5, "")  # to find windows with, before anything is fitted


@dataclass(frozen=True, slots=True)
class Judged:
    """How a check did on labelled sentences."""

    precision: float
    recall: float
    auc: float
    caught: Mapping[str, float]
    right: int
    of: int


def scorer_name(model: str, *, cross_encoder: bool = False) -> str:
    """The name of what compares, under which its calibration is kept."""
    return model if cross_encoder else f"{model} / {LATE_INTERACTION}"


def features(rows: Sequence[Labelled], meaning: Meaning, show: bool = True) -> NDArray[np.float64]:
    """The comparison with each sentence's best window, (n, 7)."""
    checker = Checker(meaning, ANY, "")
    checked = (
        checker.check(one.sentence, one.passage)
        for one in track(rows, "comparing", disable=not show)
    )
    return np.array([astuple(one.seen) for one in checked if one is not None])


def elsewhere(rows: Sequence[Labelled], seed: int = 0) -> list[Labelled]:
    """Each supported sentence as if it cited a passage of another question.

    What a model makes up is often about something else entirely, and minimal edits show none of it.
    """
    rng = random.Random(seed)
    return [
        replace(
            one,
            context=(other := rng.choice([o for o in rows if o.question != one.question])).context,
            cites=other.cites,
            supported=False,
            kind="passage",
            span=None,
            pair=None,
        )
        for one in rows
        if one.supported
    ]


def fit(rows: Sequence[Labelled], meaning: Meaning) -> Calibration:
    """A logistic regression; its threshold is the one that errs least in cross-validation."""
    every = [*rows, *elsewhere(rows)]
    seen, labels = features(every, meaning), np.array([one.supported for one in every])
    trust = np.array([1.0] * len(rows) + [FAR] * (len(every) - len(rows)))
    groups = np.array([one.question for one in every])
    scale = seen[: len(rows)].std(axis=0) + 1e-9
    held = np.zeros(len(every))
    for train, test in GroupKFold(10).split(seen, labels, groups):
        model = LogisticRegression().fit(seen[train] / scale, labels[train], trust[train])
        held[test] = model.predict_proba(seen[test] / scale)[:, 1]
    thresholds = np.linspace(0.3, 0.7, 41)
    errors = [float(np.average((held >= at) != labels, weights=trust)) for at in thresholds]
    least = [at for at, error in zip(thresholds, errors, strict=True) if error == min(errors)]
    model = LogisticRegression().fit(seen / scale, labels, trust)
    weights = np.where(seen.std(axis=0) > 0, model.coef_[0] / scale, 0.0)
    return Calibration(
        weights=tuple(round(float(weight), 4) for weight in weights),
        bias=round(float(model.intercept_[0]), 4),
        threshold=round(float(np.median(least)), 2),
        fitted_on=FITTED_ON,
    )


def judge(rows: Sequence[Labelled], probabilities: Sequence[float], threshold: float) -> Judged:
    """Precision, recall, and what was caught."""
    labels = np.array([one.supported for one in rows])
    said = np.array(probabilities) >= threshold
    caught = defaultdict(list)
    for one, supported in zip(rows, said, strict=True):
        if not one.supported:
            caught[one.kind].append(not supported)
    return Judged(
        precision=float(labels[said].mean()),
        recall=float(said[labels].mean()),
        auc=float(roc_auc_score(labels, probabilities)),
        caught={kind: float(np.mean(caught[kind])) for kind in EDITED},
        right=int((said == labels).sum()),
        of=len(rows),
    )


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    late = LateInteractionReranker(open_embedder(options.model))
    scorers: dict[str, Meaning] = {
        scorer_name(options.model): by_token_vectors(late.token_vectors),
        WORDS: by_words,
    }
    if options.reranker:
        from rag.models.engine import open_cross_encoder
        from rag.models.load import resolve
        from rag.parts import engines_of
        from rag.settings import load_settings

        reader = open_cross_encoder(resolve(options.reranker), engines_of(load_settings()))
        name = scorer_name(options.reranker, cross_encoder=True)
        scorers[name] = by_logits(reader.logits)
    fitted_on, judged_on = load("fit"), load("test")
    known = json.loads(CALIBRATION.read_text("utf8")) if CALIBRATION.exists() else {}
    table = Table("scorer", "precision", "recall", "AUC", *EDITED, "right")
    for name, meaning in scorers.items():
        calibration = fit(fitted_on, meaning)
        known[name] = asdict(calibration)
        if options.blind:
            continue
        checker = Checker(meaning, calibration, name)
        found = [checker.check(one.sentence, one.passage) for one in judged_on]
        probabilities = [one.probability if one else 0.0 for one in found]
        seen = judge(judged_on, probabilities, calibration.threshold)
        table.add_row(
            name, f"{seen.precision:.3f}", f"{seen.recall:.3f}", f"{seen.auc:.3f}",
            *(f"{seen.caught[kind]:.2f}" for kind in EDITED), f"{seen.right} of {seen.of}",
        )  # fmt: skip
    print(json.dumps(known, indent=2))
    Console(width=160).print(table)
    if options.write:
        CALIBRATION.write_text(json.dumps(known, indent=2) + "\n", "utf8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=PROFILES["starter"].embedder)
    parser.add_argument("--reranker", default="", help="a cross-encoder to compare with as well")
    parser.add_argument("--write", action="store_true", help=f"write {CALIBRATION.name}")
    parser.add_argument("--blind", action="store_true", help="fit, and judge nothing")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
