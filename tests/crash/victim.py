"""A process that ingests, updates, deletes, migrates and backs up until it is killed.

`python -m tests.crash.victim DATA SABOTAGE EMBEDDER OTHER-EMBEDDER`

Commands come as lines of JSON, and a line goes out for each that was carried out: a promise. It
kills itself right before or after the n-th call of a step when it is told to. A thread searches
all the time for documents that are there, and says when it sees two generations of one, or none.
"""

import faulthandler
import functools
import json
import os
import re
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from email.message import EmailMessage
from io import BytesIO
from pathlib import Path
from typing import Any

from rag import backup, disk, migrate, patch
from rag import collection as shelf
from rag import ingest as steps
from rag.builds import Builds, Options
from rag.catalog import Catalog
from rag.errors import Conflict, NotFound
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.journal import Journal
from rag.migrating import Migrator
from rag.objects import ObjectStore
from rag.orchestrator import Orchestrator
from rag.sources import Source
from rag.store.edge import EdgeStore

COLLECTION = "docs"
MAIL = "mail"  # the one document that is a mail; the others are texts
CHUNK_TOKENS = 256  # of a tiny tokenizer: some sentences
MOST_UNDER_WAY = 8  # more would only make what has to be done after a restart longer
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
    "queue attachments, inside the transaction": (Journal, "_queue"),
    "delete attachments, inside the transaction": (Catalog, "_delete_attached"),
    "flip": (Journal, "flip"),
    "delete": (Journal, "delete_document"),
    "purge points": (EdgeStore, "delete"),
    "purge generation": (Catalog, "purged"),
    "drop objects": (Catalog, "drop_doomed"),
    "drop an object": (ObjectStore, "delete"),
    "release": (Journal, "release"),
    "delete by a filter": (Journal, "delete_documents"),
    "write a patch down": (patch, "_write_down"),
    "paint points": (EdgeStore, "paint"),
    "hold for a backup": (Catalog, "hold"),
    "back up rows": (backup, "_write_rows"),
    "back up points": (backup, "_write_block"),
    "end of a backup": (backup.Writer, "finish"),
    "name a backup": (disk, "finish"),
    "release hold": (Catalog, "release_hold"),
}
MIGRATION_STEPS: dict[str, tuple[Any, str]] = {
    "start a migration": (Builds, "start"),
    "clear": (migrate, "clear"),
    "catch up": (migrate, "catch_up"),
    "copy": (migrate, "copy"),
    "make a copy live": (Builds, "adopt"),
    "compare": (migrate, "compare"),
    "settle": (Builds, "settle"),
    "exchange": (Builds, "exchange"),
    "forget": (Builds, "forget"),
    "drop vectors": (EdgeStore, "drop_physical"),
}


class Plan:
    """Where to die: "before flip", the n-th time from `arm` on."""

    def __init__(self) -> None:
        self.where, self.left = "", 0
        for name, (owner, attribute) in (STEPS | MIGRATION_STEPS).items():
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
                time.sleep(1)  # a search falls into it for certain
            return flip(self, task, *more)

        Journal.flip = purge_first  # type: ignore[method-assign]


def text_of(document: str, version: int, paragraphs: int) -> str:
    """Every chunk of it says which version it is of."""
    sentence = f"This is version {version} of {document} and the lamp burns oil all night long. "
    return "\n\n".join(f"Paragraph {n}. {sentence * 8}" for n in range(paragraphs))


def files_of(version: int) -> list[str]:
    """What is attached to the mail in a version: sometimes more, sometimes less."""
    return ["a.txt", "b.txt", "c.txt"][: version % 4]


