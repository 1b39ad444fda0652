"""A large test collection out of smaller ones: python -m eval.large TO --passages 100000

All passages of the sets, then further ones put together from their sentences, up to the number that
is asked for; the questions and judgements are those of one set. What is made cannot be judged
relevant, so quality on it says little: it is there to see what size costs.
"""

import argparse
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from rich.console import Console

from eval.datasets import Dataset, load_dataset, write_dataset
from eval.perf.places import RETRIEVAL_SETS
from eval.perf.texts import SETS
from rag.sentences import sentence_spans

SENTENCES = 5  # of a made passage


def main() -> None:
    options = _options()
    known = {name: load_dataset(options.sets / name) for name in SETS}
    made = enlarged(known, options.judged, options.passages, options.questions, options.seed)
    write_dataset(options.to, made)
    Console().print(
        f"{len(made.texts)} passages, {len(made.qrels)} questions in {options.to}", markup=False
    )


def enlarged(
    known: dict[str, Dataset], judged: str, passages: int, questions: int, seed: int
) -> Dataset:
    """All passages and as many more, with some of one set's questions."""
    titles = {f"{name}-{id_}": t for name, one in known.items() for id_, t in one.titles.items()}
    texts = {f"{name}-{id_}": t for name, one in known.items() for id_, t in one.texts.items()}
    more = max(0, passages - len(texts))
    for number, text in enumerate(islice(_recombined(list(texts.values()), seed), more)):
        texts[f"made-{number}"], titles[f"made-{number}"] = text, ""
    own = known[judged]
    asked = random.Random(seed).sample(own.judged, min(questions, len(own.judged)))
    return Dataset(
        f"large-{passages}",
        titles,
        texts,
        {query: own.queries[query] for query in asked},
        {query: {f"{judged}-{d}": s for d, s in own.qrels[query].items()} for query in asked},
    )


def _recombined(texts: list[str], seed: int) -> Iterator[str]:
    """Passages of sentences that were drawn from anywhere."""
    sentences = [text[start:end] for text in texts for start, end in sentence_spans(text)]
    draw = random.Random(seed)
    while True:
        yield " ".join(draw.choices(sentences, k=SENTENCES))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("to", type=Path, help="a folder to write")
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--sets", type=Path, default=RETRIEVAL_SETS, help="folder of BEIR sets")
    parser.add_argument("--judged", default="xquad-en", help="whose questions")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
