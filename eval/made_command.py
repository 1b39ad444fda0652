"""`rag eval make`: a set of a user's own collection, and what a review leaves of it."""

import time
from collections import Counter
from pathlib import Path

from rich.console import Console

from eval.agreement import self_check, trustworthy
from eval.collection import Shelved
from eval.make import MadeSet, counted, make
from eval.makers import shelf_of_collection
from eval.review import REVIEW, apply_review, note, write_made
from rag.errors import InvalidInput
from rag.generate import LanguageModelGenerator
from rag.orchestrator import Orchestrator


def make_collection(
    console: Console, rag: Orchestrator, name: str, folder: Path, questions: int, seed: int
) -> MadeSet:
    """Make, write and say what was made. Raises InvalidInput for a folder that was reviewed."""
    refuse_to_lose(folder)
    found = rag.parts.catalog.collection(rag.scope, name)
    generator = rag.parts.generator_for(found)
    start = time.perf_counter()
    made = make(
        Shelved(rag, name),
        shelf_of_collection(rag, name),
        rag.parts.embedder_for(found),
        questions=questions,
        seed=seed,
        lm=generator.model if isinstance(generator, LanguageModelGenerator) else None,
    )
    seconds = round(time.perf_counter() - start, 1)
    about = {"made_from": name, "seed": seed, "seconds": seconds, "generator": generator.id}
    write_made(folder, made, about)
    _say(console, made, name, folder, seconds, questions)
    return made


def refuse_to_lose(folder: Path) -> None:
    """Raise InvalidInput for a folder with a set in it: somebody may have reviewed that."""
    if (folder / REVIEW).exists():
        raise InvalidInput(
            f"{folder} holds a set already.",
            hint="Name another folder with --folder, or delete this one.",
        )


def check_collection(
    console: Console,
    rag: Orchestrator,
    name: str,
    made: MadeSet,
    folder: Path,
    home: Path,
    seed: int,
) -> None:
    """Do the set's keyword queries order systems as its other questions do?"""
    source = Shelved(rag, name)
    blend = source.reranker.blend if source.reranker is not None else 1.0
    found = self_check(source, made, blend, home, seed=seed)
    tau = found.every
    note(folder, self_check={"tau": tau.mean, "low": tau.low, "high": tau.high})
    verdict = "" if trustworthy(tau.mean) else " It is too small or too mixed to choose by."
    console.print(
        f"{found.a} keyword queries and {found.b} other questions of it order systems with"
        f" Kendall's tau {tau.mean:.2f} ({tau.low:.2f} to {tau.high:.2f}).{verdict} Whether"
        " people's questions would order them so, only people's questions say.",
        soft_wrap=True,
    )


def review(console: Console, path: Path, folder: Path) -> MadeSet:
    """Write what a review leaves, and give it, without what was held out."""
    found = apply_review(path, folder)
    console.print(
        f"{len(found.questions)} questions kept, {found.reworded} of them reworded,"
        f" {found.dropped} dropped: {folder}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return MadeSet(found.questions, [], {})


def _say(
    console: Console, made: MadeSet, name: str, folder: Path, seconds: float, wanted: int
) -> None:
    how = Counter(one.how for one in made.questions)
    kinds = "; ".join(f"{number} {kind}" for kind, number in how.most_common())  # they have commas
    lines = [
        f"{len(made.questions)} questions in {seconds:.0f} s: {kinds}.",
        f"Left out: {counted(made.left_out)}.",
        "In balance between dense vectors and BM25, it cannot say which of the two is better.",
        f"Read {folder / REVIEW}, drop what nobody would ask, and run"
        f" rag eval make {name} --reviewed {folder / REVIEW} --check",
        "Tuning takes no made set that was not checked.",
    ]
    if len(made.questions) < wanted:
        lines.insert(1, f"{wanted} were wanted; the collection gives no more in balance.")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
