"""A question and its candidates to scores, and whether the order stays the same."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.perf.bench import UNCHECKED, Bench, Side, miss, names, variants
from eval.perf.figures import Figure, Section, percentile, rank_agreement, top_overlap
from eval.perf.places import WORK
from eval.perf.workers import Worker

REFERENCE = "CrossEncoder"
DEPTH = 5


def measure(bench: Bench) -> Section:
    """bge-reranker-base's shape for speed, a trained cross-encoder for agreement."""
    section = Section("rerank", names(variants("rerank", {})))
    section.notes.append(
        f"{bench.sizes.questions} questions of {bench.sizes.candidates} passages a round"
    )
    _workload(bench, section, "bge-reranker-base", bench.reranker, compare=False)
    if bench.reranker_with_meaning is None:
        miss(section, "agreement", "no trained cross-encoder: give --reranker-with-meaning FOLDER")
    else:
        model = bench.reranker_with_meaning
        _workload(bench, section, model.name, model, compare=True)
    return section


def _workload(bench: Bench, section: Section, name: str, model: Path, *, compare: bool) -> None:
    own = {"RAG_RERANKER": str(model)} | ({} if compare else UNCHECKED)
    sides = [
        *variants("rerank", own),
        Side(REFERENCE, "sentence_transformers", "rerank",
             {"model": str(model), "dtype": "float32"}),
        Side("FlagReranker", "flagembedding", "rerank", {"model": str(model)}),
    ]  # fmt: skip
    warm = bench.asked(bench.rounds)[:1]
    with bench.opened(section, sides) as workers:

        def score(side: str, worker: Worker, number: int) -> list[float]:
            save = str(_saved(name, side)) if number == 0 else None
            asked = bench.asked(number)
            seconds: list[float] = worker.call("score", asked=asked, save=save)["seconds"]
            return seconds

        bench.each(section, workers, "warm-up", lambda w: w.call("score", asked=warm))
        found = bench.alternate(section, workers, name, score)
    for side, rounds in found.items():
        pairs = bench.sizes.questions * bench.sizes.candidates
        section.figures += [
            Figure(name, "throughput", "pairs/s", side, tuple(pairs / sum(r) for r in rounds)),
            Figure(name, "a question, p50", "s", side,
                   tuple(percentile(r, 0.5) for r in rounds), higher_is_better=False),
        ]  # fmt: skip
        if compare and REFERENCE in found and side != REFERENCE:
            section.figures += _agreement(name, side)


def _agreement(name: str, side: str) -> list[Figure]:
    ours, reference = _scores(name, side), _scores(name, REFERENCE)
    values = {
        "Kendall's tau with fp32": rank_agreement(ours, reference),
        f"the same {DEPTH} best as fp32": top_overlap(ours, reference, DEPTH),
    }
    return [
        Figure(name, measure, "", side, (value,), compared=False)
        for measure, value in values.items()
    ]


def _saved(name: str, side: str) -> Path:
    return WORK / f"rerank-{name}-{side.replace(' ', '-')}.npz"


def _scores(name: str, side: str) -> NDArray[np.float32]:
    with np.load(_saved(name, side)) as stored:
        values: NDArray[np.float32] = stored["values"]
    return values
