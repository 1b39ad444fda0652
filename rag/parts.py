"""What is built once for a process and shared by every call: stores and models.

Models load on first use, each once, whoever asks first: `rag ls` needs none, ingesting no LM.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast

from rag import unfinished
from rag.answer_cache import AnswerCache, asks_the_same
from rag.audit import Audit
from rag.builds import Builds
from rag.catalog import Catalog, Collection
from rag.check import Checker, by_logits, by_token_vectors, calibration_of
from rag.database import Database
from rag.embed import Embedder, load_embedder
from rag.embedders import OtherEmbedders, Served, mismatch
from rag.errors import ModelUnavailable
from rag.generate import Generator, LanguageModelGenerator
from rag.journal import Journal
from rag.keys import Keys
from rag.metrics import Metrics
from rag.models.cpu import Cpu, PrecisionChoice
from rag.models.crowd import Crowd
from rag.models.encoders import Queueing
from rag.models.engine import Engines, Generation, open_causal_lm, open_cross_encoder
from rag.models.load import resolve
from rag.models.parity import Thresholds
from rag.objects import Objects, ObjectStore
from rag.parse.child import Limits, ParserPool
from rag.quote import QuoteGenerator
from rag.rerank import CrossEncoderReranker, Frequencies, LateInteractionReranker, Reranker
from rag.retrieve import LiveGenerations
from rag.score_cache import ScoreCache
from rag.settings import LATE_INTERACTION, NO_RERANKER, QUOTE, Settings
from rag.spans import SILENT, Spans
from rag.store import VectorStore
from rag.traces import Traces
from rag.types import Scope

ModelName = Literal["embedder", "reranker", "generator"]

_T = TypeVar("_T")
_C = TypeVar("_C", bound="Closable")


class Closable(Protocol):
    """A model that holds threads and memory."""

    def close(self) -> None:
        """Finish what was accepted, then let them go."""


@dataclass(slots=True)
class Parts:
    """Stores and lazily loaded models. Thread-safe."""

    settings: Settings
    database: Database
    catalog: Catalog
    journal: Journal
    store: VectorStore
    objects: Objects
    _loaded: dict[str, Any] = field(default_factory=dict)
    _models: list[Closable] = field(default_factory=list, init=False)  # loaded here, in that order
    _loading: dict[str, threading.RLock] = field(default_factory=dict, init=False)
    _guard: threading.Lock = field(default_factory=threading.Lock, init=False)
    crowd: Crowd = field(default_factory=Crowd, init=False)  # who asks them
    answers: AnswerCache = field(init=False)
    metrics: Metrics = field(default_factory=Metrics, init=False)
    spans: Spans = field(default=SILENT, init=False)

    def __post_init__(self) -> None:
        self.answers = AnswerCache(self.settings.answer_cache)

    @property
    def alone(self) -> bool:
        """Whether no other process can work on the same data: the folder's lock sees to it."""
        return self.settings.qdrant_url is None and self.settings.database_url is None

    @property
    def embedder(self) -> Embedder:
        """The embedder. Raises ModelUnavailable."""
        return self._once("embedder", self._load_embedder)

    @property
    def reranker(self) -> Reranker | None:
        """The reranker, None where the settings say `none`. Raises ModelUnavailable."""
        return self._once("reranker", self._load_reranker)

    @property
    def generator(self) -> Generator:
        """The generator. Raises ModelUnavailable."""
        return self._once("generator", self._load_generator)

    @property
    def late_interaction(self) -> LateInteractionReranker:
        """Late interaction over the embedder's token vectors, which needs nothing more."""
        return self._once("late interaction", self._load_late_interaction)

    @property
    def parsers(self) -> ParserPool:
        """The child processes that parse files."""
        return self._once("parsers", self._load_parsers)

    @property
    def traces(self) -> Traces:
        """How answers came about."""
        return Traces(self.database, self.catalog)

    @property
    def keys(self) -> Keys:
        """By which callers are known."""
        return Keys(self.database)

    @property
    def audit(self) -> Audit:
        """Who wrote what."""
        return Audit(self.database)

    @property
    def builds(self) -> Builds:
        """Indexes that are built aside."""
        return Builds(self.database, self.catalog)

    # Each collection is served by the embedder that it was built with.

    def embedder_for(self, collection: Collection) -> Embedder:
        """The embedder of a collection. Raises ModelUnavailable, PipelineMismatch."""
        other = self._other_for(collection)
        return self.embedder if other is None else other.embedder

    def late_interaction_for(self, collection: Collection) -> LateInteractionReranker:
        """Late interaction over the token vectors of a collection's embedder."""
        other = self._other_for(collection)
        return self.late_interaction if other is None else other.late_interaction

    def reranker_for(self, collection: Collection) -> Reranker | None:
        """The reranker as a collection needs it: late interaction is its own embedder's."""
        if self.settings.models.reranker != LATE_INTERACTION:
            return self.reranker
        other = self._other_for(collection)
        return self.reranker if other is None else other.late_interaction

    def generator_for(self, collection: Collection) -> Generator:
        """The generator as a collection needs it: quotes are found by its own embedder."""
        if self.settings.models.generator != QUOTE:
            return self.generator
        other = self._other_for(collection)
        if other is None:
            return self.generator
        return QuoteGenerator(other.late_interaction, most=self.settings.quote_sentences)

    def checker_for(self, collection: Collection) -> Checker:
        """What checks citations: by what a calibration was fitted for, else by words alone."""
        reranker, built = self.reranker_for(collection), collection.pipeline["embedder"]["id"]
        if isinstance(reranker, CrossEncoderReranker) and (fitted := calibration_of(reranker.id)):
            frequencies = self.frequencies(Scope(collection.tenant), collection)
            logits = partial(reranker.relevance, frequencies=frequencies)
            return Checker(
                by_logits(logits), fitted, f"{reranker.id}, fitted on {fitted.fitted_on}"
            )
        name = f"{built} / {LATE_INTERACTION}"
        if self._gives_tokens(collection) and (fitted := calibration_of(name)):
            late_interaction = self.late_interaction_for(collection)
            meaning = by_token_vectors(late_interaction.token_vectors)
            return Checker(meaning, fitted, f"{name}, fitted on {fitted.fitted_on}")
        return Checker.by_words(f", uncalibrated for {built}")

    def same_question_for(self, collection: Collection) -> Callable[[str, str], bool]:
        """What tells whether two questions ask the same of a collection.

        Without token vectors nothing does: then only the same words are the same question.
        """
        if not self._gives_tokens(collection):
            return lambda *_: False
        meaning = by_token_vectors(self.late_interaction_for(collection).token_vectors)
        reranker = self.reranker_for(collection)
        if not isinstance(reranker, CrossEncoderReranker):
            return asks_the_same(meaning)
        frequencies = self.frequencies(Scope(collection.tenant), collection)
        return asks_the_same(
            meaning, lambda a, b: float(reranker.relevance(a, [b], frequencies)[0])
        )

    def _gives_tokens(self, collection: Collection) -> bool:
        """Whether a collection's embedder gives token vectors: on a server it does not."""
        served = bool(self.settings.embedder_url)
        return not served or collection.pipeline["embedder"]["id"] != self.settings.models.embedder

    def embedder_named(self, model_id: str) -> Embedder:
        """The embedder that an id stands for today. Raises ModelUnavailable, InvalidInput."""
        if model_id == self.settings.models.embedder:
            return self.embedder
        return self._others.named(model_id).embedder

    def _other_for(self, collection: Collection) -> Served | None:
        """What serves a collection in place of the configured embedder; None where that fits."""
        built = collection.pipeline["embedder"]
        if built["id"] != self.settings.models.embedder:
            return self._others.of(collection)
        if self.embedder.fingerprint == built:
            return None
        try:
            return self._others.of(collection)
        except ModelUnavailable:  # it is on another server, and only there
            raise mismatch(collection, self.embedder) from None

    @property
    def _others(self) -> OtherEmbedders:
        def make() -> OtherEmbedders:
            settings = self.settings
            return self._own(
                OtherEmbedders(
                    self._load_other, most=settings.embedders_kept, blend=settings.rerank_blend
                )
            )

        return self._once("other embedders", make)

    def frequencies(self, scope: Scope, collection: Collection) -> Frequencies:
        """Looks up in how many chunks of a collection tokens occur."""
        return partial(self.catalog.token_document_frequencies, scope, collection)

    def live_generations(self, scope: Scope, collection: Collection) -> LiveGenerations:
        """Looks up which generations of documents are the live ones."""
        return partial(self.catalog.live_generations, scope, collection)

    def loaded_rerankers(self) -> list[Reranker]:
        """Those that are loaded, which keep what they computed of passages."""
        kinds = (CrossEncoderReranker, LateInteractionReranker)
        found = {id(one): one for one in tuple(self._loaded.values()) if isinstance(one, kinds)}
        return list(found.values())

    def loaded_models(self) -> dict[ModelName, object]:
        """Those that are loaded, of the configured ones."""
        names: tuple[ModelName, ...] = ("embedder", "reranker", "generator")
        loaded = dict(self._loaded)  # others load, or close, meanwhile
        return {name: loaded[name] for name in names if name in loaded}

    def close(self) -> None:
        """Release models, files and connections."""
        with self._guard:
            for model in reversed(self._models):
                model.close()
            self._models.clear()
            self._loaded.clear()
            self.store.close()
            self.database.close()

    def _once(self, name: str, load: Callable[[], _T]) -> _T:
        with self._guard:
            lock = self._loading.setdefault(name, threading.RLock())
        # One lock per model: whoever needs the embedder does not wait for the LM to be converted.
        with lock:
            if name not in self._loaded:
                self._loaded[name] = load()
            return cast(_T, self._loaded[name])

    def _own(self, model: _C) -> _C:
        self._models.append(model)
        return model

    def _load_parsers(self) -> ParserPool:
        processes = self.settings.parse_processes
        return self._own(ParserPool(parse_limits(self.settings), processes=processes))

    def _load_embedder(self) -> Embedder:
        if url := self.settings.embedder_url:
            from rag.models.remote import remote_embedder, remote_limits

            name, key = self.settings.models.embedder, self.settings.embedder_api_key
            limits = remote_limits(self.settings)
            return self._own(remote_embedder(name, url, api_key=key, limits=limits))
        engines = engines_of(self.settings, self.settings.embedder_precision, self.crowd)
        return self._own(load_embedder(self.settings.models.embedder, engines=engines))

    def _load_other(
        self, model_id: str, *, revision: str | None = None, quantised: bool | None = None
    ) -> Embedder:
        """A model in this process, in the precision that its collection needs."""
        precision: PrecisionChoice = self.settings.embedder_precision
        if quantised:
            precision = "int8"
        elif quantised is False and precision == "int8":
            precision = "auto"
        engines = engines_of(self.settings, precision, self.crowd)
        return load_embedder(model_id, revision=revision, engines=engines)

    def _load_late_interaction(self) -> LateInteractionReranker:
        late_interaction = LateInteractionReranker(self.embedder, blend=self.settings.rerank_blend)
        late_interaction.token_vectors(["ready"])  # compiles the graph that gives them
        return late_interaction

    def _load_reranker(self) -> Reranker | None:
        name = self.settings.models.reranker
        if name == NO_RERANKER:
            return None
        if name == LATE_INTERACTION:
            return self.late_interaction
        scores = ScoreCache(self.settings.rerank_cache)
        if url := self.settings.reranker_url:
            from rag.models.remote import remote_cross_encoder, remote_limits

            key, limits = self.settings.reranker_api_key, remote_limits(self.settings)
            served = self._own(remote_cross_encoder(name, url, api_key=key, limits=limits))
            return CrossEncoderReranker(name, served, revision=served.revision, cache=scores)
        engines = engines_of(self.settings, self.settings.reranker_precision, self.crowd)
        files = resolve(name)
        model = self._own(open_cross_encoder(files, engines))
        return CrossEncoderReranker(name, model, revision=files.revision, cache=scores)

    def _load_generator(self) -> Generator:
        name = self.settings.models.generator
        if name == QUOTE:
            return QuoteGenerator(self.late_interaction, most=self.settings.quote_sentences)
        if url := self.settings.generator_url:
            from rag.models.remote import remote_causal_lm, remote_limits

            served = self._own(
                remote_causal_lm(
                    name,
                    url,
                    api_key=self.settings.generator_api_key,
                    limits=remote_limits(self.settings),
                    dialect=self.settings.generator_dialect,
                    context_window=self.settings.generator_context_window,
                )
            )
            default = self.settings.default_new_tokens
            return LanguageModelGenerator(served, default_new_tokens=default)
        settings = self.settings
        engines = engines_of(settings, settings.generator_precision, self.crowd)
        options = Generation(
            settings.kv_cache_mb,
            settings.generations_waiting,
            settings.parity_lm_tokens,
            settings.generator_patience_ms / 1000,
        )
        model = self._own(open_causal_lm(resolve(name), engines, options))
        return LanguageModelGenerator(model, default_new_tokens=self.settings.default_new_tokens)


