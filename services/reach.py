"""A data folder as the command line reaches it: opened in the process, or by its server.

Either way the answers are those of the API.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

from rag import collection as shelf
from rag.errors import DataFolderBusy, InvalidInput
from rag.orchestrator import Orchestrator
from rag.parts import open_parts
from rag.prove import delete_proved
from rag.replay import replay
from rag.sampling import Sampling
from rag.settings import Settings
from rag.types import Answer, Scope
from services import running
from services.client import Client, path_of
from services.events import EVENTS, AnswerWire, wire
from services.schemas import (
    AskResponse,
    CollectionOut,
    Deleted,
    DocumentOut,
    ProofOut,
    SearchResponse,
)
from services.trace_words import TraceOut, TraceRowOut


class Reach(Protocol):
    """What commands that read ask for."""

    def collections(self) -> list[CollectionOut]:
        """Every collection, by name."""

    def documents(self, collection: str) -> Iterator[DocumentOut]:
        """Every document of a collection, by id."""

    def delete(self, document_id: str, collection: str) -> None:
        """Delete a document. Raises NotFound."""

    def delete_proved(self, document_id: str, collection: str) -> ProofOut:
        """Delete a document, and count what is left of it. Raises NotFound."""

    def delete_matching(
        self, where: dict[str, Any], collection: str, *, dry_run: bool
    ) -> list[str]:
        """Delete the documents that a filter picks, or only name them. Returns their ids."""

    def drop(self, collection: str) -> None:
        """Delete a whole collection. Raises NotFound."""

    def search(self, question: str, **options: Any) -> SearchResponse:  # noqa: ANN401
        """The best hits; the options are those of `Orchestrator.search`."""

    def ask(
        self,
        question: str,
        *,
        sampling: Sampling,
        **options: Any,  # noqa: ANN401
    ) -> Iterator[AnswerWire]:
        """The answer in the making; the last event is all of it."""

    def traces(self, collection: str | None, limit: int) -> list[TraceRowOut]:
        """The newest traces."""

    def trace(self, trace_id: str) -> TraceOut:
        """How an answer came about. Raises NotFound."""

    def replay(self, trace_id: str, changes: Mapping[str, Any]) -> AskResponse:
        """A trace's question asked again, with changes."""

    def refuse_settings(self, names: Sequence[str]) -> None:
        """Raise InvalidInput where settings of the process cannot be changed for a command."""


def open_or_find(settings: Settings) -> Orchestrator | str:
    """The data folder, opened, or the URL of the server that has it open.

    Raises DataFolderBusy when something else has.
    """
    try:
        return Orchestrator(open_parts(settings), Scope(settings.tenant))
    except DataFolderBusy:
        if (url := running.find(settings.data)) is None:
            raise
        return url


def client_of(url: str, settings: Settings) -> Client:
    """A client of the server that has the data folder open."""
    find_again = partial(running.find, settings.data)
    return Client(
        url,
        patience=settings.client_patience,
        api_key=settings.api_key,
        find=find_again,
        verify=running.trusted(settings.data, url),
    )


@contextmanager
def reached(settings: Settings) -> Iterator[Reach]:
    """What a command asks, of whoever has the data folder open. Raises DataFolderBusy."""
    found = open_or_find(settings)
    if isinstance(found, str):
        with client_of(found, settings) as client:
            yield ByServer(client)
    else:
        with found:
            yield InPlace(found)


