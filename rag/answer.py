"""The finished answer: everything that a reader needs to check it."""

from collections.abc import Sequence
from uuid import uuid4

from rag.catalog import Collection
from rag.cite import Cited
from rag.generate import Generated, Request
from rag.parts import Parts
from rag.prompt import is_refusal
from rag.settings import NO_RERANKER
from rag.support import Support
from rag.timing import Timings
from rag.types import Answer, SearchResult


def compose(
    request: Request,
    found: SearchResult,
    support: Support,
    generated: Generated,
    cited: Cited,
    parts: Parts,
    timings: Timings,
    notes: Sequence[str],
) -> Answer:
    """Put together what the stages left behind."""
    return Answer(
        text=cited.text,
        citations=cited.citations,
        abstained=is_refusal(cited.text),
        question=request.question,
        hits=found.hits,
        models=models_used(parts, request.collection, support),
        timings=dict(timings.seconds),
        usage=generated.stream.usage,
        trace_id=uuid4().hex,
        cuts=(*found.cuts, *request.context.cuts, *generated.cuts, *cited.cuts),
        notes=(*notes, *generated.stream.notes, *cited.notes),
        passages=generated.context.passages,
        support=support.probability,
        finish_reason=generated.stream.finish_reason or "stop",
    )


def models_used(parts: Parts, collection: Collection, support: Support) -> dict[str, str]:
    """Which models made the answer, and how its support was judged."""
    reranker = parts.reranker
    return {
        "embedder": collection.pipeline["embedder"]["id"],
        "reranker": reranker.id if reranker is not None else NO_RERANKER,
        "generator": parts.generator.id,
        "support": support.how,
    }
