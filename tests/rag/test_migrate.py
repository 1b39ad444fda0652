"""A collection moves to another embedder: nothing lost, nothing doubled, and back again."""

import shutil
import threading
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from rag import collection as shelf
from rag import ingest as steps
from rag import migrate as module
from rag.builds import Builds, Options, Query
from rag.errors import Conflict, InvalidInput, NotFound, PipelineMismatch, StoreUnreachable
from rag.fsck import examine
from rag.jobs import Ingestor, Upload
from rag.migrate import model_id, start
from rag.migrating import Migrator
from rag.objects import digest
from rag.sources import Source
from rag.store.server import ServerStore
from rag.types import Scope
from rag.work import Priority, current_work
from tests import tiny_models

NAMES = ("bell", "fastnet", "heron", "ferry")
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
# Random weights find little: what is tested here is what happens, not how well it finds.
WHATEVER = Options(most_loss=1.0)


class Killed(BaseException):
    """The process ends here. Not an Exception, so that nothing tidies up what a kill would not."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """A real small embedder beside MiniLM: other vectors, another tokenizer, another length."""
    return str(tiny_models.bge(tmp_path_factory.mktemp("models") / "tiny", max_tokens=128))


@pytest.fixture
def docs(rag):
    """Four documents in a collection."""
    shelf.create(rag.parts, rag.scope, "docs")
    for name in NAMES:
        put(rag, name, 1)
    return rag


def text_of(name: str, version: int) -> str:
    sentence = f"This is version {version} of {name}, and the lamp of {name} burns all night. "
    return "\n\n".join(f"Paragraph {n} of {name}. {sentence * 2}" for n in range(3))


def source(name: str, version: int) -> Source:
    return Source(
        name=name, origin=name, id=name, title=name.title(), text=text_of(name, version),
        metadata={"version": version},
    )  # fmt: skip


def put(rag, name: str, version: int) -> None:
    rag.add(source(name, version), collection="docs")


def migrate(rag, to: str, options: Options = WHATEVER):
    start(rag.parts, rag.scope, "docs", to, options)
    return Migrator(rag.parts).run(rag.scope, "docs")


def ask(rag, wish):
    rag.parts.builds.ask(rag.scope, "docs", wish)
    return Migrator(rag.parts).run(rag.scope, "docs")


def seen(rag, name: str) -> Counter[tuple[int, int]]:
    """(version, generation) of every chunk that a search for a document finds."""
    hits = rag.search(
        f"the lamp of {name}", collection="docs", filter={"document_id": name}, limit=100,
        rerank=False,
    ).hits  # fmt: skip
    return Counter((hit.chunk.metadata["version"], hit.chunk.generation) for hit in hits)


def versions(rag) -> dict[str, int]:
    """Every document that is there, by the one version that is seen of all of its chunks."""
    found = {}
    for record in rag.parts.catalog.documents(rag.scope, "docs", limit=1000):
        ((version, generation),) = seen(rag, record.id)
        assert generation == record.generation
        assert seen(rag, record.id).total() == record.chunks
        found[record.id] = version
    return found


def embedder_of(rag) -> str:
    return rag.parts.catalog.collection(rag.scope, "docs").pipeline["embedder"]["id"]


def findings(rag) -> list[str]:
    return [f"{finding.kind}: {finding.what}" for finding in examine(rag.parts)]


def kill_at(monkeypatch, owner, name: str, nth: int, *, after: bool = False) -> list[int]:
    """End at the n-th call of a step, before or after it. The calls are counted."""
    calls: list[int] = []
    call = getattr(owner, name)

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) == nth and not after:
            raise Killed
        result = call(*arguments, **options)
        if len(calls) == nth:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, dies)
    return calls


def test_a_migrated_collection_answers_by_the_new_embedder(docs, tiny):
    before = docs.parts.catalog.documents(docs.scope, "docs")
    migration = migrate(docs, tiny)
    assert (migration.state, migration.done, migration.total) == ("flipped", 4, 4)
    assert embedder_of(docs) == tiny
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    found = docs.search("the lamp of fastnet", collection="docs")  # reranked by its token vectors
    assert all(hit.scores.rerank is not None for hit in found.hits)
    assert found.hits[0].chunk.tokens <= 128  # cut for the new tokenizer
    answer = docs.ask("Which lamp burns all night?", collection="docs")
    assert answer.models["embedder"] == tiny
    after = docs.parts.catalog.documents(docs.scope, "docs")
    for one, other in zip(before, after, strict=True):
        assert one.chunks != other.chunks
        for field in ("id", "title", "metadata", "fingerprint", "created_at", "updated_at"):
            assert getattr(one, field) == getattr(other, field)
    assert docs.add(source("bell", 1), collection="docs").status == "unchanged"
    put(docs, "heron", 2)  # and new ones are embedded by it, too
    assert versions(docs)["heron"] == 2
    assert findings(docs) == []


def test_building_is_bulk_work(docs, tiny, monkeypatch):
    priorities = []

    def store(*arguments, store=steps.store):
        priorities.append(current_work().priority)
        store(*arguments)

    monkeypatch.setattr(steps, "store", store)
    migrate(docs, tiny)
    assert set(priorities) == {Priority.BULK}


@pytest.mark.parametrize(
    ("owner", "step", "after", "nth"),
    [
        (steps, "store", False, 1),  # before there are vectors of the first document
        (steps, "store", True, 3),  # there are some, and they are not live yet
        (Builds, "adopt", False, 2),
        (Builds, "adopt", True, 2),  # they are live
        (Builds, "adopt", True, 4),  # of the last one
    ],
)
def test_it_goes_on_where_it_ended(docs, tiny, monkeypatch, owner, step, after, nth):
    with monkeypatch.context() as patch:
        kill_at(patch, owner, step, nth, after=after)
        patch.setattr(docs.parts.catalog, "abandon", lambda *_: None)  # a kill tidies nothing up
        with pytest.raises(Killed):
            migrate(docs, tiny)
    assert embedder_of(docs) == MINILM
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    again = kill_at(monkeypatch, module, "copy", 0)
    assert Migrator(docs.parts).run(docs.scope, "docs").state == "flipped"
    # Documents that were live in the new index already.
    made = nth if after and step == "adopt" else nth - 1
    assert len(again) == len(NAMES) - made
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    assert findings(docs) == []


def test_an_end_right_before_or_after_the_exchange(docs, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, Builds, "exchange", 1)
        with pytest.raises(Killed):
            migrate(docs, tiny)
    assert embedder_of(docs) == MINILM
    with monkeypatch.context() as patch:
        kill_at(patch, Builds, "exchange", 1, after=True)
        with pytest.raises(Killed):
            Migrator(docs.parts).run(docs.scope, "docs")
    assert embedder_of(docs) == tiny
    assert Migrator(docs.parts).run(docs.scope, "docs").state == "flipped"
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    assert findings(docs) == []


def test_what_changes_while_it_is_built_is_in_the_new_index(docs, tiny, monkeypatch):
    ingestor = Ingestor(docs)

    def copy(parts, migration, document_id, *more, copy=module.copy):
        copy(parts, migration, document_id, *more)
        if document_id == "fastnet":  # the second of bell, fastnet, ferry, heron
            put(docs, "bell", 2)  # changed behind it,
            put(docs, "heron", 2)  # changed before it,
            put(docs, "a-new-one", 1)  # new, where it has been already,
            docs.delete("ferry", collection="docs")  # deleted before it,
            docs.delete("fastnet", collection="docs")  # and behind it,
            ingestor.submit(docs.scope, "docs", [Upload(source("queued", 1))])  # only accepted

    monkeypatch.setattr(module, "copy", copy)
    assert migrate(docs, tiny).state == "flipped"
    expected = {"bell": 2, "heron": 2, "a-new-one": 1}
    assert versions(docs) == expected
    ingestor.start()
    (job,) = docs.parts.journal.list_jobs(docs.scope, collection="docs")
    ingestor.ended(job.id).result(timeout=60)
    ingestor.close()
    assert versions(docs) == expected | {"queued": 1}
    assert findings(docs) == []


def test_a_document_that_is_added_across_the_exchange_is_there_once(docs, tiny, monkeypatch):
    """`rag.add` was writing into the index that then went aside."""
    with monkeypatch.context() as patch:
        calls = []

        def store(*arguments, store=steps.store):
            store(*arguments)
            if not calls:
                calls.append(1)
                migrate(docs, tiny)

        patch.setattr(steps, "store", store)
        put(docs, "bell", 2)
    assert embedder_of(docs) == tiny
    assert versions(docs) == dict.fromkeys(NAMES, 1) | {"bell": 2}
    assert findings(docs) == []


def test_searches_beside_it_see_one_version_of_everything(docs, tiny):
    """Back and forth, with documents changing; no search sees none of a document, or two."""
    wrong, stop, searches = [], threading.Event(), Counter()

    def watch() -> None:
        while not stop.is_set():
            for name in NAMES:
                found = seen(docs, name)
                searches[name] += 1
                if len(found) != 1:
                    wrong.append((name, found))

    threads = [threading.Thread(target=watch) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        migrate(docs, tiny)
        put(docs, "bell", 2)
        ask(docs, "back")
        put(docs, "heron", 3)
        ask(docs, "flip")
        ask(docs, "drop")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert min(searches[name] for name in NAMES) > 3
    assert versions(docs) == dict.fromkeys(NAMES, 1) | {"bell": 2, "heron": 3}
    assert findings(docs) == []


def test_back_again_with_what_was_changed_since(docs, tiny):
    before = docs.parts.catalog.collection(docs.scope, "docs")
    migrate(docs, tiny)
    put(docs, "bell", 2)
    put(docs, "new", 1)
    docs.delete("heron", collection="docs")
    assert ask(docs, "back").state == "ready"
    assert docs.parts.catalog.collection(docs.scope, "docs").physical == before.physical
    assert embedder_of(docs) == MINILM
    expected = {"bell": 2, "fastnet": 1, "ferry": 1, "new": 1}
    assert versions(docs) == expected
    assert ask(docs, "flip").state == "flipped"
    assert (embedder_of(docs), versions(docs)) == (tiny, expected)
    assert findings(docs) == []


def test_dropping_frees_vectors_and_objects(docs, tiny):
    parts = docs.parts
    migrate(docs, tiny)
    put(docs, "bell", 2)  # the text of version 1 is kept for the index of before
    old = digest(text_of("bell", 1).encode())
    assert old in set(parts.objects.names())
    assert len(parts.store.physical_names()) == 2
    assert ask(docs, "drop") is None
    assert old not in set(parts.objects.names())
    now = parts.catalog.collection(docs.scope, "docs")
    assert parts.store.physical_names() == [now.physical]
    with pytest.raises(NotFound):
        parts.builds.find(docs.scope, "docs")
    assert versions(docs) == dict.fromkeys(NAMES, 1) | {"bell": 2}
    assert findings(docs) == []


def test_what_is_deleted_is_not_kept_in_the_index_of_before(docs, tiny):
    migrate(docs, tiny)
    text = digest(text_of("bell", 1).encode())
    aside = docs.parts.builds.find(docs.scope, "docs").build
    docs.delete("bell", collection="docs")
    assert text not in set(docs.parts.objects.names())
    assert docs.parts.store.count(docs.scope, shelf.index_of(aside), "bell") == 0
    assert findings(docs) == []
    ask(docs, "back")
    assert sorted(versions(docs)) == ["fastnet", "ferry", "heron"]


def test_an_interrupted_drop_is_ended(docs, tiny, monkeypatch):
    migrate(docs, tiny)
    with monkeypatch.context() as patch:
        kill_at(patch, module, "drop_vectors", 1)  # the rows are gone, the vectors are not
        with pytest.raises(Killed):
            ask(docs, "drop")
    (finding,) = findings(docs)
    assert finding.startswith("orphan vectors")
    shelf.drop_vectors(docs.parts)  # as the next sweep does
    assert findings(docs) == []


def test_in_the_store_of_a_server(rag, tiny):
    """Qdrant's own client in local mode: the same calls as to a server."""
    rag.parts.store.close()
    rag.parts.store = ServerStore(QdrantClient(":memory:"), address=":memory:")
    shelf.create(rag.parts, rag.scope, "docs")
    put(rag, "bell", 1)
    assert migrate(rag, tiny).state == "flipped"
    assert versions(rag) == {"bell": 1}
    assert ask(rag, "drop") is None
    now = rag.parts.catalog.collection(rag.scope, "docs")
    assert rag.parts.store.physical_names() == [now.physical]
    assert findings(rag) == []


