"""What the stages left behind, put together: the answer for its reader, the trace for whoever asks
why it says so.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from rag import __version__
from rag.answer_cache import Kept, again
from rag.catalog import Collection
from rag.choices import choices, is_traced
from rag.cite import Cited
from rag.errors import RagError
from rag.generate import Generated, Request
from rag.parts import Parts
from rag.prompt import is_refusal
from rag.question import Asked
from rag.settings import NO_RERANKER
from rag.support import Support
from rag.timing import Timings
from rag.trace import Candidate, Trace
from rag.types import Answer, AnswerEvent, Context, Hit, Scope, SearchResult

# Settings that an answer depends on and that no collection has choices of its own for.
_SETTINGS = (
    "retrieve_limit",
    "rerank_budget_ms",
    "least_relevance",
    "quote_sentences",
    "default_new_tokens",
)


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
        models=models_used(parts, request.collection, support, generated),
        timings=dict(timings.seconds),
        usage=generated.stream.usage,
        trace_id=uuid4().hex if is_traced(request.collection, parts.settings) else "",
        cuts=(
            *request.cuts,
            *found.cuts,
            *request.context.cuts,
            *generated.cuts,
            *cited.cuts,
        ),
        notes=(*notes, *generated.stream.notes, *cited.notes),
        passages=generated.context.passages,
        support=support.probability,
        finish_reason=generated.stream.finish_reason or "stop",
        sentences=cited.sentences,
    )


def models_used(
    parts: Parts, collection: Collection, support: Support, generated: Generated
) -> dict[str, str]:
    """Which models made the answer, and how its support and its citations were judged."""
    reranker = parts.reranker
    return {
        "embedder": collection.pipeline["embedder"]["id"],
        "reranker": reranker.id if reranker is not None else NO_RERANKER,
        "generator": parts.generator.id,
        "support": support.how,
        "citations": _checked_by(parts, collection, generated),
    }


def _checked_by(parts: Parts, collection: Collection, generated: Generated) -> str:
    return parts.checker_for(collection).how if generated.quotes is None else "quotes"


def traced(
    asked: Asked,
    request: Request,
    found: SearchResult,
    generated: Generated,
    written: str,
    answer: Answer,
    parts: Parts,
    scope: Scope,
) -> tuple[Answer, Trace | None]:
    """(the answer, how it came about, which is kept); None where nothing is to be kept.

    `written` is what the generator said, citations unchecked.
    """
    if not answer.trace_id:
        return answer, None
    collection = request.collection
    trace = Trace(
        id=answer.trace_id,
        created_at=datetime.now(UTC),
        asked=asked,
        choices=choices(collection, parts.settings),
        settings={name: getattr(parts.settings, name) for name in _SETTINGS},
        fingerprints=fingerprints(collection, parts),
        prompt=generated.prompt,
        written=written,
        answer=replace(answer, hits=(), passages=()),
        candidates=tuple(_candidates(found, request.context, generated, answer)),
    )
    return kept(answer, trace, parts, scope), trace


def kept(answer: Answer, trace: Trace, parts: Parts, scope: Scope) -> Answer:
    """The answer, once its trace is kept; where it cannot be, the answer says so."""
    try:
        if parts.traces.keep(scope, trace):
            return answer
        why = "a document that it is made from was deleted meanwhile"
    except RagError as error:
        why = error.message
    return replace(answer, trace_id="", notes=(*answer.notes, f"no trace was kept: {why}"))


def cached(
    found: Kept, asked: Asked, question: str, parts: Parts, scope: Scope
) -> Iterator[AnswerEvent]:
    """The events of an answer that is given again, with a trace of its own."""
    *events, answer = again(found, question)
    yield from events
    assert isinstance(answer, Answer)
    if found.trace is not None:
        answer = replace(answer, trace_id=uuid4().hex)
        trace = replace(
            found.trace,
            id=answer.trace_id,
            created_at=datetime.now(UTC),
            asked=asked,
            # What another asked is in it.
            prompt=found.trace.prompt if asked.question == found.trace.asked.question else (),
            answer=replace(answer, hits=(), passages=()),
        )
        answer = kept(answer, trace, parts, scope)
    yield answer


def fingerprints(collection: Collection, parts: Parts) -> dict[str, Any]:
    """What had a part in an answer: models with their revisions, and how the index was made."""
    reranker, generator = parts.reranker_for(collection), parts.generator_for(collection)
    return {
        "ragstone": __version__,
        "index": collection.physical,
        "pipeline": dict(collection.pipeline),
        "reranker": _named(reranker.id, reranker.revision) if reranker else NO_RERANKER,
        "generator": _named(generator.id, generator.revision),
        "system_prompt": collection.system_prompt,
        "answer_language": collection.answer_language,
    }


def _named(model: str, revision: str) -> str:
    return f"{model}@{revision}" if revision else model


def _candidates(
    found: SearchResult, context: Context, generated: Generated, answer: Answer
) -> Sequence[Candidate]:
    """Hits in their order, then what was dropped before."""
    numbers = {
        (chunk.document_id, chunk.generation, chunk.index): passage.number
        for passage in context.passages
        for chunk in passage.chunks
    }
    read = {passage.number for passage in generated.context.passages}
    cited = {citation.marker for citation in answer.citations}
    unpacked = {one.hit.point_id: one.why for one in context.dropped}
    fates: list[tuple[Hit, dict[str, Any]]] = []
    for hit in found.hits:
        chunk = hit.chunk
        number = numbers.get((chunk.document_id, chunk.generation, chunk.index))
        if number is None:
            fates.append((hit, {"why": unpacked[hit.point_id]}))
        elif number not in read:
            fates.append((hit, {"why": "the window of the generator holds no more"}))
        else:
            fates.append((hit, {"passage": number, "cited": number in cited}))
    fates += [(one.hit, {"why": one.why}) for one in found.dropped]
    return [_candidate(rank, hit, **fate) for rank, (hit, fate) in enumerate(fates, 1)]


def _candidate(rank: int, hit: Hit, **fate: Any) -> Candidate:  # noqa: ANN401 - Candidate's fields
    chunk = hit.chunk
    return Candidate(
        rank, chunk.document_id, chunk.generation, chunk.index, chunk.title, chunk.start,
        chunk.end, chunk.page, hit.score, hit.scores, **fate,
    )  # fmt: skip
