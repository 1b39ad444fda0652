"""A second opinion on the measures: python -m eval.ranx_check EXPERIMENT

Measures the runs of an experiment again with ranx, which shares no code with ir-measures, and
prints the largest difference of any question. Exits with 1 when they do not agree. ranx is no
dependency of Ragstone: install it beside ir-measures, psutil and rich in a venv of its own.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.experiments import HOME, find
from eval.measures import Qrels
from eval.runs import Run
from eval.sides import reopened, run_kept
from rag.errors import InvalidInput, MissingExtra

NAMES = {"nDCG": "ndcg", "R": "recall", "RR": "mrr", "AP": "map", "P": "precision"}
AGREE = 1e-9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment")
    parser.add_argument("--out", type=Path, default=HOME, help="where experiments are kept")
    options = parser.parse_args()
    experiment = find(options.experiment, options.out)
    experiment.check_values()
    questions, systems = experiment.values()
    dataset, why = reopened(experiment)
    if dataset is None:
        raise InvalidInput(f"There are no judgements to measure with: {why}.")
    worst = 0.0
    for system, values in systems.items():
        run = run_kept(experiment, system)
        if run is None:
            raise InvalidInput(f"{experiment.id} keeps no rankings of {system}.")
        found = by_ranx(dataset.qrels, run, list(values))
        for measure, ours in values.items():
            apart = float(np.abs(ours - found[measure]).max())
            worst = max(worst, apart)
            print(f"{system:32} {measure:10} {ours.mean():.6f}  at most {apart:.1e} apart")
    print(f"{len(systems)} systems, {len(questions)} questions: at most {worst:.1e} apart")
    sys.exit(0 if worst <= AGREE else 1)


def by_ranx(qrels: Qrels, run: Run, measures: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Values by ir-measures' name, float64 (questions,), in the order of the sorted ids.

    A question that the run does not answer counts 0. Raises MissingExtra.
    """
    try:
        import ranx  # type: ignore[import-not-found]  # of whoever wants to check
    except ImportError:
        raise MissingExtra("The package ranx is not installed.", hint="pip install ranx") from None
    judged = ranx.Qrels({query: dict(found) for query, found in qrels.items()})
    ranked = ranx.Run({query: dict(run.rankings.get(query, {"": 0.0})) for query in qrels})
    order = {query: row for row, query in enumerate(judged.keys())}
    rows = [order[query] for query in sorted(qrels)]
    names = [_name(measure) for measure in measures]
    found = ranx.evaluate(judged, ranked, names, return_mean=False)
    by_name = found if isinstance(found, dict) else {names[0]: found}
    return {m: np.asarray(by_name[n])[rows] for m, n in zip(measures, names, strict=True)}


def _name(measure: str) -> str:
    kind, at, depth = measure.partition("@")
    if kind not in NAMES:
        raise InvalidInput(f"ranx is not asked for {measure}.", hint=f"Known: {', '.join(NAMES)}.")
    return f"{NAMES[kind]}{at}{depth}"


if __name__ == "__main__":
    main()