class InPlace:
    """Asks in this process."""

    def __init__(self, rag: Orchestrator) -> None:
        self._rag = rag

    def collections(self) -> list[CollectionOut]:
        """From the catalog."""
        return [CollectionOut.of(c) for c in self._rag.parts.catalog.collections(self._rag.scope)]

    def documents(self, collection: str) -> Iterator[DocumentOut]:
        """From the catalog, page by page."""
        after = ""
        while page := self._rag.parts.catalog.documents(self._rag.scope, collection, after=after):
            yield from map(DocumentOut.of, page)
            after = page[-1].id

    def delete(self, document_id: str, collection: str) -> None:
        """Gone with its points."""
        self._rag.delete(document_id, collection=collection)

    def delete_proved(self, document_id: str, collection: str) -> ProofOut:
        """Counted in this process's stores."""
        parts, scope = self._rag.parts, self._rag.scope
        return ProofOut.of(delete_proved(parts, scope, collection, document_id))

    def delete_matching(
        self, where: dict[str, Any], collection: str, *, dry_run: bool
    ) -> list[str]:
        """In one transaction, and their points behind it."""
        return self._rag.delete_matching(where, collection=collection, dry_run=dry_run)

    def drop(self, collection: str) -> None:
        """With its vectors."""
        shelf.drop(self._rag.parts, self._rag.scope, collection)

    def search(self, question: str, **options: Any) -> SearchResponse:  # noqa: ANN401
        """With the models of this process."""
        return SearchResponse.of(self._rag.search(question, **options))

    def ask(
        self,
        question: str,
        *,
        sampling: Sampling,
        **options: Any,  # noqa: ANN401
    ) -> Iterator[AnswerWire]:
        """With the models of this process."""
        return map(wire, self._rag.stream(question, sampling=sampling, **options))

    def traces(self, collection: str | None, limit: int) -> list[TraceRowOut]:
        """From the catalog."""
        found = self._rag.parts.traces.rows(self._rag.scope, collection=collection, limit=limit)
        return [TraceRowOut.of(row) for row in found]

    def trace(self, trace_id: str) -> TraceOut:
        """From the catalog."""
        return TraceOut.of(self._rag.parts.traces.trace(self._rag.scope, trace_id))

    def replay(self, trace_id: str, changes: Mapping[str, Any]) -> AskResponse:
        """With the models of this process."""
        asked = self._rag.parts.traces.trace(self._rag.scope, trace_id).asked
        *_, answer = replay(self._rag, asked, changes)
        assert isinstance(answer, Answer)
        return AskResponse.of(answer)

    def refuse_settings(self, names: Sequence[str]) -> None:
        """The folder can be opened again with others."""


class ByServer:
    """Asks a server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def collections(self) -> list[CollectionOut]:
        """GET /v1/collections."""
        found = self._client.get("/v1/collections")["collections"]
        return [CollectionOut.model_validate(one) for one in found]

    def documents(self, collection: str) -> Iterator[DocumentOut]:
        """GET /v1/documents, page by page."""
        listed = self._client.pages("/v1/documents", "documents", collection=collection)
        return map(DocumentOut.model_validate, listed)

    def delete(self, document_id: str, collection: str) -> None:
        """DELETE /v1/documents/{id}."""
        self._client.delete(path_of(document_id), collection=collection)

    def delete_proved(self, document_id: str, collection: str) -> ProofOut:
        """The same with `prove`."""
        found = self._client.delete(path_of(document_id), collection=collection, prove=True)
        return ProofOut.model_validate(found)

    def delete_matching(
        self, where: dict[str, Any], collection: str, *, dry_run: bool
    ) -> list[str]:
        """DELETE /v1/documents."""
        picked: dict[str, str | bool] = {"filter": json.dumps(where), "dry_run": dry_run}
        found = self._client.delete("/v1/documents", collection=collection, **picked)
        return Deleted.model_validate(found).documents

    def drop(self, collection: str) -> None:
        """DELETE /v1/collections/{name}."""
        self._client.delete(f"/v1/collections/{quote(collection, safe='')}")

    def search(self, question: str, **options: Any) -> SearchResponse:  # noqa: ANN401
        """POST /v1/search."""
        found = self._client.post("/v1/search", {"query": question, **options})
        return SearchResponse.model_validate(found)

    def ask(
        self,
        question: str,
        *,
        sampling: Sampling,
        **options: Any,  # noqa: ANN401
    ) -> Iterator[AnswerWire]:
        """POST /v1/ask, as a stream."""
        drawn = {name: value for name, value in asdict(sampling).items() if value is not None}
        body = {"question": question, **options, **drawn, "stop": list(sampling.stop)}
        for name, data in self._client.stream("/v1/ask", {**body, "stream": True}):
            yield EVENTS[name].model_validate(data)

    def traces(self, collection: str | None, limit: int) -> list[TraceRowOut]:
        """GET /v1/traces."""
        of = {} if collection is None else {"collection": collection}
        found = self._client.get("/v1/traces", limit=limit, **of)["traces"]
        return [TraceRowOut.model_validate(row) for row in found]

    def trace(self, trace_id: str) -> TraceOut:
        """GET /v1/traces/{id}."""
        return TraceOut.model_validate(self._client.get(_trace_path(trace_id)))

    def replay(self, trace_id: str, changes: Mapping[str, Any]) -> AskResponse:
        """POST /v1/traces/{id}/replay."""
        found = self._client.post(f"{_trace_path(trace_id)}/replay", {"with": dict(changes)})
        return AskResponse.model_validate(found)

    def refuse_settings(self, names: Sequence[str]) -> None:
        """The server's are what it was started with."""
        raise InvalidInput(
            f"{', '.join(names)} cannot be changed for one question while the server at"
            f" {self._client.url} has the data folder open.",
            hint="Stop it first, or start it with that setting.",
        )


def _trace_path(trace_id: str) -> str:
    return f"/v1/traces/{quote(trace_id, safe='')}"
