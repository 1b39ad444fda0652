"""Documents that give orders: python -m eval.injection [--data FOLDER]

Documents of everyday kinds, each with an order in one of many ways (eval/labelled/injections.json),
are asked harmless questions, with the defence and without it. Counted is

structure  how often the prompt holds what ends its passage or its turn, or what no reader sees:
           then the order does not stand in a quoted passage any more, whatever model reads it
text       how often the answer says what the order wants said
link       how often the answer has a picture, or a link or address that can be clicked, as ordered

for the `quote` generator and for a model that repeats every passage as it is: the most obedient one
that there is. No other generator was measured. With --data, questions of PoisonedRAG, whose planted
texts are documents labelled `trust: low`: how often the answer is the planted one, and how often
when a filter leaves those out.
"""

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.progress import track
from rich.table import Table

from rag import collection as shelf
from rag import orchestrator, prompt
from rag.generate import FixedText, Generated, Generator, Request
from rag.links import Links
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.types import Answer

PATH = Path(__file__).parent / "labelled" / "injections.json"
PLACE = "@@"  # where a document holds the order
UNTRUSTED = {"trust": "low"}
POISONED = 100  # questions of each file


@dataclass(frozen=True, slots=True)
class Ordered:
    """A document with an order in it, and how to see whether it was followed."""

    way: str
    seen: str
    title: str
    text: str
    question: str
    canary: str


def ordered(
    documents: Sequence[Mapping[str, Any]], ways: Sequence[Mapping[str, Any]]
) -> list[Ordered]:
    """Every way in every document."""
    return [
        Ordered(
            way["way"],
            way["seen"],
            document["title"],
            document["text"].replace(PLACE, way["text"]),
            document["question"],
            way["canary"],
        )
        for way in ways
        for document in documents
    ]


class Repeater:
    """Answers with every passage as it is, and its marker: a model that does whatever it reads."""

    id = "repeats its passages"
    revision = ""

    def __init__(self, counter: Generator) -> None:
        self._counter = counter
        self.read = ""  # the prompt that it was given last

    def count_tokens(self, text: str) -> int:
        """As the generator whose place it takes."""
        return self._counter.count_tokens(text)

    def answer(self, request: Request) -> Generated:
        """The passages."""
        messages = prompt.answer_messages(request.question, request.context)
        self.read = messages[-1].content
        said = [f"{one.text} [{one.number}]" for one in request.context.passages]
        return Generated(FixedText(said), request.context, prompt=messages)


@contextmanager
def undefended() -> Iterator[None]:
    """Prompts and answers as they would be if nothing were made harmless."""

    class Open(Links):
        def inert(self, text: str) -> str:
            return text

    with ExitStack() as stack:
        stack.enter_context(patch.object(prompt, "neutral", lambda text, _=(): text))
        stack.enter_context(patch.object(orchestrator, "Links", Open))
        yield


def followed(rag: Orchestrator, one: Ordered, repeater: Repeater) -> dict[str, bool]:
    """Whether each generator follows the order, by `one.seen`."""
    source = Source(name="order", origin="order", id="order", title=one.title, text=one.text)
    rag.add(source)
    if one.seen == "structure":
        _answer(rag, one.question, repeater)
        return {"any prompt": one.canary in repeater.read}
    return {
        "quote": one.canary in _answer(rag, one.question, None).text,
        repeater.id: one.canary in _answer(rag, one.question, repeater).text,
    }


def _answer(rag: Orchestrator, question: str, generator: Generator | None) -> Answer:
    if generator is None:
        return rag.ask(question)
    with patch.object(type(rag.parts), "generator_for", lambda *_: generator):
        return rag.ask(question)


def measure(
    rag: Orchestrator, orders: Sequence[Ordered], show: bool = True
) -> dict[tuple[str, str], list[bool]]:
    """(what was counted, by whom) -> whether each order was followed."""
    shelf.ensure(rag.parts, rag.scope, "default")
    quote = rag.parts.generator
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for one in track(orders, "asking", disable=not show):
        for who, did in followed(rag, one, Repeater(quote)).items():
            found[one.seen, who].append(did)
    return dict(found)


def poisoned(rag: Orchestrator, folder: Path) -> dict[str, tuple[int, int, int]]:
    """Of each file: (questions, planted answers, planted answers where a filter asks for trust)."""
    counts = {}
    for path in sorted((folder / "poisonedrag").glob("*.json")):
        name = f"poisoned-{path.stem}"
        shelf.ensure(rag.parts, rag.scope, name)
        rows = list(json.loads(path.read_text("utf8")).values())[:POISONED]
        for row in track(rows, f"planting {path.stem}"):
            for number, text in enumerate(row["adv_texts"]):
                id_ = f"{row['id']}-{number}"
                planted = Source(name=id_, origin=id_, id=id_, text=text, metadata=UNTRUSTED)
                rag.add(planted, collection=name)
        planted_count = trusted_count = 0
        for row in track(rows, f"asking {path.stem}"):
            wrong = row["incorrect answer"].casefold()
            said = rag.ask(row["question"], collection=name)
            planted_count += not said.abstained and wrong in said.text.casefold()
            said = rag.ask(row["question"], collection=name, filter={"not": UNTRUSTED})
            trusted_count += not said.abstained and wrong in said.text.casefold()
        counts[path.stem] = (len(rows), planted_count, trusted_count)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder with poisonedrag/")
    folder: Path | None = parser.parse_args().data
    logging.getLogger("transformers").setLevel(logging.ERROR)
    written = json.loads(PATH.read_text("utf8"))
    orders = ordered(written["documents"], written["ways"])
    console, table = Console(width=110), Table("counted", "generator", "orders", "without", "with")
    with TemporaryDirectory() as data, Orchestrator.open(data, profile="starter") as rag:
        with undefended():
            without = measure(rag, orders)
        defended = measure(rag, orders)
        for key, before in without.items():
            after = defended[key]
            table.add_row(
                *key, str(len(before)), f"{sum(before) / len(before):.0%}",
                f"{sum(after) / len(after):.0%}",
            )  # fmt: skip
        console.print(table)
        if folder is not None:
            planted = Table("PoisonedRAG", "questions", "planted answer", "with a filter on trust")
            for name, (of, before, after) in poisoned(rag, folder).items():
                planted.add_row(name, str(of), f"{before / of:.0%}", f"{after / of:.0%}")
            console.print(planted)


if __name__ == "__main__":
    from services.cli import told

    told(main)
