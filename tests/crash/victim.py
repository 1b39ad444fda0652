"""A process that ingests, updates, deletes and backs up until it is killed.

`python -m tests.crash.victim FOLDER SABOTAGE` starts it.

Commands come as lines of JSON, and a line goes out for each that was carried out: a promise. It
kills itself right before or after the n-th call of a step when it is told to. A thread searches
all the time for documents that are there, and says when it sees two generations of one, or none.
"""

import functools
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag import backup, disk
from rag import collection as shelf
from rag import ingest as steps
from rag.catalog import Catalog
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.journal import Journal
from rag.objects import ObjectStore
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.store.edge import EdgeStore

COLLECTION = "docs"
MARK = re.compile(r"version (\d+) of (\S+)")

STEPS: dict[str, tuple[Any, str]] = {
    "receive": (Journal, "receive"),
    "keep bytes": (ObjectStore, "put_file"),
    "accept": (Journal, "accept"),
    "claim": (Journal, "claim"),
    "parse": (steps, "parse"),
    "open generation": (Journal, "open_generation"),
    "keep text": (ObjectStore, "put"),
    "upsert": (EdgeStore, "upsert"),
    "flush": (EdgeStore, "flush"),
    "progress": (Journal, "progress"),
    "make live, inside the transaction": (Catalog, "flip"),
    "flip": (Journal, "flip"),
    "delete": (Journal, "delete_document"),
    "purge points": (EdgeStore, "delete"),
    "purge generation": (Catalog, "purged"),
    "drop objects": (Catalog, "drop_doomed"),
    "drop an object": (ObjectStore, "delete"),
    "release": (Journal, "release"),
    "hold for a backup": (Catalog, "hold"),
    "back up rows": (backup, "_write_rows"),
    "back up points": (backup, "_write_block"),
    "end of a backup": (backup.Writer, "finish"),
    "name a backup": (disk, "finish"),
    "release hold": (Catalog, "release_hold"),
}


class Plan:
    """Where to die: "before flip", the n-th time from `arm` on."""

    def __init__(self) -> None:
        self.where, self.left = "", 0
        for name, (owner, attribute) in STEPS.items():
            setattr(owner, attribute, self._watched(name, getattr(owner, attribute)))

    def arm(self, where: str, count: int) -> None:
        self.left, self.where = count, where

    def reached(self, where: str) -> None:
        if where == self.where:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def _watched(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(*arguments: Any, **options: Any) -> Any:
            self.reached(f"before {name}")
            result = call(*arguments, **options)
            self.reached(f"after {name}")
            return result

        return watched


def sabotage(how: str) -> None:
    """Break what the proof is about: it has to notice."""
    if how == "no catalog check":
        from rag import retrieve

        retrieve._live_only = lambda ranking, _: list(ranking)
    if how == "purge before flip":
        flip = Journal.flip

        def purge_first(self: Journal, task: Any, *more: Any) -> Any:
            found = self._catalog.live_generations(task.scope, task.collection, [task.document_id])
            if found:
                index = shelf.index_of(self._catalog.collection(task.scope, task.collection))
                rag.parts.store.delete(task.scope, index, task.document_id, list(found.values()))
            return flip(self, task, *more)

        Journal.flip = purge_first  # type: ignore[method-assign]


def text_of(document: str, version: int, paragraphs: int) -> str:
    """Every chunk of it says which version it is of."""
    sentence = f"This is version {version} of {document} and the lamp burns oil all night long. "
    return "\n\n".join(f"Paragraph {n}. {sentence * 8}" for n in range(paragraphs))


def versions_of(document: str) -> Counter[int]:
    """Chunks that a search for a document sees, by version."""
    found = rag.search(
        f"lamp of {document}", collection=COLLECTION, filter={"document_id": document},
        limit=100, rerank=False, mode="bm25",
    )  # fmt: skip
    seen: Counter[int] = Counter()
    for hit in found.hits:
        marks = MARK.findall(hit.chunk.text)
        seen.update({int(version) for version, of in marks if of == document})
    return seen


def watch(documents: list[str]) -> None:
    """Each of these has to be there, in one version, all the time."""
    while True:
        for document in documents:
            seen = versions_of(document)
            if len(seen) != 1:
                say({"violation": f"{document}: {dict(seen)}"})


def look() -> dict[str, Any]:
    """Everything that can be seen, once nothing is at work any more."""
    parts, scope = rag.parts, rag.scope
    seen = {}
    for record in parts.catalog.documents(scope, COLLECTION, limit=1000):
        found = versions_of(record.id)
        seen[record.id] = {"versions": dict(found), "chunks": record.chunks}
    kinds = Counter(finding.kind for finding in examine(parts))
    return {"documents": seen, "fsck": dict(kinds)}


def say(line: dict[str, Any]) -> None:
    with out:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def carry_out(command: dict[str, Any]) -> dict[str, Any]:
    parts, scope = rag.parts, rag.scope
    match command:
        case {"do": "put", "id": document, "version": version, "paragraphs": paragraphs}:
            text = text_of(document, version, paragraphs)
            source = Source(name=document, origin=document, id=document, text=text)
            job = ingestor.submit(scope, COLLECTION, [Upload(source)])
            return {"accepted": job.id}
        case {"do": "delete", "id": document}:
            rag.delete(document, collection=COLLECTION)
            return {"deleted": document}
        case {"do": "backup", "file": file}:
            backup.write(parts, Path(file))
            return {"backed up": file}
        case {"do": "drain"}:
            for job in parts.journal.list_jobs(scope, limit=1000):
                ingestor.ended(job.id).result(timeout=120)
            ingestor._sweep()
            return {"drained": True}
        case {"do": "look"}:
            return look()
        case {"do": "watch", "ids": documents}:
            threading.Thread(target=watch, args=(documents,), daemon=True).start()
            return {"watching": documents}
        case {"do": "arm", "where": where, "count": count}:
            plan.arm(where, count)
            return {"armed": where}
    raise ValueError(command)


if __name__ == "__main__":
    data, how = Path(sys.argv[1]), sys.argv[2]
    out = threading.Lock()
    plan = Plan()
    rag = Orchestrator.open(
        data, profile="starter", embed_batch=4, chunk_tokens=64, chunk_overlap=0, max_limit=1000,
        ingest_threads=2,
    )  # fmt: skip
    sabotage(how)
    shelf.ensure(rag.parts, rag.scope, COLLECTION)
    ingestor = Ingestor(rag)
    ingestor.start()
    say({"ready": os.getpid()})
    for line in sys.stdin:
        say(carry_out(json.loads(line)))
