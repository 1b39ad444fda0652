"""A follow-up with the topic that it leans on, by rules for English. Pure.

A question leans on what was said before it when it has a pronoun, goes on ("and the height?"), or
names nothing and is short or speaks of "the tower". It is then given the topic of the question
before: its names, or else its words; "he" and "she" are given the latest new name of an answer as
well. That is historical query expansion (Lin et al., "Multi-Stage Conversational Passage
Retrieval", TOIS 2021) with rules in the place of term scores. A question in which the rules see
nothing is asked as it is.
"""

import re
from collections.abc import Sequence

from rag.claims import content_words
from rag.types import Message

TURNS = 8  # of the user's latest questions that a topic is handed on through
SHORT = 1  # content words
VAGUE = 4  # so many leave open which one "the tower" is

_PRONOUN = re.compile(
    r"\b(?:he|him|his|she|her|hers|it|its|they|them|their|theirs|both|this|these|those|one|ones"
    r"|there|then|that(?=[?.!,]|$| (?:one|time|year|way|place)\b))\b",
    re.IGNORECASE,
)
_PERSON = re.compile(r"\b(?:he|him|his|she|her|hers)\b", re.IGNORECASE)
_EXPLETIVE = re.compile(
    r"\b(?:is|are|was|were) there\b|\bthere (?:is|are|was|were)\b"
    r"|\bit (?:is|was|be) (?:possible|true|necessary|important)\b"
    r"|\b(?:is|was) it (?:possible|true|necessary|important)\b",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"^\W*(?:and|but|or|so|also|then|no|yes|ok|okay|sorry|(?:what|how) about|i mean\w*)\b",
    re.IGNORECASE,
)
_DEFINITE = re.compile(r"\b(?:the|such|same|other|another)\s+\w+", re.IGNORECASE)
_POSSESSIVE = frozenset({"his", "her", "its", "their"})
_NAME = re.compile(r"\b[A-Z][\w'’.-]*(?:\s+(?:(?:of|the|de|la|le|von|van)\s+)?[A-Z][\w'’.-]*)*")
_MONTHS = frozenset(
    """january february march april may june july august september october november december monday
    tuesday wednesday thursday friday saturday sunday""".split()  # noqa: SIM905 - as below
)
# Words of questions that say nothing of their subject, beside those that carry no meaning at all.
_ASKING = frozenset(
    """about describe exactly explain find first give i last like list long many me mean meant more
    most much name next now number old other please really same second tall tell thanks there time
    year""".split()  # noqa: SIM905 - a list of 40 quoted words is harder to read
)


def with_topic(question: str, history: Sequence[Message]) -> str:
    """The question with the topic of the conversation, where it leans on that."""
    turns = [turn for turn in history if turn.role != "system"]
    topic, person = "", ""
    begin = ([at for at, turn in enumerate(turns) if turn.role == "user"][-TURNS:] or [0])[0]
    for turn in turns[begin:]:
        if turn.role == "user":
            if not topic or not leans(turn.content):
                # What names nothing goes on about what was named before.
                topic = _topic(turn.content) if _names(turn.content) or not _names(topic) else topic
        else:
            person = _new_name(turn.content, topic) or person
    return _completed(question, topic, person if _PERSON.search(question) else "")


def leans(question: str) -> bool:
    """Whether a question cannot be understood without what was said before it."""
    if _GOES_ON.search(question):
        return True
    plain = _EXPLETIVE.sub("", question)
    names = _names(plain)
    before = plain.partition(names[0])[0] if names else plain  # "Was Fresnel rewarded for it?"
    if any(not _own(plain, pronoun) for pronoun in _PRONOUN.finditer(before)):
        return True
    own = content_words(plain) - _ASKING
    vague = len(own) <= VAGUE and _DEFINITE.search(plain) is not None
    return not names and (len(own) <= SHORT or vague)


def _own(question: str, pronoun: re.Match[str]) -> bool:
    """Whether a possessive belongs to something that the question itself speaks of."""
    before = content_words(question[: pronoun.start()]) - _ASKING
    of = pronoun[0].casefold() in _POSSESSIVE and question[pronoun.end() :].strip(" .?!")
    return bool(of and before)


def _completed(question: str, topic: str, named: str) -> str:
    if not topic or not leans(question):
        return question
    known = content_words(question)
    added = [words for words in (topic, named) if not content_words(words) <= known]
    return " ".join([question.strip(), *added])


def _new_name(answer: str, topic: str) -> str:
    """The first name that the topic has no word of; empty when there is none.

    A single word that begins a sentence is a name or not: none is taken.
    """
    begun = {match[1] for match in re.finditer(r"(?:^|[.!?]\s+)(\w+)", answer)}
    new = (
        name
        for name in _names(answer)
        if name not in begun and not content_words(name) & content_words(topic)
    )
    return next(new, "")


def _topic(question: str) -> str:
    """What a question is about: its names, or else its words."""
    if names := _names(question):
        return " ".join(names)
    words = content_words(question) - _ASKING
    return " ".join(word for word in re.findall(r"\w+", question) if word.casefold() in words)


def _names(text: str) -> list[str]:
    """Names of a text, each once, in their order; words that only begin a sentence are none."""
    found = []
    for match in _NAME.finditer(text):
        words = match[0].split()
        while words and not content_words(words[0]) - _ASKING - _MONTHS:
            words.pop(0)
        if words:
            found.append(" ".join(words).rstrip(".'’"))
    return list(dict.fromkeys(found))
