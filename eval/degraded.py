"""Systems from good to bad, for seeing whether two sets of questions order them alike. Pure.

Some rank as a user might choose to, some are broken in ways that happen: half of a list lost, a
question cut off, another model's instruction, an order that was mixed up.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from eval.runs import Run, by_rank
from eval.systems import Pooled, System, rank
from rag.choices import Choices

Asked = Literal["whole", "half", "instructed"]
Spoil = Callable[[list[str], random.Random], list[str]]

# bge's; an embedder without one takes it for words of the question.
OTHER_INSTRUCTION = "Represent this sentence for searching relevant passages: "
ASKED: Mapping[Asked, Callable[[str], str]] = {
    "whole": lambda text: text,
    "half": lambda text: " ".join(text.split()[: max(1, len(text.split()) // 2)]),
    "instructed": lambda text: OTHER_INSTRUCTION + text,
}
DEPTH = 10  # of what is shuffled


@dataclass(frozen=True, slots=True)
class Contender:
    """A system, in what words it is asked, and what is then done to its ranking of documents."""

    name: str
    system: System
    asked: Asked = "whole"
    spoil: Spoil | None = None

    @property
    def degraded(self) -> bool:
        """Whether nobody would choose it."""
        return self.asked != "whole" or self.spoil is not None


def contenders(blend: float, depths: Sequence[int] = (5, 10, 20)) -> list[Contender]:
    """Choices that a user has, and broken ones. `blend` is the reranker's own."""
    plain = Choices("dbsf", rerank_limit=0, rerank_blend=blend)
    dense, bm25 = System("dense", plain, "dense"), System("bm25", plain, "bm25")
    dbsf = System("dbsf", plain)
    weights = (0.2, 0.4, 0.6, 0.8)
    chosen = [
        dense,
        bm25,
        dbsf,
        System("rrf", replace(plain, fusion="rrf")),
        *(
            System(f"weighted {w}", replace(plain, fusion="weighted", dense_weight=w))
            for w in weights
        ),
        *(System(f"reranked {d}", replace(plain, rerank_limit=d)) for d in depths),
        *(
            System(f"reranked {d} alone", replace(plain, rerank_limit=d, rerank_blend=1.0))
            for d in depths[-1:]
            if blend != 1.0  # else it is one of those above
        ),
    ]
    return [
        *(Contender(system.name, system) for system in chosen),
        Contender("half a question, dbsf", dbsf, "half"),
        Contender("half a question, dense", dense, "half"),
        Contender("half a question, bm25", bm25, "half"),
        Contender("dense, another model's instruction", dense, "instructed"),
        Contender("dense, half of it lost", dense, spoil=half_lost),
        Contender("bm25, half of it lost", bm25, spoil=half_lost),
        Contender("dbsf, first ten shuffled", dbsf, spoil=first_shuffled),
        Contender("random", dbsf, spoil=shuffled),
    ]


def half_lost(ranking: list[str], rng: random.Random) -> list[str]:
    """Every document is lost with a chance of a half, as when a shard of two is away."""
    return [document for document in ranking if rng.random() < 0.5]


def first_shuffled(ranking: list[str], rng: random.Random) -> list[str]:
    """The right ones first, in any order."""
    head = ranking[:DEPTH]
    rng.shuffle(head)
    return head + ranking[DEPTH:]


def shuffled(ranking: list[str], rng: random.Random) -> list[str]:
    """All in any order."""
    found = list(ranking)
    rng.shuffle(found)
    return found


def run_of(pool: Iterable[Pooled], contender: Contender, seed: int = 0) -> Run:
    """The contender's run over what the pool of its `asked` holds; the same seed, the same run."""
    rankings = {}
    for one in pool:
        documents = [one.documents[point] for point, _ in rank(one, contender.system)]
        ranking = list(dict.fromkeys(documents))
        if contender.spoil is not None:
            ranking = contender.spoil(ranking, random.Random(f"{seed} {one.query}"))
        rankings[one.query] = by_rank(ranking)
    return Run(contender.name, rankings)