def test_an_unfinished_one_is_cancelled(docs, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, Builds, "adopt", 3)
        with pytest.raises(Killed):
            migrate(docs, tiny)
    assert ask(docs, "drop") is None
    assert len(docs.parts.store.physical_names()) == 1
    assert findings(docs) == []


def test_deleting_the_collection_deletes_the_index_beside_it(docs, tiny):
    migrate(docs, tiny)
    shelf.drop(docs.parts, docs.scope, "docs")
    assert docs.parts.store.physical_names() == []
    assert list(docs.parts.objects.names()) == []
    assert findings(docs) == []


def test_fsck_repairs_the_index_beside_it(docs, tiny):
    migrate(docs, tiny)
    aside = docs.parts.builds.find(docs.scope, "docs").build
    (generation,) = docs.parts.catalog.live_generations(docs.scope, aside, ["bell"]).values()
    docs.parts.store.delete(docs.scope, shelf.index_of(aside), "bell", [generation])
    (finding,) = examine(docs.parts)
    assert (finding.kind, "the index beside it" in finding.what) == ("missing points", True)
    finding.repair()
    assert findings(docs) == []


def test_a_worse_index_is_left_aside_until_somebody_insists(docs, tiny, monkeypatch):
    """The new index is asked for something else than the question, and finds that."""
    other, parts = "Harbour bells ring in fog, and gulls answer them.", docs.parts
    for n in range(12):  # of which ten are found before anything else
        name = f"other-{n}"
        filler = Source(name=name, origin=name, id=name, title="Other", text=other)
        docs.add(filler, collection="docs")
    embedder = parts.embedder_named(tiny)

    def embed_queries(texts):
        return embedder.embed_passages([f"Other\n{other}" for _ in texts])

    monkeypatch.setattr(embedder, "embed_queries", embed_queries)
    queries = tuple(Query(f"the lamp of {name}", (name,)) for name in NAMES)
    migration = migrate(docs, tiny, Options(queries=queries))
    assert migration.state == "ready"
    assert "dense search finds" in migration.report["verdict"]
    assert embedder_of(docs) == MINILM
    assert ask(docs, "flip").state == "flipped"
    assert embedder_of(docs) == tiny


