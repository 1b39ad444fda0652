"""An evaluation set out of a collection that nobody has judged.

1. Candidates (`eval.makers`): `rag.known_items` asks for headings, definitions, spans and keywords
   of documents drawn at random, half of them in other words (`eval.loosen`); a language model asks
   as well where one is given (`eval.lm_questions`). Each knows its document and its evidence.
2. Both retrievers are asked each candidate (`eval.balance`). Left out are near-duplicates,
   questions that another document may answer, those whose document neither retriever finds, and
   those that both answer first: they tell no two systems apart. Documents that hold the evidence
   word for word are judged relevant, too.
3. Of the rest as many are drawn as wanted, in balance: dense vectors and BM25 do equally well.
   A question that was made of a passage shares its words, so that a set of such questions calls
   BM25 the best whatever is true (`eval.agreement` measures it). A set in balance cannot say which
   of the two is better; it says what does better than both.

A share of the questions is asked again with their documents held out, so that nothing answers them.
"""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from rich.progress import track

from eval.balance import Judged, balanced, judge
from eval.datasets import Dataset
from eval.makers import Question, Shelf, by_lm, by_rules, without_near_duplicates
from eval.pool import LIMIT, Searchable
from rag.embed import Embedder
from rag.errors import InvalidInput
from rag.generate import LanguageModel

QUESTIONS = 200
CANDIDATES = 10  # for each question that is wanted
MOST_DOCUMENTS = 2000  # that are read
HELD_OUT = 0.2  # share of the questions


@dataclass(frozen=True, slots=True)
class MadeSet:
    """Questions, the ids of those to ask with their documents held out, how many were left out."""

    questions: Sequence[Question]
    held_out: Sequence[str]
    left_out: Mapping[str, int]

    def dataset(self, name: str) -> Dataset:
        """Judgements of documents that are elsewhere."""
        return Dataset(
            name,
            {},
            {},
            {one.id: one.text for one in self.questions},
            {one.id: dict.fromkeys(one.relevant, 1) for one in self.questions},
        )


def make(
    source: Searchable,
    shelf: Shelf,
    embedder: Embedder,
    *,
    questions: int = QUESTIONS,
    seed: int = 0,
    lm: LanguageModel | None = None,
    in_balance: bool = True,
    show: bool = True,
) -> MadeSet:
    """At most `questions` questions about the documents of a shelf, which `source` searches.

    The same collection and seed give the same. `in_balance` False takes candidates as they were
    made, to show what that would do. Raises InvalidInput where nothing can be asked.
    """
    left_out = Counter[str]()
    drawn = replace(shelf, ids=_drawn(shelf.ids, seed))
    wanted = CANDIDATES * questions
    found = by_lm(drawn, lm, questions, seed, left_out, show=show) if lm is not None else []
    found += by_rules(drawn, embedder, wanted, seed, show=show)
    distinct = without_near_duplicates(found, embedder, left_out)
    if in_balance:
        judged = _judged(source, distinct, left_out, show)
        kept = [one.question for one in balanced(judged, questions, seed)]
        left_out["more than wanted, or out of balance"] = len(judged) - len(kept)
    else:
        some = random.Random(seed).sample(distinct, min(questions, len(distinct)))
        kept = [replace(one, relevant=(one.document,)) for one in some]
    if not kept:
        raise InvalidInput(
            f"No questions in balance could be made of {source.name}."
            f" Left out were: {counted(left_out)}.",
            hint="Ask for more questions, or measure with questions of your own: it takes more than"
            " a few documents of whole sentences until some are hard for each retriever.",
        )
    ids = sorted(one.id for one in kept)
    held_out = random.Random(seed).sample(ids, ceil(HELD_OUT * len(ids)))
    return MadeSet(kept, sorted(held_out), dict(left_out))


def counted(left_out: Mapping[str, int]) -> str:
    """What was left out, in words."""
    return ", ".join(f"{number} ({why})" for why, number in left_out.items() if number) or "nothing"


def _drawn(ids: Sequence[str], seed: int) -> list[str]:
    ordered = sorted(ids)
    random.Random(seed).shuffle(ordered)
    return ordered[:MOST_DOCUMENTS]


def _judged(
    source: Searchable, questions: Sequence[Question], left_out: Counter[str], show: bool
) -> list[Judged]:
    found = []
    for one in track(questions, f"{source.name}: asking both retrievers", disable=not show):
        hits, _ = source.retrieve(one.text, LIMIT)
        judged = judge(one, hits)
        if isinstance(judged, Judged):
            found.append(judged)
        else:
            left_out[judged] += 1
    return found
