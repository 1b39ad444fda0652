"""Answers against accepted ones, by the rules of SQuAD. Pure.

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (EMNLP 2016) and
the evaluation script of its second version: texts are compared in lower case, without punctuation
and the articles a, an and the, and the best of the accepted answers counts.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, accepted: Sequence[str]) -> float:
    """1 when the text is one of the accepted answers."""
    given = normalised(text)
    return float(any(given == normalised(answer) for answer in accepted))


def f1(text: str, accepted: Sequence[str]) -> float:
    """The harmonic mean of the words' precision and recall, for the answer where it is best."""
    return max((_f1(text, answer) for answer in accepted), default=0.0)


def _f1(text: str, answer: str) -> float:
    given, wanted = normalised(text).split(), normalised(answer).split()
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted))


def holds(text: str, accepted: Sequence[str]) -> bool:
    """Whether the words of an accepted answer stand in the text one after the other."""
    padded = f" {normalised(text)} "
    wanted = (normalised(answer) for answer in accepted)
    return any(f" {answer} " in padded for answer in wanted if answer)
