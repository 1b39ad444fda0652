"""One suite, both stores: what one does, the other does."""

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from rag.errors import (
    DataFolderBusy,
    InvalidInput,
    NotFound,
    Overloaded,
    StorageFull,
    StoreUnreachable,
)
from rag.store import Index, Point, VectorStore, point_id
from rag.store.edge import EdgeStore
from rag.store.filters import parse_filter
from rag.store.server import ServerStore, connect
from rag.types import Chunk, Scope
from tests.qdrant_shim import qdrant

MINE = Scope("mine")
THEIRS = Scope("theirs")
INDEX = Index("shelf", dim=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Qdrant server, or of the shim that stands in for one."""
    with qdrant(tmp_path_factory.mktemp("shim")) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture(params=["edge", "client-in-memory", "server-or-shim"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    opened: VectorStore
    if request.param == "edge":
        opened = EdgeStore(tmp_path)
    elif request.param == "server-or-shim":
        opened = connect(request.getfixturevalue("server"))
    else:
        opened = ServerStore(QdrantClient(":memory:"), address=":memory:")
    opened.create(INDEX)
    yield opened
    opened.drop(INDEX)
    opened.close()


def point(document: str, vector: list[float], text: str, *, scope: Scope = MINE, **more) -> Point:
    chunk = Chunk(
        document_id=document,
        generation=more.pop("generation", 1),
        index=more.pop("index", 0),
        title="",
        text=text,
        start=0,
        end=len(text),
        tokens=3,
        **more,
    )
    unit = np.array(vector, dtype=np.float32)
    return Point(point_id(scope.tenant, 1, chunk), chunk, unit / np.linalg.norm(unit))


def search(store, *, vector=None, text=None, scope=MINE, where=None, limit=10):
    query = np.array(vector, dtype=np.float32) if vector else None
    dense, bm25 = store.search(
        scope, INDEX, vector=query, text=text, conditions=parse_filter(where), limit=limit
    )
    return [hit.chunk.document_id for hit in dense], [hit.chunk.document_id for hit in bm25]


LIGHTS = [
    point(
        "bell", [1, 0, 0, 0], "Stevenson built the Bell Rock", metadata={"year": 1811, "by": "S"}
    ),
    point(
        "eddy", [1, 1, 0, 0], "Smeaton built Eddystone", metadata={"year": 1759, "by": "Smeaton"}
    ),
    point(
        "fast", [0, 0, 1, 0], "Fastnet marks a rock", metadata={"year": 1904, "lit": True}, page=2
    ),
]


def test_dense_ranks_by_cosine_and_bm25_by_rare_words(store):
    store.upsert(MINE, INDEX, LIGHTS)
    # Cosines with (1, 0, 0, 0): bell 1, eddy 1/sqrt(2), fast 0. "eddystone" is in one text only.
    dense, bm25 = store.search(
        MINE,
        INDEX,
        vector=np.array([1, 0, 0, 0], dtype=np.float32),
        text="the Eddystone",
        conditions=(),
        limit=10,
    )
    assert [hit.chunk.document_id for hit in dense] == ["bell", "eddy", "fast"]
    assert [hit.score for hit in dense] == pytest.approx([1, 0.5**0.5, 0], abs=1e-6)
    assert [hit.chunk.document_id for hit in bm25] == ["eddy"]
    assert bm25[0].chunk == LIGHTS[1].chunk  # everything of the chunk came back


def test_bm25_stems_and_drops_stop_words(store):
    store.upsert(MINE, INDEX, LIGHTS)
    assert search(store, text="rocks")[1] == ["fast", "bell"]  # the shorter text ranks first
    assert search(store, text="the") == ([], [])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"by": "Smeaton"}, {"eddy"}),
        ({"by": ["Smeaton", "S"]}, {"eddy", "bell"}),
        ({"year": 1811}, {"bell"}),
        ({"year": {"gte": 1811, "lt": 1904}}, {"bell"}),
        ({"year": {"gt": 1811}}, {"fast"}),
        ({"year": {"lte": 1811}, "by": "S"}, {"bell"}),
        ({"lit": True}, {"fast"}),
        ({"lit": [True, False]}, {"fast"}),
        ({"not": {"lit": [True, False]}}, {"bell", "eddy"}),
        ({"not": {"by": "S"}}, {"eddy", "fast"}),
        ({"not": {"year": {"gte": 1800}}}, {"eddy"}),
        ({"page": 2}, {"fast"}),
        ({"document_id": ["bell", "nobody"]}, {"bell"}),
        ({"by": "nobody"}, set()),
        ({"never seen": 1}, set()),
    ],
)
def test_filters(store, where, expected):
    store.upsert(MINE, INDEX, LIGHTS)
    dense, bm25 = search(store, vector=[1, 1, 1, 1], text="built rock", where=where)
    assert set(dense) == expected
    assert set(bm25) == expected  # every text holds "built" or "rock"


def test_a_scope_sees_its_own_tenant_only(store):
    store.upsert(MINE, INDEX, LIGHTS[:1])
    store.upsert(THEIRS, INDEX, [point("secret", [1, 0, 0, 0], "Bell Rock", scope=THEIRS)])
    assert search(store, vector=[1, 0, 0, 0], text="rock") == (["bell"], ["bell"])
    assert search(store, vector=[1, 0, 0, 0], text="rock", scope=THEIRS) == (["secret"],) * 2
    store.delete(MINE, INDEX, "secret", [1])
    assert store.count(THEIRS, INDEX) == 1
    assert store.count(MINE, INDEX) == 1


def test_the_same_point_again_replaces(store):
    store.upsert(MINE, INDEX, LIGHTS)
    store.upsert(MINE, INDEX, LIGHTS)
    assert store.count(MINE, INDEX) == 3


def test_every_point_comes_back_whole_in_batches(store, monkeypatch):
    monkeypatch.setattr("rag.store.edge.SCROLL_WHOLE", 2)
    monkeypatch.setattr("rag.store.server.SCROLL_WHOLE", 2)
    mine = [*LIGHTS, *(point(f"d{n}", [n, 1, 2, 3], f"text {n}") for n in range(2))]
    store.upsert(MINE, INDEX, mine)
    store.upsert(THEIRS, INDEX, [point("secret", [1, 0, 0, 0], "Bell Rock", scope=THEIRS)])
    batches = list(store.points(MINE, INDEX))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for found, written in zip(
        [one for batch in batches for one in batch], sorted(mine, key=lambda p: p.id), strict=True
    ):
        assert (found.id, found.chunk) == (written.id, written.chunk)
        assert found.vector.dtype == np.float32
        assert found.vector == pytest.approx(written.vector, abs=1e-7)


def test_edge_gives_vectors_back_to_the_bit(tmp_path):
    store = EdgeStore(tmp_path)
    store.create(INDEX)
    draw = np.random.default_rng(1).standard_normal((300, 4))
    written = {p.id: p for n, row in enumerate(draw) for p in [point(f"d{n}", row, "x")]}
    store.upsert(MINE, INDEX, list(written.values()))
    found = [one for batch in store.points(MINE, INDEX) for one in batch]
    assert {p.id: p.vector.tobytes() for p in found} == {
        name: p.vector.tobytes() for name, p in written.items()
    }
    store.close()


def test_delete_takes_the_named_generations_only(store):
    old = point("bell", [1, 0, 0, 0], "old", generation=1)
    new = point("bell", [1, 0, 0, 0], "new", generation=2)
    store.upsert(MINE, INDEX, [old, new, LIGHTS[1]])
    store.delete(MINE, INDEX, "bell", [1])
    assert store.count(MINE, INDEX, "bell") == 1
    dense, _ = store.search(
        MINE,
        INDEX,
        vector=np.array([1, 0, 0, 0], dtype=np.float32),
        text=None,
        conditions=(),
        limit=5,
    )
    assert [hit.chunk.text for hit in dense] == ["new", LIGHTS[1].chunk.text]


def test_paint_changes_what_points_of_one_generation_say(store):
    old = point("bell", [1, 0, 0, 0], "old", generation=1, metadata={"year": 1811, "by": "S"})
    new = [
        point("bell", [1, 0, 0, 0], f"new {n}", generation=2, index=n, metadata={"year": 1811})
        for n in range(3)
    ]
    store.upsert(MINE, INDEX, [old, *new, LIGHTS[1]])
    store.upsert(THEIRS, INDEX, [point("bell", [1, 0, 0, 0], "x", scope=THEIRS, generation=2)])
    store.paint(MINE, INDEX, "bell", 2, metadata={"sea": "north"}, title="Bell")
    faces = sorted(store.faces(MINE, INDEX), key=lambda face: (face.document_id, face.generation))
    assert [(f.document_id, f.generation, f.title, f.metadata) for f in faces] == [
        ("bell", 1, "", {"year": 1811, "by": "S"}),
        *[("bell", 2, "Bell", {"sea": "north"})] * 3,
        ("eddy", 1, "", {"year": 1759, "by": "Smeaton"}),
    ]
    assert next(store.faces(THEIRS, INDEX)).metadata == {}
    assert search(store, vector=[1, 0, 0, 0], where={"sea": "north"})[0] == ["bell"] * 3
    # A title that is not given stays, metadata are replaced whole, vectors and texts untouched.
    store.paint(MINE, INDEX, "bell", 2, metadata={})
    assert search(store, vector=[1, 0, 0, 0], where={"sea": "north"})[0] == []
    assert search(store, text="new", where={"title": "Bell"})[1] == ["bell"] * 3


def test_chunks_of_a_generation_come_in_their_order(store):
    points = [
        point("bell", [1, 0, 0, 0], f"part {n}", generation=2, index=n, page=n + 1)
        for n in range(25)
    ]
    store.upsert(MINE, INDEX, [*points[::-1], point("bell", [1, 0, 0, 0], "old", generation=1)])
    chunks = [one.chunk for one in points]
    assert store.chunks(MINE, INDEX, "bell", 2, 0, 25) == chunks
    assert store.chunks(MINE, INDEX, "bell", 2, 10, 5) == chunks[10:15]
    assert store.chunks(MINE, INDEX, "bell", 2, 20, 100) == chunks[20:]
    assert store.chunks(MINE, INDEX, "bell", 3, 0, 5) == []


def test_the_inventory_of_one_document(store):
    store.upsert(MINE, INDEX, [*LIGHTS, point("bell", [1, 0, 0, 0], "b", generation=2)])
    assert store.inventory(MINE, INDEX, "bell") == {("bell", 1): 1, ("bell", 2): 1}
    assert store.inventory(MINE, INDEX)["eddy", 1] == 1


def test_equal_scores_come_back_by_point_id(store):
    points = [point(f"d{n}", [1, 0, 0, 0], "same words here") for n in range(20)]
    store.upsert(MINE, INDEX, points)
    dense, bm25 = store.search(
        MINE,
        INDEX,
        vector=np.array([1, 0, 0, 0], dtype=np.float32),
        text="words",
        conditions=(),
        limit=20,
    )
    expected = sorted(p.id for p in points)
    assert [hit.id for hit in dense] == expected
    assert [hit.id for hit in bm25] == expected


def test_create_twice_keeps_what_is_there(store):
    store.upsert(MINE, INDEX, LIGHTS)
    store.create(INDEX)
    assert store.count(MINE, INDEX) == 3


def test_another_bm25_language(store):
    german = Index("shelf", dim=4, language="german")
    store.upsert(MINE, german, [point("de", [1, 0, 0, 0], "Die Leuchttürme der Küste")])
    _, found = store.search(MINE, german, vector=None, text="Leuchtturm", conditions=(), limit=5)
    assert [hit.chunk.document_id for hit in found] == ["de"]  # the German stemmer, umlauts too
    with pytest.raises(InvalidInput, match="klingon"):
        store.search(
            MINE,
            Index("shelf", dim=4, language="klingon"),
            vector=None,
            text="x",
            conditions=(),
            limit=1,
        )


def test_edge_survives_reopening_and_a_second_process_is_told_who_holds_it(tmp_path):
    first = EdgeStore(tmp_path / "vectors")
    first.create(INDEX)
    first.upsert(MINE, INDEX, LIGHTS)
    with pytest.raises(DataFolderBusy, match=f"process {os.getpid()}"):
        EdgeStore(tmp_path / "vectors")
    first.close()
    second = EdgeStore(tmp_path / "vectors")
    assert second.count(MINE, INDEX) == 3
    second.close()


def documents_in(store: EdgeStore) -> list[str]:
    dense, _ = store.search(
        MINE, INDEX, vector=np.ones(4, np.float32), text=None, conditions=[], limit=10
    )
    return sorted(found.chunk.document_id for found in dense)


def two_points_flushed(folder: Path) -> EdgeStore:
    store = EdgeStore(folder)
    store.create(INDEX)
    store.upsert(MINE, INDEX, [point("a", [1, 0, 0, 0], "first")])
    store.upsert(MINE, INDEX, [point("b", [0, 1, 0, 0], "second")])
    store.flush(INDEX)
    return store


def what_a_start_finds(folder: Path, *, segments: Path, log: Path | None) -> list[str]:
    """Documents in a store of whose files not all had reached the disk when the power went."""
    wal = folder / INDEX.physical / "wal"
    shutil.copytree(segments, folder)
    shutil.rmtree(wal)
    if log is not None:
        shutil.copytree(log / INDEX.physical / "wal", wal)
    store = EdgeStore(folder)
    found = documents_in(store)
    store.close()
    return found


def test_edge_finds_in_its_log_what_never_reached_the_segments(tmp_path):
    empty = EdgeStore(tmp_path / "before")
    empty.create(INDEX)
    empty.close()
    store = two_points_flushed(tmp_path / "after")
    found = what_a_start_finds(
        tmp_path / "cut", segments=tmp_path / "before", log=tmp_path / "after"
    )
    assert found == ["a", "b"]
    store.close()


def test_edge_writes_the_segments_out_when_its_log_has_grown(tmp_path, monkeypatch):
    store = two_points_flushed(tmp_path / "short")
    assert what_a_start_finds(tmp_path / "x", segments=tmp_path / "short", log=None) == []
    store.close()
    monkeypatch.setattr("rag.store.edge.LOG_BYTES", 0)
    store = two_points_flushed(tmp_path / "long")
    assert what_a_start_finds(tmp_path / "y", segments=tmp_path / "long", log=None) == ["a", "b"]
    store.close()


def test_edge_flush_names_a_collection_that_is_gone(tmp_path):
    store = EdgeStore(tmp_path)
    store.create(INDEX)
    store.upsert(MINE, INDEX, [point("a", [1, 0, 0, 0], "first")])
    log = tmp_path / INDEX.physical / "wal"
    log.rename(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match="was deleted meanwhile"):
        store.flush(INDEX)
    (tmp_path / "elsewhere").rename(log)  # closing writes to it
    store.close()


def test_edge_stops_before_the_disk_is_full(tmp_path):
    store = EdgeStore(tmp_path, min_free_bytes=0)
    store.create(INDEX)
    store.upsert(MINE, INDEX, LIGHTS[:1])
    store._min_free_bytes = 2**62  # as if the disk had filled up since
    with pytest.raises(StorageFull, match="must stay free"):
        store.upsert(MINE, INDEX, LIGHTS[1:])
    assert store.count(MINE, INDEX) == 1  # reading goes on
    store.close()
    full = EdgeStore(tmp_path, min_free_bytes=2**62)
    with pytest.raises(StorageFull, match="must stay free"):
        full.count(MINE, INDEX)  # opening a shard writes
    full.close()


@pytest.mark.parametrize("store", ["edge", "server-or-shim"], indirect=True)
def test_missing_vectors_are_named(store):
    store.drop(INDEX)
    with pytest.raises(NotFound, match="vectors of this collection are missing"):
        store.count(MINE, INDEX)


def test_a_busy_server_says_when_to_come_back():
    class Busy(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(429)
            self.send_header("Retry-After", "7")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        store = connect(f"http://127.0.0.1:{listening.server_port}")
        with pytest.raises(Overloaded, match="too much to do") as raised:
            store.ping()
        assert raised.value.retry_after == 7
        store.close()
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("grpc_port", [None, 1])
def test_an_unreachable_server_is_named(grpc_port):
    store = connect("http://127.0.0.1:1", grpc_port=grpc_port, timeout=2)
    with pytest.raises(StoreUnreachable, match="Qdrant does not answer") as raised:
        store.create(INDEX)
    assert raised.value.inside.startswith("http://127.0.0.1:1: ")
    assert "127.0.0.1" not in str(raised.value)  # which may go to whoever asks
    store.close()


def test_groups_see_their_points_and_those_of_nobody(store):
    store.upsert(
        MINE,
        INDEX,
        [
            point("open", [1, 0, 0, 0], "lamp"),
            point("empty", [1, 0, 0, 0.1], "lamp", metadata={"acl": []}),
            point("hr", [1, 0, 0, 0.2], "lamp", metadata={"acl": ["hr", "board"]}),
            point("it", [1, 0, 0, 0.3], "lamp", metadata={"acl": ["it"]}),
        ],
    )

    def seen(groups):
        scope = Scope("mine", groups=groups)
        dense, bm25 = store.search(
            scope, INDEX, vector=np.array([1, 0, 0, 0], np.float32), text="lamp", conditions=(),
            limit=10,
        )  # fmt: skip
        found = {hit.chunk.document_id for hit in dense}
        assert found == {hit.chunk.document_id for hit in bm25}
        assert store.count(scope, INDEX) == len(found)
        return found

    assert seen(None) == {"open", "empty", "hr", "it"}
    assert seen(frozenset()) == {"open", "empty"}
    assert seen(frozenset({"board"})) == {"open", "empty", "hr"}
    assert seen(frozenset({"HR", "it"})) == {"open", "empty", "it"}


def test_few_shards_are_open_at_once_and_none_that_is_in_use(tmp_path):
    """Each maps dozens of files, of which a process may have so many."""
    store = EdgeStore(tmp_path, most_open=2)
    shelves = [Index(f"shelf{number}", dim=4) for number in range(6)]

    def fill(number):
        index = shelves[number % 6]
        for count in range(5):
            store.upsert(MINE, index, [point(f"{number}-{count}", [1, 0, 0, 0], "lamp")])
            store.flush(index)
            store.search(MINE, index, vector=None, text="lamp", conditions=(), limit=3)

    for index in shelves:
        store.create(index)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fill, range(18)))
    assert [store.count(MINE, index) for index in shelves] == [15] * 6
    assert len(store._shards) == 2
    store.drop(shelves[5])  # whether it is open or not
    store.drop(shelves[0])
    store.close()
    with_all = EdgeStore(tmp_path)
    assert [with_all.count(MINE, index) for index in shelves[1:5]] == [15] * 4
    with_all.close()