def parse_limits(settings: Settings) -> Limits:
    """What parsing one document may take."""
    return Limits(
        file_bytes=settings.max_file_bytes,
        memory_mb=settings.parse_memory_mb,
        cpu_seconds=settings.parse_cpu_seconds,
        wall_seconds=settings.parse_wall_seconds,
        output_mb=settings.parse_output_mb,
        reuse=settings.parse_reuse,
    )


def engines_of(
    settings: Settings, precision: PrecisionChoice = "auto", crowd: Crowd | None = None
) -> Engines:
    """Where the settings want models to run. Those that share a CPU share a crowd."""
    thresholds = Thresholds(
        cosine=settings.parity_cosine,
        cosine_int8=settings.parity_cosine_int8,
        rank=settings.parity_rank,
        logit=settings.parity_logit,
    )
    return Engines(
        name=settings.engine,
        device=None if settings.device == "auto" else settings.device,
        cpu=Cpu(settings.cache, precision, settings.threads, thresholds),
        queueing=Queueing(settings.model_queue, settings.ingest_batch_ms / 1000, crowd or Crowd()),
    )


def open_parts(settings: Settings) -> Parts:
    """Open catalog and stores.

    Raises StoreUnreachable, DataFolderBusy, StorageFull, and Conflict for a data folder into which
    a restore did not end.
    """
    unfinished.check(settings.data)
    store = open_store(settings)
    try:
        unfinished.check(settings.data)  # a restore has not begun since, and now it cannot
        parts = assembled(settings, Database.open(settings.catalog_url), store)
        if parts.alone:
            parts.catalog.release_holds()  # of a backup that was killed
    except BaseException:
        store.close()
        raise
    return parts


