"""The systems that are compared: ways to rank the same candidates. Pure.

A pass over the models gives the candidates of a question once (see `eval.pool`); a system is what
is done with them, so that a hundred of them cost hardly more than one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from eval.runs import Run, by_rank
from rag.choices import Choices
from rag.rerank import blended
from rag.retrieve import Mode, fuse

Scored = Sequence[tuple[str, float]]  # (point id, score), best first


@dataclass(frozen=True, slots=True)
class Pooled:
    """What the models made of one question.

    `relevance` is the reranker's score of those candidates that some system may rerank, `seconds`
    what each stage took (embed, search, and reranking one candidate) and `documents` whose chunk
    each point is.
    """

    query: str
    dense: Scored
    bm25: Scored
    relevance: Mapping[str, float]
    documents: Mapping[str, str]
    seconds: Mapping[str, float] = field(default_factory=dict)
    tokens: int = 0  # that reranking one candidate read, on average


@dataclass(frozen=True, slots=True)
class System:
    """A way to rank. `choices.rerank_limit` 0: nothing is reranked."""

    name: str
    choices: Choices
    mode: Mode = "hybrid"

    def as_dict(self) -> dict[str, Any]:
        """For reports and files."""
        return {"name": self.name, "mode": self.mode, **asdict(self.choices)}


def standard(blend: float, depths: Sequence[int] = (5, 10, 20)) -> list[System]:
    """What a first look compares. `blend` is the reranker's own."""
    plain = Choices("dbsf", rerank_limit=0, rerank_blend=blend)
    return [
        System("dense", plain, "dense"),
        System("bm25", plain, "bm25"),
        System("hybrid rrf", replace(plain, fusion="rrf")),
        System("hybrid weighted", replace(plain, fusion="weighted")),
        System("hybrid dbsf", plain),
        *(
            System(f"hybrid dbsf, reranked {depth}", replace(plain, rerank_limit=depth))
            for depth in depths
        ),
    ]


def fused(pooled: Pooled, system: System) -> list[tuple[str, float]]:
    """The candidates before reranking, best first."""
    dense = () if system.mode == "bm25" else pooled.dense
    bm25 = () if system.mode == "dense" else pooled.bm25
    return fuse(list(dense), list(bm25), system.choices)


def rank(pooled: Pooled, system: System) -> list[tuple[str, float]]:
    """(point id, score) of every candidate, best first: as `rag.rerank` orders them.

    What lies behind the reranked ones follows as it was. Raises KeyError when the pool does not
    hold the relevance of a candidate that the system reranks.
    """
    return reordered(fused(pooled, system), pooled.relevance, system.choices)


def reordered(
    found: Sequence[tuple[str, float]], relevance: Mapping[str, float], choices: Choices
) -> list[tuple[str, float]]:
    """Fused candidates, best first, after reranking: what `rank` makes of them."""
    head, tail = list(found[: choices.rerank_limit]), list(found[choices.rerank_limit :])
    if not head:
        return tail
    read = np.array([relevance[point] for point, _ in head], dtype=np.float32)
    before = np.array([score for _, score in head], dtype=np.float32)
    scores = blended(read, before, 1.0 if choices.rerank_blend is None else choices.rerank_blend)
    order = sorted(range(len(head)), key=lambda i: (-float(scores[i]), head[i][0]))
    return [(head[i][0], float(scores[i])) for i in order] + tail


def run_of(pool: Iterable[Pooled], system: System) -> Run:
    """The system's ranking of documents: each ranks where the best of its chunks does."""
    return Run(
        system.name,
        {
            one.query: by_rank([one.documents[point] for point, _ in rank(one, system)])
            for one in pool
        },
    )


def seconds_of(pooled: Pooled, system: System) -> dict[str, float]:
    """What each stage of the system takes, from what its parts took."""
    took = dict(pooled.seconds)
    reranked = min(system.choices.rerank_limit, len(fused(pooled, system)))
    stages = {"search": took.get("search", 0.0), "rerank": reranked * took.get("rerank", 0.0)}
    return stages if system.mode == "bm25" else {"embed": took.get("embed", 0.0), **stages}
