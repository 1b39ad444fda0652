"""Fit when to abstain: python -m eval.support FOLDER [--write]

Each question is asked twice: of the whole collection, and with its relevant documents held out,
so that nothing there answers it. A logistic regression over the two numbers of `rag.support`
tells the two apart; the threshold keeps the given share of the answerable questions.
"""

import argparse
import json
import logging
import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from eval.collection import Collection, indexed
from eval.contexts import Evidence, evidence
from eval.datasets import Dataset, load_dataset
from eval.vectors import open_embedder
from rag.choices import Choices
from rag.rerank import LateInteractionReranker, rerank
from rag.settings import PROFILES, Settings
from rag.support import CALIBRATION, FEW, calibration_key
from rag.types import Hit


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    dataset = load_dataset(options.folder)
    embedder = open_embedder(options.model)
    queries = random.Random(0).sample(dataset.judged, min(options.questions, len(dataset.qrels)))
    with indexed(dataset, embedder) as collection:
        rows, labels, groups = _measure(dataset, collection, queries)
    known = json.loads(CALIBRATION.read_text()) if CALIBRATION.exists() else {}
    for fusion, columns in (("dbsf", [0, 1]), (FEW, [0])):
        fitted = _fit(dataset.name, rows[:, columns], labels, groups, options.keep)
        known[calibration_key(options.model, fusion)] = fitted
        print(f"{fusion}: {json.dumps(fitted)}")
    if options.write:
        CALIBRATION.write_text(json.dumps(known, indent=2) + "\n")


def _fit(
    name: str,
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: list[str],
    keep: float,
) -> dict[str, float | str]:
    """The calibration, its quality printed as cross-validation by question sees it."""
    model = LogisticRegression(C=1e3)
    held = cross_val_predict(
        model, rows, labels, groups=groups, cv=GroupKFold(5), method="predict_proba"
    )[:, 1]
    threshold = float(np.quantile(held[labels == 1], 1 - keep))
    answered = (held[labels == 1] >= threshold).mean()
    abstained = (held[labels == 0] < threshold).mean()
    print(f"{(labels == 1).sum()} answerable, {(labels == 0).sum()} held out,")
    print(f"AUC {roc_auc_score(labels, held):.3f}, answers {answered:.1%} of the answerable,")
    print(f"abstains on {abstained:.1%} of the others")
    model.fit(rows, labels)
    weights = [*model.coef_[0], 0.0]
    return {
        "sentence": round(float(weights[0]), 4),
        "fused": round(float(weights[1]), 4),
        "bias": round(float(model.intercept_[0]), 4),
        "threshold": round(threshold, 3),
        "fitted_on": name,
    }


def _measure(
    dataset: Dataset, collection: Collection, queries: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[str]]:
    """(features (n, 2), 1 for answerable, the query of each row)."""
    late_interaction = LateInteractionReranker(collection.embedder)
    rows, labels, groups = [], [], []
    for query in track(queries, "asking"):
        gold = dataset.relevant(query)
        hits, _ = collection.retrieve(dataset.queries[query])
        without = [hit for hit in hits if hit.chunk.document_id not in gold]
        for label, candidates in ((1, hits), (0, without)):
            read = _evidence(dataset.queries[query], candidates, collection, late_interaction, gold)
            if label == 1 and not read.answerable:
                continue  # retrieval missed it: what stands in the context does not answer
            rows.append((read.sentence, read.fused))
            labels.append(label)
            groups.append(query)
    return np.array(rows), np.array(labels), groups


def _evidence(
    question: str,
    hits: list[Hit],
    collection: Collection,
    scorer: LateInteractionReranker,
    gold: tuple[str, ...],
) -> Evidence:
    settings = Settings()
    best, _ = rerank(question, hits, scorer, settings.rerank_limit, collection.frequencies)
    made = Choices(settings.fusion, context_tokens=settings.context_tokens)
    return evidence(question, best, collection, scorer, made, gold, scorer.count_tokens)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="corpus.jsonl, queries.jsonl, qrels/")
    parser.add_argument("--model", default=PROFILES["starter"].embedder)
    parser.add_argument("--questions", type=int, default=400)
    parser.add_argument("--keep", type=float, default=0.9, help="share of answerable answered")
    parser.add_argument("--write", action="store_true", help="write rag/calibration.json")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