def test_built_without_flipping(docs, tiny):
    migration = migrate(docs, tiny, Options(flip=False))
    assert (migration.state, migration.report["verdict"]) == ("ready", "")
    assert embedder_of(docs) == MINILM
    put(docs, "bell", 2)  # what is changed while it waits is caught up at the flip
    ask(docs, "flip")
    assert versions(docs) == dict.fromkeys(NAMES, 1) | {"bell": 2}


def test_the_comparison_asks_both(docs, tiny):
    report = migrate(docs, tiny).report
    assert (report["queries"], report["known"], report["made"]) == (4, 4, True)
    old, new = report["before"], report["after"]
    assert (old["model"], old["dim"], new["model"], new["dim"]) == (MINILM, 384, tiny, 32)
    assert new["vector_bytes"] == 4 * 32 * new["chunks"]
    for mode in ("dense", "hybrid"):
        sides = report["modes"][mode]
        assert sides["before"]["among_ten"] == sides["after"]["among_ten"] == 1.0  # of 4 documents
        assert sides["overlap"] == 1.0
        assert sides["before"]["p50_ms"] > 0


@pytest.mark.parametrize("task", ["tool", "chat"])
def test_another_task_of_the_same_weights_is_an_index_of_its_own(docs, tmp_path, task):
    folder = tiny_models.bge(tmp_path / "llm-embedder", max_tokens=256)
    migrate(docs, model_id(str(folder), "qa"))
    first = docs.parts.catalog.collection(docs.scope, "docs").pipeline["embedder"]
    ask(docs, "drop")
    migrate(docs, model_id(str(folder), task))
    second = docs.parts.catalog.collection(docs.scope, "docs").pipeline["embedder"]
    assert first["revision"] == second["revision"]
    assert first["passage_instruction"] == "Represent this document for retrieval: "
    expected = {
        "tool": "Transform this tool description for retrieval: ",
        "chat": "Embed this historical dialogue for retrieval: ",
    }
    assert second["passage_instruction"] == expected[task]
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    assert findings(docs) == []


