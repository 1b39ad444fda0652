"""Questions made of a document by rules: what they ask for is known, because they came from there.

Four kinds, none of which needs a model:

heading     a heading as it stands
definition  "A weir is a low dam ..." -> "What is a weir?", and what the definition says of it
span        a clause with a year, a number or a name, a question word where that stood
keywords    some of a sentence's rarer words, as people type them

Which words are rare the collection itself says, by its document frequencies. Every choice comes
from the seed: the same collection gives the same questions.
"""

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from rag.sentences import sentence_spans
from rag.types import Document

Kind = Literal["heading", "definition", "span", "keywords"]
KINDS: tuple[Kind, ...] = ("heading", "definition", "span", "keywords")

LEAST_SENTENCE, MOST_SENTENCE = 40, 300  # characters: shorter ones say little, longer ones are none
WINDOW_CHARS = 4000  # of a document, out of which a sentence is taken
MOST_SUBJECT = 6  # words that are defined
MOST_QUESTION = 18  # words
MOST_SAID = 12  # words of a definition
LEAST_RARE = 3  # rarer words that a question needs to be about one thing
MOST_KEYWORDS = 5
COMMON = 0.2  # share of the documents in which a common word stands
FEW = 20  # documents, among which no share means anything

_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_YEAR = re.compile(r"\b(?:1[5-9]|20)\d\d\b")
_NUMBER = re.compile(r"(?<![\d.,])(?!(?:1[5-9]|20)\d\d\b)\d+(?:[.,]\d+)*(?= (?!to |and |or )[a-z])")
# A run of capitalised words that does not open its sentence.
_NAME = re.compile(
    r"(?<=[\w,;:)] )[A-ZÀ-Þ][\w’'-]+(?: (?:of |the |de |von )?[A-ZÀ-Þ][\w’'-]+)*(?! ?\d)\b"
)
_DEFINITION = re.compile(
    r"(?P<subject>[A-ZÀ-Þ“\"][^.,;:?!]{1,70}?)(?: ?\([^)]{1,60}\))?,? "
    r"(?P<verb>is|are|was|were|refers? to|means|denotes?) "
    r"(?P<said>(?:an?|the|one of|any|those)\b.+)"
)
_MARKS = " .,;:!?"
_SPANS = ((_YEAR, "which year"), (_NUMBER, "how many"), (_NAME, "who or what"))
_PLURAL = ("are", "were", "refer to", "denote")
# What a sentence may begin with without naming what it is about.
_POINTING = re.compile(
    r"(?:this|that|these|those|it|he|she|they|there|here|we|i|you|who|which|what|such|another|one"
    r"|its|his|her|their|our|my|your|if|in|on|at|for|as|when|while|although|after|but|and)\b",
    re.IGNORECASE,
)
_CLAUSE = re.compile(r"\s*[,;:()–—]\s+|\s+[–—-]\s+|\)")
# fmt: off
_FUNCTION_WORDS = frozenset([
    "about", "after", "also", "although", "because", "been", "before", "being", "between", "both",
    "could", "does", "during", "each", "from", "have", "having", "into", "just", "many", "more",
    "most", "much", "only", "other", "over", "same", "should", "some", "such", "than", "that",
    "their", "them", "then", "there", "these", "they", "this", "those", "through", "under",
    "until", "upon", "very", "were", "what", "when", "where", "which", "while", "will", "with",
    "within", "without", "would", "your",
])
# fmt: on


@dataclass(frozen=True, slots=True)
class Made:
    """A question, how it was made, and its evidence: `document.text[start:end]`."""

    text: str
    kind: Kind
    start: int
    end: int


@dataclass(slots=True)
class Words:
    """In how many documents of a collection, or of a sample of it, each word stands."""

    documents: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, text: str) -> None:
        """Count one more document."""
        self.documents += 1
        self.counts.update(set(words(text)))

    def is_rare(self, word: str) -> bool:
        """Whether a word tells documents apart. Short ones do only when they hold a digit."""
        if word in _FUNCTION_WORDS or (len(word) < 4 and not any(map(str.isdigit, word))):
            return False
        return self.documents < FEW or self.counts[word] <= COMMON * self.documents

    def rare(self, text: str) -> list[str]:
        """The rare words of a text, each once, in order."""
        return [word for word in dict.fromkeys(words(text)) if self.is_rare(word)]


def words(text: str) -> list[str]:
    """Words in lower case, in order."""
    return [match[0].casefold() for match in _WORD.finditer(text)]


