"""Inputs -> texts, as scoring endpoints have it: continued freely, or answered from documents.

Inputs that come together are generated together, so that they share the model's batches.
"""

import contextvars
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import cast

from rag.errors import Cancelled, InvalidInput, RagError
from rag.orchestrator import Orchestrator
from rag.sampling import Sampling
from rag.types import Answer, AnswerEvent, Message

AT_ONCE = 16  # inputs of one request that are worked on at a time
LOOK_SECONDS = 0.05  # between two looks at whether anybody still waits

Given = str | tuple[Message, ...]
"""A text, or the turns of a conversation."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is done with inputs. With `retrieval` they are questions to `collection`."""

    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    retrieval: bool = False
    collection: str = "default"
    full_text: bool = False  # the prompt in front of what was made

    def validate(self, rag: Orchestrator, inputs: Sequence[Given] = ()) -> None:
        """Raises InvalidInput, NotFound before anything is computed."""
        self.sampling.validate(rag.parts.settings.max_new_tokens)
        if self.retrieval and any(_asked(given).role != "user" for given in inputs):
            raise InvalidInput("The last message must be the user's question.")
        if self.retrieval:
            rag.parts.catalog.collection(rag.scope, self.collection)


def score(
    rag: Orchestrator, inputs: Sequence[Given], how: Scoring
) -> Generator[list[str | RagError] | None]:
    """None while it works, so that it can be stopped there; then a text or an error per input."""
    stop = threading.Event()
    with ThreadPoolExecutor(min(AT_ONCE, max(len(inputs), 1)), "score") as pool:
        made = [
            pool.submit(contextvars.copy_context().run, _one, rag, given, how, stop)
            for given in inputs
        ]
        try:
            left: set[Future[str | RagError]] = set(made)
            while left:
                _, left = wait(left, LOOK_SECONDS, FIRST_COMPLETED)
                yield None
        except BaseException:
            stop.set()
            for future in made:
                future.cancel()
            raise
    yield [future.result() for future in made]


def _one(rag: Orchestrator, given: Given, how: Scoring, stop: threading.Event) -> str | RagError:
    text = ""
    try:
        with closing(_pieces(rag, given, how)) as pieces:
            for piece in pieces:
                if stop.is_set():
                    return Cancelled("Nobody waits for the texts any more.")
                text = piece
    except RagError as error:
        return error
    if not how.full_text or not isinstance(given, str):
        return text
    return f"{given}\n{text}" if how.retrieval else given + text


def _pieces(rag: Orchestrator, given: Given, how: Scoring) -> Generator[str]:
    """The text so far, again and again; the last one is all of it."""
    yield from _answered(rag, given, how) if how.retrieval else _continued(rag, given, how)


def _continued(rag: Orchestrator, given: Given, how: Scoring) -> Iterator[str]:
    text = ""
    with rag.continued(given, how.sampling) as pieces:
        for piece in pieces:
            text += piece
            yield text


def _asked(given: Given) -> Message:
    return Message("user", given) if isinstance(given, str) else given[-1]


def _answered(rag: Orchestrator, given: Given, how: Scoring) -> Iterator[str]:
    history = () if isinstance(given, str) else given[:-1]
    events = rag.stream(
        _asked(given).content, history=history, collection=how.collection, sampling=how.sampling
    )
    with closing(cast(Generator[AnswerEvent], events)) as made:
        for event in made:
            yield event.text if isinstance(event, Answer) else ""
