"""Collections: made, dropped, and their pipeline: what their vectors were made with."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rag import choices
from rag.catalog import Collection
from rag.embed import Embedder
from rag.errors import Conflict, InvalidInput, NotFound, RagError
from rag.parse import PARSER
from rag.parts import Parts
from rag.settings import Settings
from rag.sources import Source
from rag.split import SPLITTER
from rag.store import Index, bm25
from rag.types import Scope

log = logging.getLogger(__name__)

BEFORE_TUNING = "before_tuning"  # the choices that tuning replaced, to go back to
SETTINGS = {"bm25_language", choices.PRIVATE, BEFORE_TUNING, *choices.NAMES}


def create(
    parts: Parts,
    scope: Scope,
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    system_prompt: str = "",
    answer_language: str = "",
) -> Collection:
    """A new, empty collection for the models that are configured. Raises Conflict."""
    check_settings(settings or {})
    made = parts.catalog.create_collection(
        scope,
        name,
        pipeline(parts.settings, parts.embedder),
        settings=settings,
        system_prompt=system_prompt,
        answer_language=answer_language,
    )
    try:
        parts.store.create(index_of(made))
    except RagError:
        # Unless somebody found it meanwhile, and was promised that a document will be in it.
        parts.catalog.delete_collection(scope, name, only_unused=True)
        raise
    return made


def ensure(parts: Parts, scope: Scope, name: str) -> Collection:
    """The collection of that name, made if there is none."""
    try:
        found = parts.catalog.collection(scope, name)
    except NotFound:
        pass
    else:
        parts.store.create(index_of(found))  # a crash may have come between row and vectors
        return found
    try:
        return create(parts, scope, name)
    except Conflict:  # another process was faster
        return parts.catalog.collection(scope, name)


def update(
    parts: Parts,
    scope: Scope,
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    system_prompt: str | None = None,
    answer_language: str | None = None,
) -> Collection:
    """Change what is given; a setting that is None goes back to its default.

    Raises Conflict for another BM25 language once there are chunks: their terms are in the old one.
    """
    found = parts.catalog.collection(scope, name)
    merged = {k: v for k, v in {**found.settings, **(settings or {})}.items() if v is not None}
    check_settings(merged)
    changed = replace(found, settings=merged)
    if found.chunks and index_of(changed) != index_of(found):
        raise Conflict(
            f"Collection {name!r} holds documents, their BM25 terms are"
            f" {index_of(found).language}.",
            hint="Make a new collection with the other language and ingest there.",
        )
    return parts.catalog.update_collection(
        scope, name, settings=merged, system_prompt=system_prompt, answer_language=answer_language
    )


def drop(parts: Parts, scope: Scope, name: str) -> None:
    """Delete a collection with all that it holds, effective at once. Raises NotFound.

    When the store does not answer, the next sweep drops its vectors.
    """
    parts.catalog.delete_collection(scope, name)
    try:
        drop_vectors(parts)
    except RagError as error:
        log.warning("vectors of %r are not searched any more, but not deleted yet: %s", name, error)


def drop_vectors(parts: Parts) -> None:
    """Drop the vectors of deleted collections, unless a backup still reads them."""
    for physical in parts.catalog.vectors_to_drop():
        parts.store.drop_physical(physical)
        parts.catalog.vectors_dropped(physical)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a collection setting that does not exist or has a wrong value."""
    unknown = sorted(set(settings) - SETTINGS)
    if unknown:
        raise InvalidInput(
            f"A collection has no setting {', '.join(unknown)}.",
            hint=f"There are: {', '.join(sorted(SETTINGS))}.",
        )
    if not isinstance(settings.get(choices.PRIVATE, False), bool):
        raise InvalidInput(f"{choices.PRIVATE} must be true or false.")
    choices.check_choices(settings)
    before = settings.get(BEFORE_TUNING, {})
    if not isinstance(before, Mapping) or not set(before) <= choices.NAMES:
        raise InvalidInput(f"{BEFORE_TUNING} holds choices by their names.")
    choices.check_choices(before)
    bm25(str(settings.get("bm25_language", "english")))


def pipeline(settings: Settings, embedder: Embedder) -> dict[str, Any]:
    """The fingerprint of a collection that is made now."""
    return {
        "embedder": embedder.fingerprint,
        "dim": embedder.dim,
        "chunk_tokens": min(settings.chunk_tokens, embedder.max_tokens),
        "chunk_overlap": settings.chunk_overlap,
    }


def index_of(collection: Collection) -> Index:
    """The collection's place in the store."""
    language = collection.settings.get("bm25_language", "english")
    return Index(collection.physical, collection.pipeline["dim"], language)


def split_options(
    parts: Parts, collection: Collection, source: Source, generation: int
) -> dict[str, Any]:
    """How `split_document` cuts for this collection: its own sizes, not today's settings."""
    embedder = parts.embedder_for(collection)
    return {
        "document_id": source.document_id,
        "generation": generation,
        "tokenizer": embedder.tokenizer,
        "chunk_tokens": collection.pipeline["chunk_tokens"],
        "overlap": collection.pipeline["chunk_overlap"],
        "instruction": embedder.preset.passage_instruction,
        "source": source.origin,
        "metadata": source.metadata,
    }


def source_fingerprint(source: Source, content_hash: str) -> str:
    """Everything that a document is made from; the same again means no work."""
    made_from: Mapping[str, Any] = {
        "content": content_hash,
        "origin": source.origin,
        "title": source.title,
        "media_type": source.media_type,
        "metadata": dict(source.metadata),
        "text": source.is_text,
        "parser": PARSER,
        "splitter": SPLITTER,
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