def made_of(document: Document, collection: Words, seed: str) -> list[Made]:
    """Every question that the rules make of a document, in an order that the seed decides."""
    rng = random.Random(seed)
    found = list(_of_headings(document, collection))
    for start, end in _sentences(document):
        found += _of_sentence(document.text[start:end], start, end, collection, rng)
    rng.shuffle(found)
    return found


def some_sentence(document: Document, number: int) -> str:
    """A sentence from somewhere inside, for documents of which the rules make nothing."""
    start = len(document.text) * (number % 5) // 5
    window = document.text[start : start + WINDOW_CHARS]
    sentences = [" ".join(window[a:b].split()) for a, b in sentence_spans(window)]
    if start and len(sentences) < 2:
        return some_sentence(document, 0)
    whole = sentences[1:] if start else sentences  # the first is cut
    long_enough = (one for one in whole if len(one) >= LEAST_SENTENCE)
    return next(long_enough, max(sentences, key=len, default=""))[:MOST_SENTENCE]


def _sentences(document: Document) -> Iterator[tuple[int, int]]:
    headings = {heading.start for heading in document.headings}
    for start, end in sentence_spans(document.text):
        if start not in headings and LEAST_SENTENCE <= end - start <= MOST_SENTENCE:
            yield start, end


def _of_headings(document: Document, collection: Words) -> Iterator[Made]:
    for heading in document.headings:
        title = " ".join(heading.title.split())
        if len(title.split()) > 1 and collection.rare(title):
            yield Made(title, "heading", heading.start, heading.start + len(heading.title))


def _of_sentence(
    sentence: str, start: int, end: int, collection: Words, rng: random.Random
) -> Iterator[Made]:
    plain = " ".join(sentence.split())
    asked: Iterable[tuple[str, Kind]] = (
        *((text, "definition") for text in definitions(plain)),
        *((text, "span") for text in spans(plain)),
        *((text, "keywords") for text in keywords(plain, collection, rng)),
    )
    for text, kind in asked:
        if kind == "definition" or len(collection.rare(text)) >= LEAST_RARE:
            yield Made(text, kind, start, end)


def definitions(sentence: str) -> Iterator[str]:
    """What a defining sentence answers: what its subject is, and what it is that it describes."""
    match = _DEFINITION.match(sentence)
    if not match or _POINTING.match(sentence):
        return
    subject, said = match["subject"].strip(' "“”,'), match["said"].rstrip(".!")
    if len(subject.split()) <= MOST_SUBJECT:
        verb = "are" if match["verb"] in _PLURAL else "is"
        yield f"What {verb} {_uncapitalised(subject)}?"
        yield f"What {verb} {_shortened(said)}?"


def spans(sentence: str) -> Iterator[str]:
    """The clause of a year, a number or a name, with a question word where that stood."""
    for pattern, asked in _SPANS:
        if match := pattern.search(sentence):  # another one would mostly be of the same clause
            before, behind = _clause_around(sentence, match.start(), match.end())
            question = " ".join(f"{_uncapitalised(before)}{asked}{behind}".strip(_MARKS).split())
            if len(question.split()) <= MOST_QUESTION:
                yield f"{question}?"


def keywords(sentence: str, collection: Words, rng: random.Random) -> Iterator[str]:
    """Some of the rarer words, in an order of their own."""
    rare = collection.rare(sentence)
    if len(rare) > LEAST_RARE:
        yield " ".join(rng.sample(rare, rng.randint(LEAST_RARE, min(MOST_KEYWORDS, len(rare)))))


def _clause_around(sentence: str, start: int, end: int) -> tuple[str, str]:
    """What stands before and behind within the marks around it; all when that is little."""
    marks = [match.end() for match in _CLAUSE.finditer(sentence, 0, start)]
    mark = _CLAUSE.search(sentence, end)
    before = sentence[marks[-1] if marks else 0 : start]
    behind = sentence[end : mark.start() if mark else len(sentence)]
    enough = len(f"{before}{behind}".split()) > MOST_SUBJECT
    return (before, behind) if enough else (sentence[:start], sentence[end:])


def _shortened(text: str) -> str:
    """Its first words; what a definition says first is what tells it apart."""
    return " ".join(text.split()[:MOST_SAID]).strip(_MARKS)


def _uncapitalised(text: str) -> str:
    """A first word that is capitalised only because it is the first."""
    first = text.split(" ", 1)[0]
    articles = {"A", "An", "The", "In", "On", "At", "By"}
    return text[:1].lower() + text[1:] if first in articles else text
