"""`rag ingest` on a data folder that a server has open: everything goes through its API."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from rag.collection import source_fingerprint
from rag.errors import Conflict, NotFound
from rag.sources import Source
from rag.types import DocumentReport
from services.client import Client, path_of
from services.destination import Copy, Standing
from services.kinds import class_of

FACE = ("id", "source", "title", "chunks", "tokens", "pages", "characters")
UNDER_WAY = ("receiving", "queued", "running")


class ThroughServer:
    """Sends documents, and follows what the server tells of them."""

    def __init__(self, client: Client, collection: str) -> None:
        self._client = client
        self._collection = collection
        if collection != "default":  # the server makes that one itself
            self._ensure()

    def open_jobs(self) -> dict[str, list[Standing]]:
        """Nothing that concerns a client: the server goes on with it anyway."""
        return {}

    def unchanged(self, source: Source, content_hash: str) -> DocumentReport | None:
        """By the fingerprint, which both sides reckon from the same."""
        try:
            there = self._client.get(path_of(source.document_id), collection=self._collection)
        except NotFound:
            return None
        if there.get("fingerprint") != source_fingerprint(source, content_hash):
            return None
        return DocumentReport(
            status="unchanged",
            truncated_tokens=None,
            warnings=tuple(there["warnings"]),
            **{name: there[name] for name in FACE},
        )

    def submit(self, copies: Sequence[Copy], key: str) -> str:
        """In one request, again and again until it is answered."""
        first = copies[0].source  # the command gives all of them the same metadata and password
        metadata = dict(first.metadata)
        answer = self._client.upload(
            [(copied.source.name, copied.file) for copied in copies],
            sources=[copied.source.origin for copied in copies],
            key=key,
            collection=self._collection,
            **({"metadata": json.dumps(metadata)} if metadata else {}),
            **({"password": first.password} if first.password else {}),
        )
        return str(answer["job_id"])

    def follow(self, job_id: str) -> Iterator[list[Standing]]:
        """From the job's events."""
        for _, job in self._client.events(f"/v1/jobs/{job_id}/events"):
            yield [_standing(document) for document in job["documents"]]

    def sources_below(self, prefix: str) -> list[tuple[str, str]]:
        """Out of the list of all documents."""
        listed = self._client.pages("/v1/documents", "documents", collection=self._collection)
        with suppress(NotFound):  # the collection is made with its first document
            return [(d["id"], d["source"]) for d in listed if d["source"].startswith(prefix)]
        return []

    def delete(self, document_id: str) -> None:
        """Effective when it returns."""
        self._client.delete(path_of(document_id), collection=self._collection)

    def _ensure(self) -> None:
        try:
            self._client.get(f"/v1/collections/{quote(self._collection, safe='')}")
        except NotFound:
            with suppress(Conflict):  # somebody was faster
                self._client.post("/v1/collections", {"name": self._collection})


def _standing(sent: Mapping[str, Any]) -> Standing:
    waits = sent["status"] == "queued"
    return Standing(
        id=sent["id"],
        source=sent["source"],
        done=sent.get("done") or 0,
        total=sent.get("total") or 0,
        report=None if sent["status"] in UNDER_WAY else _report(sent),
        waits_for=(sent.get("error") or "") if waits else "",
    )


def _report(sent: Mapping[str, Any]) -> DocumentReport:
    return DocumentReport(
        id=sent["id"],
        status=sent["status"],
        source=sent["source"],
        title=sent.get("title") or "",
        chunks=sent["chunks"],
        tokens=sent["tokens"],
        pages=sent.get("pages") or 0,
        characters=sent.get("characters") or 0,
        truncated_tokens=None if sent["status"] == "unchanged" else sent.get("truncated_tokens", 0),
        warnings=tuple(sent["warnings"]),
        error=sent.get("error") or "",
        hint=sent.get("hint") or "",
        kind=class_of(sent["problem"]).__name__ if sent.get("problem") else "",
    )
