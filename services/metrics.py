"""`GET /metrics`: what Prometheus reads, in its text formats.

Instruments that count live in `rag/metrics.py` and `services/requests.py`; what is merely looked at
(queues, pools, the disk, the catalog's tasks) is read here when somebody asks.
"""

import logging
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from fastapi import APIRouter, Request
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import Response

from rag import __version__
from rag.embed import Embedder
from rag.generate import LanguageModelGenerator
from rag.journal import State
from rag.models.batching import BatchStats
from rag.models.encoders import LocalCrossEncoder, LocalEncoder
from rag.models.lm import Load
from rag.parts import ModelName, Parts
from rag.rerank import CrossEncoderReranker
from services.auth import caller_of
from services.threads import Pool

if TYPE_CHECKING:
    from services.service import Service

log = logging.getLogger(__name__)

T = TypeVar("T")

CATALOG_SECONDS = 2.0  # a scrape does not wait longer for a database that does not answer

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Everything that is measured; it answers whatever else does not.

    With keys it takes one of role operator.
    """
    caller_of(request.scope["state"]).needs("operate")
    service: Service = request.app.state.service
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    body = await service.scrapes.run(partial(encode, service.measured))
    return Response(body, headers={"Content-Type": content_type})


class Measured:
    """All that one application measures: its requests, its answers, and what is looked at here."""

    def __init__(self, service: "Service") -> None:
        parts = service.parts
        pools = {"answers": service.answers, "calls": service.calls, "fetches": service.fetches}
        self._process = ProcessCollector(registry=None)
        self._sources = (
            service.requests.registry.collect,
            parts.metrics.registry.collect,
            partial(pool_metrics, pools),
            partial(model_metrics, parts),
            partial(disk_metrics, parts),
            partial(task_metrics, Asked(parts.journal.states)),
            build_metrics,
            self._process.collect,
        )

    def collect(self) -> Iterator[Metric]:
        """Every family, each once."""
        for source in self._sources:
            for family in source():
                # When a series began: a second series for each, which nothing here asks for.
                family.samples = [
                    one for one in family.samples if not one.name.endswith("_created")
                ]
                yield family


class Asked(Generic[T]):
    """The answer to a question that may never come: asked in a thread of its own, one at a time."""

    def __init__(self, question: Callable[[], T]) -> None:
        self._question = question
        self._guard = threading.Lock()
        self._asked: Future[T] | None = None

    def answer(self, seconds: float) -> T | None:
        """The answer, None where it does not come in time or is an error."""
        with self._guard:
            if self._asked is None or self._asked.done():
                self._asked = Future()
                threading.Thread(target=self._ask, args=[self._asked], daemon=True).start()
            asked = self._asked
        try:
            return asked.result(seconds)
        except TimeoutError:
            return None
        except Exception as error:  # noqa: BLE001 - whatever it is, the rest is told
            log.warning("a scrape: %s", error)
            return None

    def _ask(self, asked: Future[T]) -> None:
        try:
            asked.set_result(self._question())
        except Exception as error:  # noqa: BLE001 - it is theirs who asked
            asked.set_exception(error)


def pool_metrics(pools: Mapping[str, Pool]) -> Iterator[Metric]:
    """How full the pools of threads are."""
    running = GaugeMetricFamily(
        "ragstone_pool_running",
        "Calls that run; answers run from the first step on.",
        labels=["pool"],
    )
    waiting = GaugeMetricFamily(
        "ragstone_pool_waiting", "Calls that wait for their turn.", labels=["pool"]
    )
    limit = GaugeMetricFamily(
        "ragstone_pool_limit", "Calls that may run and wait; more get 429.", labels=["pool"]
    )
    for name, pool in pools.items():
        running.add_metric([name], pool.running)
        waiting.add_metric([name], pool.inside - pool.running)
        limit.add_metric([name], pool.most)
    yield from (running, waiting, limit)


def model_metrics(parts: Parts) -> Iterator[Metric]:
    """The queues in front of the models that are loaded, and what was computed for them."""
    loaded = parts.loaded_models()
    queues = {name: stats for name, model in loaded.items() if (stats := stats_of(model))}
    yield from queue_metrics(queues)
    load = load_of(loaded.get("generator")) or Load(0, 0)
    yield GaugeMetricFamily(
        "ragstone_generator_running", "Texts that the language model is writing.", load.running
    )
    yield GaugeMetricFamily(
        "ragstone_generator_waiting", "Texts that wait for the language model.", load.waiting
    )
    lookups = CounterMetricFamily(
        "ragstone_rerank_cache_lookups",
        "Passages that the reranker was given, by whether what it computes of them was kept.",
        labels=["result"],
    )
    counts = [reranker.lookups() for reranker in parts.loaded_rerankers()]
    lookups.add_metric(["hit"], sum(hits for hits, _ in counts))
    lookups.add_metric(["miss"], sum(misses for _, misses in counts))
    yield lookups


def stats_of(model: object) -> BatchStats | None:
    """What the queue in front of a model has seen; None where it has none in this process."""
    if isinstance(model, Embedder) and isinstance(model.encoder, LocalEncoder):
        return model.encoder.batcher.stats
    if isinstance(model, CrossEncoderReranker) and isinstance(model.model, LocalCrossEncoder):
        return model.model.batcher.stats
    return None


def load_of(generator: object) -> Load | None:
    """What a language model of this process has to do; None where there is none."""
    model = generator.model if isinstance(generator, LanguageModelGenerator) else None
    load = getattr(model, "load", None)
    return load if isinstance(load, Load) else None


def queue_metrics(queues: Mapping[ModelName, BatchStats]) -> Iterator[Metric]:
    """A summary for whatever is summed up over rows or batches: its rate is a mean."""
    waiting = GaugeMetricFamily(
        "ragstone_model_waiting", "Requests that wait for a model.", labels=["model"]
    )
    most = GaugeMetricFamily(
        "ragstone_model_batch_tokens_limit",
        "The most tokens that a batch may have, padding included.",
        labels=["model"],
    )
    wait = SummaryMetricFamily(
        "ragstone_model_wait_seconds",
        "Seconds that rows waited until they were in a batch.",
        labels=["model"],
    )
    busy = SummaryMetricFamily(
        "ragstone_model_batch_seconds", "Seconds that batches took.", labels=["model"]
    )
    rows = SummaryMetricFamily("ragstone_model_batch_rows", "Rows of batches.", labels=["model"])
    tokens = SummaryMetricFamily(
        "ragstone_model_batch_tokens", "Tokens of batches, padding included.", labels=["model"]
    )
    padding = CounterMetricFamily(
        "ragstone_model_padding_tokens", "Tokens computed that were padding.", labels=["model"]
    )
    dropped = CounterMetricFamily(
        "ragstone_model_dropped_rows",
        "Rows that nobody waited for any more before they were computed.",
        labels=["model"],
    )
    for name, stats in queues.items():
        waiting.add_metric([name], stats.waiting)
        most.add_metric([name], stats.batch_tokens)
        wait.add_metric([name], count_value=stats.rows, sum_value=stats.wait_seconds)
        busy.add_metric([name], count_value=stats.batches, sum_value=stats.busy_seconds)
        rows.add_metric([name], count_value=stats.batches, sum_value=stats.rows)
        tokens.add_metric([name], count_value=stats.batches, sum_value=stats.padded_tokens)
        padding.add_metric([name], stats.padded_tokens - stats.tokens)
        dropped.add_metric([name], stats.dropped)
    yield from (waiting, most, wait, busy, rows, tokens, padding, dropped)


def disk_metrics(parts: Parts) -> Iterator[Metric]:
    """The room below the data folder."""
    try:
        free = shutil.disk_usage(parts.settings.data).free
    except OSError:  # the folder is gone: /readyz says so
        free = 0
    yield GaugeMetricFamily("ragstone_disk_free_bytes", "Free below the data folder.", free)
    yield GaugeMetricFamily(
        "ragstone_disk_needed_bytes",
        "Nothing is written when less is free.",
        parts.settings.min_free_bytes,
    )


def task_metrics(asked: Asked[dict[State, int]]) -> Iterator[Metric]:
    """The documents that the catalog knows to be on their way; without it, that it is away."""
    states = asked.answer(CATALOG_SECONDS)
    up = GaugeMetricFamily(
        "ragstone_catalog_up", "Whether the catalog answers.", float(bool(states))
    )
    tasks = GaugeMetricFamily(
        "ragstone_ingest_tasks",
        "Documents by the state of their task; those that ended are forgotten after some days.",
        labels=["state"],
    )
    for state, count in (states or {}).items():
        tasks.add_metric([state], count)
    yield from (up, tasks)


def build_metrics() -> Iterator[Metric]:
    """Which version runs."""
    built = GaugeMetricFamily("ragstone_build_info", "Always 1.", labels=["version"])
    built.add_metric([__version__], 1)
    yield built
