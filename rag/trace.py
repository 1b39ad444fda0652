"""How an answer came about: every candidate with its score at each stage and why it was cut, the
prompt, the settings, and fingerprints of all that had a part in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from rag.choices import Choices
from rag.question import Asked
from rag.types import Answer, Message, Scores

Rating = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A chunk that retrieval found, 1 the best. `why` says why the generator did not read it.

    `passage` is the number under which it read it, None where it did not; `cited` whether a
    citation points at that passage.
    """

    rank: int
    document_id: str
    generation: int
    index: int
    title: str
    start: int
    end: int
    page: int | None
    score: float
    scores: Scores
    passage: int | None = None
    cited: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a reader said of an answer; `correction` is what it should have been."""

    id: str
    trace_id: str
    rating: Rating
    correction: str
    comment: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer and how it came about.

    `answer` is without its hits and passages: `candidates` are those, best first. `prompt` is empty
    where no language model read one; `written` is its text before citations were checked.
    """

    id: str
    created_at: datetime
    asked: Asked
    choices: Choices
    settings: Mapping[str, Any]
    fingerprints: Mapping[str, Any]
    prompt: tuple[Message, ...]
    written: str
    answer: Answer
    candidates: tuple[Candidate, ...] = ()
    feedback: tuple[Feedback, ...] = ()
