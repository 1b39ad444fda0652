"""Follow-ups: python -m eval.conversations [--data FOLDER]

The conversations of eval/labelled/conversations.jsonl, turn by turn: nDCG@10 of a search for the
question as it was asked, for what condensing makes of it with the history, and for the question as
a person would write it who has to be understood without the history. One passage is relevant, so
that nDCG is 1 / log2(1 + its rank). Half of the conversations are about the sample collection; the
others about Wikipedia articles, of which --data has the paragraphs: those articles and some more.
"""

import argparse
import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.datasets import load_dataset
from eval.statistics import interval
from rag import collection as shelf
from rag.condense import condense
from rag.demo import documents
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import Hit, Message

PATH = Path(__file__).parent / "labelled" / "conversations.jsonl"
DEMO, WIKIPEDIA = "demo", "xquad-en"
OTHERS = 2000  # paragraphs of other articles
LIMIT = 10
ASKED, CONDENSED, WRITTEN = "as asked", "condensed", "as written by a person"


@dataclass(frozen=True, slots=True)
class Turn:
    """A question with what was said before it. `kind` is first, dependent or shift.

    `relevant` is the document that answers it and words of it that do.
    """

    collection: str
    question: str
    kind: str
    standalone: str
    history: tuple[Message, ...]
    relevant: tuple[str, str]


def load() -> list[Turn]:
    """Every turn of every conversation."""
    turns = []
    for line in PATH.read_text("utf8").splitlines():
        conversation = json.loads(line)
        history: tuple[Message, ...] = ()
        for turn in conversation["turns"]:
            (relevant,) = turn["relevant"]
            turns.append(
                Turn(
                    conversation["collection"],
                    turn["question"],
                    turn["kind"],
                    turn["standalone"],
                    history,
                    (relevant["document"], relevant["quote"]),
                )
            )
            said = Message("user", turn["question"]), Message("assistant", turn["answer"])
            history = (*history, *said)
    return turns


def fill(rag: Orchestrator, data: Path | None) -> list[str]:
    """Ingest what the conversations are about. Returns the collections that there are then."""
    shelf.ensure(rag.parts, rag.scope, DEMO)
    for source in documents():
        rag.add(source, collection=DEMO)
    if data is None:
        return [DEMO]
    dataset = load_dataset(data / "retrieval" / WIKIPEDIA)
    wanted = {turn.relevant[0] for turn in load() if turn.collection == WIKIPEDIA}
    articles = {dataset.titles[id_] for id_ in wanted}
    near = [id_ for id_, title in dataset.titles.items() if title in articles]
    far = sorted(dataset.texts.keys() - set(near))
    shelf.ensure(rag.parts, rag.scope, WIKIPEDIA)
    for id_ in track([*near, *random.Random(0).sample(far, min(OTHERS, len(far)))], "ingesting"):
        title, text = dataset.titles[id_], dataset.texts[id_]
        source = Source(name=id_, origin=id_, id=id_, title=title, text=text)
        rag.add(source, collection=WIKIPEDIA)
    return [DEMO, WIKIPEDIA]


def ways(rag: Orchestrator) -> Mapping[str, Callable[[Turn], str]]:
    """What is searched for, of a turn."""

    def condensed(turn: Turn) -> str:
        found = rag.parts.catalog.collection(rag.scope, turn.collection)
        return condense(turn.question, turn.history, rag.parts.generator_for(found))[0]

    return {
        ASKED: lambda turn: turn.question,
        CONDENSED: condensed,
        WRITTEN: lambda turn: turn.standalone,
    }


def ndcg(rag: Orchestrator, turn: Turn, query: str) -> float:
    """nDCG@10 of a search for the turn's relevant passage."""
    hits = rag.search(query, collection=turn.collection, limit=LIMIT).hits
    document, quote = turn.relevant
    text = rag.text(document, collection=turn.collection)
    start = text.index(quote)

    def right(hit: Hit) -> bool:
        chunk = hit.chunk
        same = chunk.document_id == document
        return same and chunk.start < start + len(quote) and start < chunk.end

    rank = next((rank for rank, hit in enumerate(hits, 1) if right(hit)), 0)
    return 1 / math.log2(1 + rank) if rank else 0.0


def measure(
    rag: Orchestrator, turns: Sequence[Turn], show: bool = True
) -> dict[str, dict[str, list[float]]]:
    """kind -> way -> nDCG@10 of each turn."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for turn in track(turns, "asking", disable=not show):
        for name, asked in ways(rag).items():
            found[turn.kind][name].append(ndcg(rag, turn, asked(turn)))
    return {kind: dict(values) for kind, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with retrieval/xquad-en")
    data: Path | None = parser.parse_args().data
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with TemporaryDirectory() as folder, Orchestrator.open(folder, profile="starter") as rag:
        there = fill(rag, data)
        table = Table("collection", "turns", "", ASKED, CONDENSED, WRITTEN, "condensing", "95 %")
        for name in there:
            turns = [turn for turn in load() if turn.collection == name]
            for kind, values in measure(rag, turns).items():
                before, after = (np.array(values[way]) for way in (ASKED, CONDENSED))
                change = interval(after - before)
                table.add_row(
                    name, str(len(before)), kind,
                    *(f"{np.mean(values[way]):.3f}" for way in (ASKED, CONDENSED, WRITTEN)),
                    f"{(after - before).mean():+.3f}", f"{change.low:+.3f} to {change.high:+.3f}",
                )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    from services.cli import told

    told(main)
