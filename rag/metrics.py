"""The instruments: how long answers and documents take, in which stage, and how they end.

Each `Metrics` has a registry of its own, so that several may live in one process. Every label has a
fixed set of values, and every one of them is there from the beginning, at 0: a rate is known from
the first event on, and no name that users choose ever becomes a series.
"""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram

from rag.errors import Cancelled, Conflict, InvalidInput, NotFound, Overloaded
from rag.generate import TextStream
from rag.spans import ended
from rag.timing import Timings
from rag.types import Answer, AnswerEvent, TextPiece, Usage

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
SEARCH_STAGES = ("embed", "retrieve", "rerank")
ANSWER_STAGES = ("condense", "cache", *SEARCH_STAGES, "pack", "support", "generate", "cite")
INGEST_STAGES = ("parse", "split", "embed", "store")
ANSWER_OUTCOMES = ("answered", "abstained", "cancelled", "overloaded", "rejected", "failed")
DOCUMENT_OUTCOMES = ("ingested", "replaced", "unchanged", "retried", "failed")
TOKEN_KINDS = ("prompt", "completion")
SUPPORT = {True: "supported", False: "unsupported", None: "unchecked"}


class Metrics:
    """Counts and times answers, searches and documents. Thread-safe."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._answer_seconds = Histogram(
            "ragstone_answer_seconds",
            "Seconds from a question to the end of its answer, of those that ended by themselves.",
            buckets=SECONDS,
            registry=registry,
        )
        self._first_token_seconds = Histogram(
            "ragstone_answer_first_token_seconds",
            "Seconds from a question to the first piece of its answer's text.",
            buckets=SECONDS,
            registry=registry,
        )
        self._answer_stages = _stages(
            "ragstone_answer_stage_seconds",
            "Seconds that an answer spent in each stage that it came to.",
            ANSWER_STAGES,
            registry,
        )
        self._search_seconds = Histogram(
            "ragstone_search_seconds",
            "Seconds that a search without an answer took.",
            buckets=SECONDS,
            registry=registry,
        )
        self._search_stages = _stages(
            "ragstone_search_stage_seconds",
            "Seconds that a search without an answer spent in each stage.",
            SEARCH_STAGES,
            registry,
        )
        self._ingest_stages = _stages(
            "ragstone_ingest_stage_seconds",
            "Seconds that a document spent in each stage of being ingested.",
            INGEST_STAGES,
            registry,
        )
        self._answers = _counters(
            "ragstone_answers_total",
            "Answers by what became of them; rejected: the request was wrong.",
            "outcome",
            ANSWER_OUTCOMES,
            registry,
        )
        self._sentences = _counters(
            "ragstone_answer_sentences_total",
            "Sentences of answers; unchecked ones claim nothing.",
            "support",
            SUPPORT.values(),
            registry,
        )
        self._tokens = _counters(
            "ragstone_tokens_total",
            "Tokens that the generator read and wrote, for answers and to rewrite follow-ups.",
            "kind",
            TOKEN_KINDS,
            registry,
        )
        self._answer_cache = _counters(
            "ragstone_answer_cache_lookups_total",
            "Questions looked up in the answer cache, where there is one.",
            "result",
            ("hit", "miss"),
            registry,
        )
        self._documents = _counters(
            "ragstone_ingest_documents_total",
            "Documents by what became of them; retried: the attempt failed, another will come.",
            "outcome",
            DOCUMENT_OUTCOMES,
            registry,
        )

    def watched(
        self, events: Generator[AnswerEvent, None, None], timings: Timings
    ) -> Generator[AnswerEvent, None, None]:
        """The events of an answer, counted and timed; closing it closes them."""
        began, shows_text, outcome = time.perf_counter(), False, "cancelled"
        try:
            with ended(timings.span), closing(events):
                for event in events:
                    if isinstance(event, TextPiece) and not shows_text:
                        shows_text = True
                        self._first_token_seconds.observe(time.perf_counter() - began)
                    elif isinstance(event, Answer):
                        outcome = "abstained" if event.abstained else "answered"
                        self._answered(event, time.perf_counter() - began)
                    yield event
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            self._answers[outcome].inc()
            _observe(self._answer_stages, timings.seconds)

    def searched(self, seconds: float, timings: Mapping[str, float]) -> None:
        """A search without an answer ended."""
        self._search_seconds.observe(seconds)
        _observe(self._search_stages, timings)

    def looked_up(self, *, hit: bool) -> None:
        """The answer cache was asked."""
        self._answer_cache["hit" if hit else "miss"].inc()

    @contextmanager
    def counted(self, stream: TextStream) -> Iterator[TextStream]:
        """A text that no passages go into; its tokens count, however it ends."""
        try:
            yield stream
        finally:
            self._used(stream.usage)

    def document(self, outcome: str) -> None:
        """An attempt at a document ended."""
        self._documents[outcome].inc()

    def ingested(self, timings: Mapping[str, float]) -> None:
        """A document was built, so far as it came."""
        _observe(self._ingest_stages, timings)

    def _answered(self, answer: Answer, seconds: float) -> None:
        self._answer_seconds.observe(seconds)
        if not answer.timings:
            return  # it was given before, and counted then
        self._used(answer.usage)
        for sentence in answer.sentences:
            self._sentences[SUPPORT[sentence.supported]].inc()

    def _used(self, usage: Usage) -> None:
        self._tokens["prompt"].inc(usage.prompt_tokens)
        self._tokens["completion"].inc(usage.completion_tokens)


def _outcome(error: Exception) -> str:
    if isinstance(error, Cancelled):
        return "cancelled"
    if isinstance(error, Overloaded):
        return "overloaded"
    return "rejected" if isinstance(error, InvalidInput | NotFound | Conflict) else "failed"


def _counters(
    name: str, what: str, label: str, values: Iterable[str], registry: CollectorRegistry
) -> dict[str, Counter]:
    family = Counter(name, what, [label], registry=registry)
    return {value: family.labels(value) for value in values}


def _stages(
    name: str, what: str, stages: Iterable[str], registry: CollectorRegistry
) -> dict[str, Histogram]:
    family = Histogram(name, what, ["stage"], buckets=SECONDS, registry=registry)
    return {stage: family.labels(stage) for stage in stages}


def _observe(histograms: Mapping[str, Histogram], seconds: Mapping[str, float]) -> None:
    for stage, spent in seconds.items():
        histograms[stage].observe(spent)
