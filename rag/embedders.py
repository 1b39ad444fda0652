"""The embedder of each collection: the one that it was built with, whatever is configured now.

The configured embedder is what new collections get. A collection that was built with another model
(before the setting was changed, or because it was migrated) is served by that one, loaded on first
use; a few such models are kept in memory, the latest used.
"""

import json
import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rag.catalog import Collection
from rag.embed import Embedder
from rag.errors import ModelUnavailable, PipelineMismatch, RagError
from rag.rerank import LateInteractionReranker

log = logging.getLogger(__name__)

Fingerprint = Mapping[str, Any]
REFUSED_SECONDS = 10.0  # how long a model that could not be loaded is not tried again


class Load(Protocol):
    """Loads a model by its id. Raises ModelUnavailable."""

    def __call__(
        self, model_id: str, *, revision: str | None = None, quantised: bool | None = None
    ) -> Embedder:
        """`revision` is a commit of the hub, None the files that are there; `quantised` whether to
        int8, None as it is configured.
        """


class Served:
    """An embedder beside the configured one. Its memory goes when nobody holds it any more."""

    def __init__(self, embedder: Embedder, *, blend: float) -> None:
        self.embedder = embedder
        self._blend = blend
        self._late_interaction: LateInteractionReranker | None = None
        self._guard = threading.Lock()
        # Whoever still asks it something keeps it, though it is not kept here any more.
        self.close = weakref.finalize(embedder, embedder.encoder.close)

    @property
    def late_interaction(self) -> LateInteractionReranker:
        """Late interaction over its token vectors."""
        with self._guard:
            if self._late_interaction is None:
                made = LateInteractionReranker(self.embedder, blend=self._blend)
                made.token_vectors(["ready"])  # compiles the graph that gives them
                self._late_interaction = made
            return self._late_interaction


class OtherEmbedders:
    """Embedders beside the configured one, by fingerprint; `most` are kept. Thread-safe."""

    def __init__(
        self,
        load: Load,
        *,
        most: int,
        blend: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._most = most
        self._blend = blend
        self._clock = clock
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._refused: dict[str, tuple[float, RagError]] = {}
        self._guard = threading.Lock()
        self._loading = threading.Lock()  # one at a time: each takes memory and all cores

    def of(self, collection: Collection) -> Served:
        """The one that a collection was built with. Raises ModelUnavailable, PipelineMismatch."""
        built: Fingerprint = collection.pipeline["embedder"]
        if (kept := self._find(built)) is not None:
            return kept
        with self._loading:
            if (kept := self._find(built)) is not None:
                return kept
            self._check_refused(built)
            log.info("loading %s, which a collection was built with", built["id"])
            try:
                return self._keep(self._load_exactly(built, collection))
            except RagError as error:
                self._refused[_key(built)] = (self._clock(), error)
                raise

    def named(self, model_id: str) -> Served:
        """The one that this id stands for today. Raises ModelUnavailable, InvalidInput."""
        with self._loading:
            loaded = self._load(model_id)
            if (kept := self._find(loaded.fingerprint)) is not None:
                loaded.close()
                return kept
            return self._keep(loaded)

    def close(self) -> None:
        """Let all of them go."""
        with self._guard:
            kept = list(self._kept.values())
            self._kept.clear()
        for served in kept:
            served.close()

    def _find(self, built: Fingerprint) -> Served | None:
        with self._guard:
            kept = self._kept.get(_key(built))
            if kept is not None:
                self._kept.move_to_end(_key(built))
            return kept

    def _keep(self, loaded: Embedder) -> Served:
        served = Served(loaded, blend=self._blend)
        with self._guard:
            self._kept[_key(loaded.fingerprint)] = served
            while len(self._kept) > self._most:
                _, oldest = self._kept.popitem(last=False)
                log.info("%s is not kept in memory any more", oldest.embedder.id)
        return served

    def _check_refused(self, built: Fingerprint) -> None:
        """Loading takes seconds: what failed just now is not tried for every question."""
        since, error = self._refused.get(_key(built), (float("-inf"), None))
        if error is not None and self._clock() - since < REFUSED_SECONDS:
            raise type(error)(error.message, hint=error.hint)

    def _load_exactly(self, built: Fingerprint, collection: Collection) -> Embedder:
        name, quantised = str(built["id"]), built.get("quantised") == "int8"
        loaded = self._load(name, quantised=quantised)
        if loaded.revision != built["revision"]:
            # The hub has a newer one by now. (A folder's revision is its content: it has no other.)
            try:
                older = self._load(name, revision=str(built["revision"]), quantised=quantised)
            except ModelUnavailable:
                pass  # the mismatch says more
            else:
                loaded.close()
                loaded = older
        if loaded.fingerprint != built:
            error = mismatch(collection, loaded)
            loaded.close()
            raise error
        return loaded


def mismatch(collection: Collection, found: Embedder) -> PipelineMismatch:
    """The error for a model that is not the one that a collection's vectors were made with."""
    built, now = collection.pipeline["embedder"], found.fingerprint
    differs = ", ".join(sorted(k for k in {*built, *now} if built.get(k) != now.get(k)))
    name, aside = collection.name, collection.build_for is not None
    what = "The index that is kept aside" if aside else f"Collection {name!r}"
    way_out = (
        "drop that index with `rag migrate COLLECTION --drop`."
        if aside
        else f"run `rag migrate {name} --to {found.id}`, which builds the collection anew from its"
        " stored texts."
    )
    return PipelineMismatch(
        f"{what} was built with {built['id']}, and the model of that name now is another one (they"
        f" differ in {differs}): their vectors do not compare.",
        hint=f"Bring the old model back, or {way_out}",
    )


def _key(fingerprint: Fingerprint) -> str:
    return json.dumps(dict(fingerprint), sort_keys=True)
