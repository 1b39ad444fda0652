"""A question as it was asked. Everything wrong with it is said before any work is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag.errors import InvalidInput, TooLarge
from rag.sampling import Sampling
from rag.settings import Settings
from rag.types import Message

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with all that its sender decided; see `Orchestrator.stream`."""

    question: str
    collection: str = "default"
    history: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()  # noqa: RUF009 - frozen
    filter: Mapping[str, Any] | None = None
    limit: int | None = None
    instead: Mapping[str, Any] = field(default_factory=dict)


def check_question(
    question: str, history: Sequence[Message], sampling: Sampling, settings: Settings
) -> None:
    """Raise InvalidInput or TooLarge, naming what is wrong and the limit."""
    sampling.validate(settings.max_new_tokens)
    if len(history) > settings.max_history:
        raise TooLarge(
            f"The history has {len(history)} messages, the limit is {settings.max_history}.",
            hint="Send the latest ones, or raise RAG_MAX_HISTORY.",
        )
    for turn in history:
        if turn.role not in ROLES:
            raise InvalidInput(f"A role is {', '.join(ROLES)}, not {turn.role!r:.80}.")
        _check_text("A message of the history", turn.content, settings)
    _check_text("The question", question, settings)
    if not question.strip():
        raise InvalidInput("The question is empty.", hint="Ask something.")


def check_search(question: str, limit: int, settings: Settings) -> None:
    """Raise InvalidInput or TooLarge for a search that cannot be run."""
    check_question(question, (), Sampling(), settings)
    if not 1 <= limit <= settings.max_limit:
        raise InvalidInput(f"limit must be 1 to {settings.max_limit}, not {limit}.")


def _check_text(what: str, text: str, settings: Settings) -> None:
    if len(text) > settings.max_question_chars:
        raise TooLarge(
            f"{what} has {len(text)} characters, the limit is {settings.max_question_chars}.",
            hint="Shorten it, or raise RAG_MAX_QUESTION_CHARS.",
        )
    if "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text):
        raise InvalidInput(f"{what} holds characters that are no text (NUL or half a surrogate).")