def assembled(settings: Settings, database: Database, store: VectorStore) -> Parts:
    """Parts over a catalog and a store that are open. Raises InvalidInput, MissingExtra."""
    objects = open_objects(settings)
    catalog = Catalog(database, drop_object=objects.delete)
    return Parts(settings, database, catalog, Journal(database, catalog), store, objects)


def open_objects(settings: Settings) -> Objects:
    """Where the settings want originals and parsed texts. Raises InvalidInput, MissingExtra."""
    if not settings.objects_url:
        return ObjectStore(settings.data / "objects")
    from rag.bucket import open_bucket

    return open_bucket(settings.objects_url, settings.objects_options)


def open_store(settings: Settings) -> VectorStore:
    """The vector store of the settings."""
    if settings.qdrant_url is None:
        from rag.store.edge import EdgeStore

        return EdgeStore(
            settings.data / "vectors",
            min_free_bytes=settings.min_free_bytes,
            most_open=settings.open_collections,
        )
    from rag.store.server import connect

    key = settings.qdrant_api_key
    return connect(
        settings.qdrant_url,
        api_key=key.get_secret_value() if key else None,
        grpc_port=settings.qdrant_grpc_port if settings.qdrant_grpc else None,
        timeout=settings.qdrant_timeout,
        ca_file=str(settings.qdrant_ca_file) if settings.qdrant_ca_file else None,
    )