def mail(version: int, paragraphs: int) -> bytes:
    made = EmailMessage()
    made["Subject"] = f"version {version} of {MAIL} and its lamp"
    made.set_content(text_of(MAIL, version, paragraphs))
    for name in files_of(version):
        content = text_of(f"{MAIL}/{name}", version, 1 + paragraphs // 4)
        made.add_attachment(content, filename=name)
    return made.as_bytes()


def source_of(document: str, version: int, paragraphs: int) -> Upload:
    if document == MAIL:
        source = Source(name="mail.eml", origin="mail.eml", id=MAIL)
        return Upload(source, BytesIO(mail(version, paragraphs)))
    text = text_of(document, version, paragraphs)
    return Upload(Source(name=document, origin=document, id=document, text=text))


def versions_of(document_id: str, document: str) -> Counter[int]:
    """Chunks that a search for a document sees, by version."""
    found = rag.search(
        f"lamp of {document}", collection=COLLECTION, filter={"document_id": document_id},
        limit=1000, rerank=False, mode="bm25",
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
            seen = versions_of(document, document)
            if len(seen) != 1:
                say({"violation": f"{document}: {dict(seen)}"})


def look() -> dict[str, Any]:
    """Everything that can be seen, once nothing is at work any more."""
    parts, scope = rag.parts, rag.scope
    seen = {}
    for record in parts.catalog.documents(scope, COLLECTION, limit=1000):
        name = f"{record.parent}/{record.source.rpartition('#')[2]}" if record.parent else record.id
        found = versions_of(record.id, name)
        mark = record.metadata.get("mark")
        seen[name] = {"versions": dict(found), "chunks": record.chunks, "mark": mark}
    kinds = Counter(finding.kind for finding in examine(parts))
    return {"documents": seen, "fsck": dict(kinds)}


def on_with_the_migration(wish: str) -> str:
    """To the other embedder, there and back, and dropped: whatever fits the state."""
    parts, scope = rag.parts, rag.scope
    try:
        state = parts.builds.find(scope, COLLECTION).state
        if state in ("ready", "flipped"):
            forth = "flip" if state == "ready" else "back"
            parts.builds.ask(scope, COLLECTION, "drop" if wish == "drop" else forth)
    except Conflict:
        return "something else was asked for"  # it went on in between
    except NotFound:
        serving = parts.catalog.collection(scope, COLLECTION).pipeline["embedder"]["id"]
        to = other if serving == embedder else embedder
        migrate.start(parts, scope, COLLECTION, to, Options(most_loss=1.0))
    migrator.wake()
    return "asked"


def settled() -> bool:
    try:
        return rag.parts.builds.find(rag.scope, COLLECTION).settled
    except NotFound:
        return True


def say(line: dict[str, Any]) -> None:
    with out:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def carry_out(command: dict[str, Any]) -> dict[str, Any]:
    parts, scope = rag.parts, rag.scope
    match command:
        case {"do": "put", "id": document, "version": version, "paragraphs": paragraphs}:
            while len(under_way) >= MOST_UNDER_WAY:
                under_way.popleft().result(timeout=120)
            upload = source_of(document, version, paragraphs)
            job = ingestor.submit(scope, COLLECTION, [upload])
            under_way.append(ingestor.ended(job.id))
            return {"accepted": job.id}
        case {"do": "delete", "id": document}:
            rag.delete(document, collection=COLLECTION)
            return {"deleted": document}
        case {"do": "delete matching", "id": document}:
            return {
                "deleted": rag.delete_matching({"document_id": document}, collection=COLLECTION)
            }
        case {"do": "patch", "id": document, "mark": mark}:
            try:
                rag.patch(document, {"metadata": {"mark": mark}}, collection=COLLECTION)
            except Conflict:
                return {"patched": False}
            return {"patched": True}
        case {"do": "backup", "file": file}:
            backup.write(parts, Path(file))
            return {"backed up": file}
        case {"do": "drain"}:
            for job in parts.journal.list_jobs(scope, limit=1000):
                ingestor.ended(job.id).result(timeout=120)
            deadline = time.monotonic() + 120
            while not settled():
                assert time.monotonic() < deadline, "the migration does not end"
                time.sleep(0.05)
            ingestor._sweep()
            return {"drained": True}
        case {"do": "migrate", "wish": wish}:
            return {"migrating": on_with_the_migration(wish)}
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
    faulthandler.register(signal.SIGUSR1)  # where it stands, for one that stands still
    data, how, embedder, other = Path(sys.argv[1]), *sys.argv[2:5]
    out = threading.Lock()
    plan = Plan()
    rag = Orchestrator.open(
        data, profile="starter", embedder=embedder, embed_batch=4, chunk_tokens=CHUNK_TOKENS,
        chunk_overlap=0, max_limit=1000, ingest_threads=2, compare_queries=3,
    )  # fmt: skip
    sabotage(how)
    shelf.ensure(rag.parts, rag.scope, COLLECTION)
    ingestor = Ingestor(rag)
    ingestor.start()
    under_way: deque[Future[None]] = deque()
    migrator = Migrator(rag.parts)
    migrator.start()
    say({"ready": os.getpid()})
    for line in sys.stdin:
        say(carry_out(json.loads(line)))
