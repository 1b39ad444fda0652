"""Quality of rankings by ir-measures, one value per question."""

from collections.abc import Iterable, Mapping, Sequence

import ir_measures
import numpy as np
from ir_measures import Measure
from numpy.typing import NDArray

from eval.runs import Run
from rag.errors import InvalidInput

STANDARD = ("nDCG@10", "R@10", "R@50", "RR@10", "AP")
ALIASES = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "map": "AP", "p": "P", "precision": "P"}

Qrels = Mapping[str, Mapping[str, int]]


def parse_measures(names: Iterable[str]) -> list[Measure]:
    """Measures by their names at ir-measures; ndcg@10, recall@10, mrr@10 and map do as well.

    Raises InvalidInput.
    """
    return [_measure(name) for name in names]


def _measure(name: str) -> Measure:
    kind, at, depth = name.strip().partition("@")
    try:
        return ir_measures.parse_measure(f"{ALIASES.get(kind.lower(), kind)}{at}{depth}")
    except (NameError, ValueError, SyntaxError) as error:
        raise InvalidInput(
            f"There is no measure {name!r}.", hint="For example: nDCG@10, R@50, RR@10, AP."
        ) from error


def per_question(
    qrels: Qrels, run: Run, measures: Sequence[Measure]
) -> dict[str, NDArray[np.float64]]:
    """Values by the measure's name, float64 (questions,), in the order of the sorted ids.

    Every judged question counts; one that the run does not answer counts 0.
    """
    rows = {query: row for row, query in enumerate(sorted(qrels))}
    found = {str(measure): np.zeros(len(rows)) for measure in measures}
    judged = {query: dict(documents) for query, documents in qrels.items()}
    ranked = {query: dict(ranking) for query, ranking in run.rankings.items() if query in rows}
    for value in ir_measures.iter_calc(measures, judged, ranked):
        found[str(value.measure)][rows[value.query_id]] = value.value
    return found