def test_tasks_are_of_models_that_have_them(tiny):
    assert model_id("BAAI/llm-embedder", "icl") == "BAAI/llm-embedder#icl"
    assert model_id("BAAI/bge-small-en") == "BAAI/bge-small-en"
    with pytest.raises(InvalidInput, match="no tasks"):
        model_id(tiny, "tool")
    with pytest.raises(InvalidInput, match="no task 'singing'"):
        model_id("BAAI/llm-embedder", "singing")


def test_a_changed_model_is_refused_and_migrating_is_the_way_out(docs, tiny, tmp_path):
    """The folder holds other weights than those that the vectors were made with."""
    folder = shutil.copytree(tiny, tmp_path / "mine")
    migrate(docs, str(folder))
    ask(docs, "drop")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8] + b"\0\0\0\1" * 2)
    docs.parts._loaded.pop("other embedders")  # as after a restart
    with pytest.raises(PipelineMismatch, match="revision") as raised:
        docs.search("lamp", collection="docs")
    assert f"rag migrate docs --to {folder}" in raised.value.hint
    with pytest.raises(PipelineMismatch):
        put(docs, "bell", 2)
    migration = migrate(docs, str(folder), Options())
    assert migration.state == "flipped"
    assert "cannot be asked" in migration.report["note"]
    assert versions(docs) == dict.fromkeys(NAMES, 1)


