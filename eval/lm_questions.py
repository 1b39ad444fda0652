"""A language model asks: a passage in, questions with their evidence out, parsed strictly."""

import json
import random
import re
from dataclasses import dataclass

from rag.generate import LanguageModel
from rag.prompt import make_question_messages
from rag.sampling import Sampling
from rag.types import Document

PASSAGE_CHARS = 1500
LEAST_QUESTION, MOST_QUESTION = 10, 300  # characters
LEAST_QUOTE = 10
_GREEDY = Sampling(do_sample=False, max_new_tokens=256)
# A question about "the passage" means nothing to whoever has not read it.
_POINTS_AT_ITSELF = re.compile(
    r"\b(?:the|this|that) (?:passage|text|document|excerpt|author)\b", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, and the words of the passage that answer it."""

    text: str
    quote: str


def lm_questions(
    lm: LanguageModel, document: Document, rng: random.Random
) -> tuple[list[Asked], list[str]]:
    """(questions about a passage from anywhere in the document, why others were rejected)."""
    passage = _passage(document.text, rng)
    with lm.stream(make_question_messages(passage), _GREEDY) as stream:
        written = "".join(stream)
    return parse(written, passage)


def parse(written: str, passage: str) -> tuple[list[Asked], list[str]]:
    """(what is right of what a model wrote, why the rest is not): a JSON object a line."""
    found: list[Asked] = []
    rejected: list[str] = []
    for line in filter(str.strip, written.splitlines()):
        one = _asked(line, " ".join(passage.split()))
        if isinstance(one, Asked):
            found.append(one)
        else:
            rejected.append(one)
    return found, rejected or ([] if found else ["nothing was written"])


def _asked(line: str, passage: str) -> Asked | str:
    try:
        row = json.loads(line)
    except ValueError:
        return "no JSON"
    if not isinstance(row, dict) or set(row) != {"question", "quote"}:
        return "not an object of question and quote"
    if not all(isinstance(value, str) for value in row.values()):
        return "not an object of question and quote"
    text, quote = (" ".join(row[key].split()) for key in ("question", "quote"))
    if not LEAST_QUESTION <= len(text) <= MOST_QUESTION or not text.endswith("?"):
        return "no question"
    if _POINTS_AT_ITSELF.search(text):
        return "asks about the passage itself"
    if len(quote) < LEAST_QUOTE or quote not in passage:
        return "its quote is not in the passage"
    return Asked(text, quote)


def _passage(text: str, rng: random.Random) -> str:
    """A piece from anywhere, between white space."""
    start = rng.randint(0, max(0, len(text) - PASSAGE_CHARS))
    piece = text[start : start + PASSAGE_CHARS]
    if start:
        piece = piece.partition(" ")[2] or piece
    return piece.rpartition(" ")[0] if start + PASSAGE_CHARS < len(text) and " " in piece else piece
