"""Near hits of the answer cache: python -m eval.answer_cache [--data FOLDER]

Pairs of questions of which it is known whether they ask the same, as the cache compares them with
the starter profile: by the cosine of their vectors, then by words and late interaction. Of
banking77 a question's nearest other one is a pair, and asks the same where both have one label:
many such pairs ask different things all the same, and some labels are wrong: it is a hard set.
"""

import argparse
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.vectors import open_embedder
from rag.answer_cache import asks_the_same
from rag.check import by_token_vectors
from rag.embed import Embedder
from rag.rerank import LateInteractionReranker
from rag.settings import PROFILES, Settings

COSINES = (0.8, 0.85, 0.9, 0.93, 0.95, 0.97)
Pair = tuple[str, str, bool]
"""Two questions, and whether they ask the same."""


@dataclass(frozen=True, slots=True)
class Rates:
    """`hits` of the pairs that ask the same, `false` of those that do not, `wrong` of all hits."""

    hits: float
    false: float
    wrong: float


def covid_pairs(folder: Path) -> list[Pair]:
    """Labelled by people."""
    rows = _rows(folder / "covid-question-pairs.jsonl")
    return [(row["a"], row["b"], bool(row["same"])) for row in rows]


def banking_pairs(folder: Path, embedder: Embedder) -> list[Pair]:
    """Each question with the nearest other one."""
    rows = _rows(folder / "banking77-test.jsonl")
    vectors = embedder.embed_queries([row["text"] for row in rows])
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    pairs = ((row, rows[int(at)]) for row, at in zip(rows, nearest, strict=True))
    return [(one["text"], two["text"], one["label"] == two["label"]) for one, two in pairs]


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf8").splitlines()]


def measure(
    pairs: Sequence[Pair],
    cosines: NDArray[np.float32],
    confirmed: NDArray[np.bool_],
    least: float,
) -> Rates:
    """What a cache with this least cosine does with pairs."""
    same = np.array([pair[2] for pair in pairs])
    hit = (cosines >= least) & confirmed
    wrong = float((hit & ~same).sum() / hit.sum()) if hit.any() else 0.0
    return Rates(float(hit[same].mean()), float(hit[~same].mean()), wrong)


def compared(
    pairs: Sequence[Pair], embedder: Embedder, same: Callable[[str, str], bool]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(cosine of each pair, whether it is confirmed)."""
    ones, others = ([pair[at] for pair in pairs] for at in (0, 1))
    cosines = (embedder.embed_queries(ones) * embedder.embed_queries(others)).sum(axis=1)
    found = [
        bool(cosine >= COSINES[0]) and same(one, other)
        for cosine, one, other in zip(
            cosines, track(ones, "comparing questions"), others, strict=True
        )
    ]
    return cosines, np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("../shared/eval-data/paraphrases")
    parser.add_argument("--data", type=Path, default=default, help="the folder of both files")
    folder: Path = parser.parse_args().data
    logging.getLogger("transformers").setLevel(logging.ERROR)
    embedder = open_embedder(PROFILES["starter"].embedder)
    late = LateInteractionReranker(embedder)
    same = asks_the_same(by_token_vectors(late.token_vectors))
    shipped = Settings().answer_cache_near
    table = Table("pairs", "", "least cosine", "confirmed", "hits", "false hits", "wrong of hits")
    sets = {"covid": covid_pairs(folder), "banking77": banking_pairs(folder, embedder)}
    for name, pairs in sets.items():
        random.Random(0).shuffle(pairs)
        cosines, confirmed = compared(pairs, embedder, same)
        for least in COSINES:
            for how, kept in (("by cosine alone", np.ones_like(confirmed)), ("yes", confirmed)):
                rates = measure(pairs, cosines, kept, least)
                table.add_row(
                    f"{len(pairs)} {name}",
                    "shipped" if (least, how) == (shipped, "yes") else "",
                    str(least), how, f"{rates.hits:.1%}", f"{rates.false:.1%}",
                    f"{rates.wrong:.1%}",
                )  # fmt: skip
    Console(width=110).print(table)


if __name__ == "__main__":
    from services.cli import told

    told(main)