def test_the_same_again_is_refused(docs, tiny):
    with pytest.raises(Conflict, match="exactly this already"):
        start(docs.parts, docs.scope, "docs", MINILM, Options())
    with pytest.raises(NotFound):
        start(docs.parts, docs.scope, "nowhere", tiny, Options())
    with pytest.raises(NotFound):
        start(docs.parts, Scope("somebody else"), "docs", tiny, Options())


def test_a_lost_text_fails_it_and_says_which(docs, tiny):
    record = docs.parts.catalog.document(docs.scope, "docs", "fastnet")
    text = docs.parts.objects.get(record.text_hash)
    docs.parts.objects.delete(record.text_hash)
    with pytest.raises(NotFound, match=record.text_hash):
        migrate(docs, tiny)
    assert docs.parts.builds.find(docs.scope, "docs").state == "failed"
    docs.parts.objects.put(text)  # brought back from a backup
    assert migrate(docs, tiny).state == "flipped"
    assert findings(docs) == []


def test_the_thread_takes_up_what_a_dead_process_left(docs, tiny, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, Builds, "adopt", 2)
        patch.setattr(docs.parts.builds.__class__, "release", lambda *_: None)
        with pytest.raises(Killed):
            migrate(docs, tiny)
    away = []

    def store(*arguments, store=steps.store):
        if not away:
            away.append(1)
            raise StoreUnreachable("Qdrant does not answer.")  # and comes back
        store(*arguments)

    monkeypatch.setattr(steps, "store", store)
    monkeypatch.setattr("rag.migrating.RETRY_SECONDS", 0.01)
    migrator = Migrator(docs.parts)
    migrator.start()
    try:
        deadline = threading.Event()
        for _ in range(600):
            if docs.parts.builds.find(docs.scope, "docs").state == "flipped":
                break
            deadline.wait(0.05)
    finally:
        migrator.close()
    assert docs.parts.builds.find(docs.scope, "docs").state == "flipped"
    assert away
    assert versions(docs) == dict.fromkeys(NAMES, 1)
    assert findings(docs) == []


CHANGES = st.lists(
    st.tuples(st.sampled_from([*NAMES, "new", "newer"]), st.sampled_from(["put", "delete"])),
    max_size=3,
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rounds=st.lists(st.tuples(CHANGES, st.integers(1, 6)), min_size=1, max_size=3))
def test_whatever_changes_and_wherever_it_ends(docs, tiny, rounds):
    """Interrupted again and again with changes in between, both indexes end up the same."""
    parts, scope, counter = docs.parts, docs.scope, 100
    expected = versions(docs)
    start(parts, scope, "docs", tiny, WHATEVER)
    for changes, nth in rounds:
        for name, change in changes:
            if change == "put":
                counter += 1
                put(docs, name, counter)
                expected[name] = counter
            elif expected.pop(name, None) is not None:
                docs.delete(name, collection="docs")
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, Builds, "adopt", nth, after=nth % 2 == 0)
            with suppress(Killed):
                Migrator(parts).run(scope, "docs")
        assert versions(docs) == expected
    Migrator(parts).run(scope, "docs")
    assert (embedder_of(docs), versions(docs)) == (tiny, expected)
    assert findings(docs) == []
    ask(docs, "back")
    assert versions(docs) == expected
    ask(docs, "drop")
    assert findings(docs) == []
