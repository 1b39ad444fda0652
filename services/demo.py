"""`rag demo`: the main job from end to end, checked by what the answers cite."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from rag import collection as shelf
from rag.demo import Question, documents, questions
from rag.models.load import is_available
from rag.orchestrator import Orchestrator
from rag.settings import PROFILES
from rag.types import Answer, AnswerEvent
from services.events import AnswerWire, wire
from services.show import show_answer, show_reports, watched


def run_demo(out: Console, err: Console, *, data: Path | None, profile: str | None) -> bool:
    """Ingest the sample, ask the four questions, print the answers; True if all are right."""
    start = perf_counter()
    chosen = profile or available_profile()
    collection = f"demo-{chosen}"
    out.print(f"Profile [bold]{escape(chosen)}[/]: {describe(chosen)}")
    with Orchestrator.open(data, profile=chosen) as rag:
        ingest(rag, err, collection)
        right = [ask(rag, out, question, collection) for question in questions()]
    out.print(Rule(style="dim"))
    passed = sum(right)
    colour = "green" if passed == len(right) else "red"
    out.print(f"[{colour}]{passed} of {len(right)} answers are right[/], {_seconds(start)}.")
    asked = f"rag ask --profile {chosen} --collection {collection}"
    out.print(f'Ask your own: {asked} "Who invented the sun valve?"')
    if chosen != "default":
        out.print("The full models (downloads them if need be): make demo PROFILE=default")
    return passed == len(right)


def available_profile() -> str:
    """`default` when all its models are on this machine, else `starter`."""
    chosen = PROFILES["default"]
    names = (chosen.embedder, chosen.reranker, chosen.generator)
    return "default" if all(is_available(name) for name in names) else "starter"


def describe(profile: str) -> str:
    """The models of a profile, in a line."""
    named = PROFILES.get(profile)  # type: ignore[call-overload] # any text may have been given
    if named is None:
        return "not a profile"
    return f"{named.embedder}, {named.reranker}, {named.generator}"


def ingest(rag: Orchestrator, err: Console, collection: str) -> None:
    """Ingest the sample documents, with a progress bar."""
    shelf.ensure(rag.parts, rag.scope, collection)
    sources = documents()
    with watched(err, len(sources)) as on_progress:
        reports = [rag.add(s, collection=collection, on_progress=on_progress) for s in sources]
    show_reports(err, reports)


def ask(rag: Orchestrator, out: Console, question: Question, collection: str) -> bool:
    """Ask one question, print the answer and whether it is right."""
    out.print(Rule(style="dim"))
    out.print(f"[bold]{escape(question.question)}[/]\n")
    answer = shown(out, rag.stream(question.question, collection=collection))
    faults = [*question.faults(answer), *misquotes(rag, answer, collection)]
    for fault in faults:
        out.print(f"  [red]wrong:[/] {escape(fault)}")
    if not faults:
        said = "it abstains, as it should" if answer.abstained else "every quote is in its document"
        out.print(f"  [green]right:[/] {said}")
    return not faults


def shown(out: Console, events: Iterable[AnswerEvent]) -> Answer:
    """Print an answer in the making, and return it."""
    seen: list[AnswerEvent] = []

    def worded() -> Iterator[AnswerWire]:
        for event in events:
            seen.append(event)
            yield wire(event)

    show_answer(out, worded())
    assert isinstance(seen[-1], Answer)
    return seen[-1]


def misquotes(rag: Orchestrator, answer: Answer, collection: str) -> list[str]:
    """Citations whose quote is not what the document says at its offsets."""
    return [
        f"[{citation.marker}] is not what {citation.document_id} says there"
        for citation in answer.citations
        if rag.text(citation.document_id, collection=collection)[citation.start : citation.end]
        != citation.quote
    ]


def _seconds(start: float) -> str:
    return f"{perf_counter() - start:.0f} s in all"
