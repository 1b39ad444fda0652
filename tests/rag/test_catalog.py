"""The catalog: what is live, what is stale, and who may see it."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.catalog import Catalog, Revision
from rag.database import Database
from rag.errors import Conflict, InvalidInput, NotFound, StoreUnreachable
from rag.tables import documents, generations, jobs, schema, tasks
from rag.types import Scope
from tests.sqlite_work import work_of

MINE = Scope("mine")
THEIRS = Scope("theirs")


@pytest.fixture(params=["sqlite", "postgres"])
def catalog(request, tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    database = Database.open(url)
    opened = Catalog(database)
    opened.dropped = []
    opened._drop_object = opened.dropped.append
    opened.create_collection(MINE, "docs", {"dim": 4})
    yield opened
    for scope in (MINE, Scope("theirs")):
        for left in opened.collections(scope):
            opened.delete_collection(scope, left.name)
    database.close()


def test_services_that_start_together_make_the_tables_once(postgres):
    with postgres.database() as url, ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda _: Database.open(url), range(4)))
        for one in opened:
            assert Catalog(one).collections(MINE) == []
            one.close()


def begin(catalog: Catalog, document: str = "d", content: str = "c1") -> int:
    return catalog.begin_generation(
        MINE, "docs", document, content_hash=content, text_hash=f"text of {content}", parsed_hash=""
    )


def flip(catalog: Catalog, generation: int, document: str = "d", **changes) -> bool:
    values = {
        "document_id": document,
        "generation": generation,
        "source": "s",
        "title": "T",
        "media_type": "text/plain",
        "metadata": {},
        "content_hash": "c1",
        "fingerprint": "f",
        "chunks": 1,
        "tokens": 10,
        "pages": 0,
        "characters": 40,
        "warnings": (),
        "token_chunks": {},
    }
    return catalog.flip(MINE, "docs", Revision(**(values | changes)))


def test_the_migrations_make_the_schema_that_the_code_uses(catalog):
    with catalog._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema) == []


def test_a_generation_is_invisible_until_the_flip(catalog):
    first = begin(catalog)
    assert catalog.live_generations(MINE, "docs", ["d"]) == {}
    assert flip(catalog, first)
    second = begin(catalog, content="c2")
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": first}
    assert flip(catalog, second, content_hash="c2")
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": second}
    assert catalog.stale_generations(MINE, "docs", "d") == [first]
    catalog.purged(MINE, "docs", [first])
    assert catalog.dropped == ["c1", "text of c1"]
    assert catalog.stale_generations(MINE, "docs", "d") == []


def test_a_slow_older_generation_never_wins(catalog):
    slow, fast = begin(catalog), begin(catalog)
    assert flip(catalog, fast)
    assert not flip(catalog, slow)
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": fast}
    assert catalog.stale_generations(MINE, "docs", "d") == [slow]


def test_hashes_still_in_use_are_not_given_up(catalog):
    first, other = begin(catalog), begin(catalog, document="same content")
    flip(catalog, first)
    flip(catalog, other, document="same content")
    catalog.delete_document(MINE, "docs", "d")
    catalog.purged(MINE, "docs", [first])
    assert catalog.dropped == []


def test_a_generation_id_is_never_used_again(catalog):
    """A point that a crash left behind would come alive with it."""
    first = begin(catalog)
    flip(catalog, first)
    catalog.delete_document(MINE, "docs", "d")
    catalog.purged(MINE, "docs", [first])
    assert begin(catalog) > first
    with pytest.raises(NotFound):
        catalog.document(MINE, "docs", "d")


def test_scopes(catalog):
    flip(catalog, begin(catalog))
    for other in (Scope("theirs"), Scope("mine", collections=frozenset())):
        with pytest.raises(NotFound):
            catalog.collection(other, "docs")
        with pytest.raises(NotFound):
            catalog.live_generations(other, "docs", ["d"])
        assert catalog.collections(other) == []
    with pytest.raises(NotFound):
        catalog.create_collection(Scope("mine", collections=frozenset({"a"})), "b", {})
    assert catalog.create_collection(Scope("theirs"), "docs", {}).tenant == "theirs"


def test_names(catalog):
    with pytest.raises(Conflict):
        catalog.create_collection(MINE, "docs", {})
    for wrong in ("", "Docs", "a b", "../x", "-a", "a" * 64):
        with pytest.raises(InvalidInput):
            catalog.create_collection(MINE, wrong, {})


def test_pages_of_documents(catalog):
    for name in ("b", "a", "c"):
        flip(catalog, begin(catalog, name), name)
    first = catalog.documents(MINE, "docs", limit=2)
    assert [d.id for d in first] == ["a", "b"]
    assert [d.id for d in catalog.documents(MINE, "docs", after="b")] == ["c"]


def test_deleting_a_collection_gives_up_its_objects(catalog):
    flip(catalog, begin(catalog))
    catalog.delete_collection(MINE, "docs")
    assert catalog.dropped == ["c1", "text of c1"]
    assert catalog.collections(MINE) == []


def test_many_threads_flip_one_document(catalog):
    ids = [begin(catalog) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda generation: flip(catalog, generation, chunks=2), ids))
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": ids[-1]}
    assert catalog.collection(MINE, "docs").chunks == 2
    assert sorted(catalog.stale_generations(MINE, "docs", "d")) == ids[:-1]


TOKENS = st.dictionaries(st.integers(0, 5), st.integers(1, 3), max_size=4)
STEPS = st.lists(st.tuples(st.sampled_from("abc"), st.none() | TOKENS), max_size=12)


@settings(max_examples=25, deadline=None)
@given(steps=STEPS)
def test_token_frequencies_are_those_of_the_live_documents(tmp_path_factory, steps):
    """Whatever is written, replaced (tokens) and deleted (None), the counts are the live sums."""
    path = tmp_path_factory.mktemp("model") / "catalog.sqlite"
    database = Database.open(f"sqlite:///{path}")
    catalog = Catalog(database)
    catalog.create_collection(MINE, "docs", {})
    live: dict[str, dict[int, int]] = {}
    for document, tokens in steps:
        if tokens is not None:
            flip(catalog, begin(catalog, document), document, chunks=3, token_chunks=tokens)
            live[document] = tokens
        elif live.pop(document, None) is not None:
            catalog.delete_document(MINE, "docs", document)
    expected = sum((Counter(tokens) for tokens in live.values()), Counter())
    counts, chunks = catalog.token_document_frequencies(MINE, "docs", range(6))
    assert {token: count for token, count in counts.items() if count} == dict(expected)
    assert chunks == 3 * len(live)
    database.close()


def frequencies(catalog, *tokens):
    return catalog.token_document_frequencies(MINE, "docs", tokens)


def test_a_collection_and_a_document_are_what_was_written(catalog):
    made = catalog.create_collection(MINE, "b", {"k": [1]}, settings={"s": True}, system_prompt="p")
    assert catalog.collection(MINE, "b") == made
    assert (made.pipeline, made.settings, made.system_prompt) == ({"k": [1]}, {"s": True}, "p")
    assert (made.chunks, made.created_at.utcoffset()) == (0, UTC.utcoffset(None))
    assert [found.name for found in catalog.collections(MINE)] == ["b", "docs"]
    changed = catalog.update_collection(MINE, "b", answer_language="fr", settings=None)
    assert (changed.answer_language, changed.settings) == ("fr", {"s": True})
    generation = begin(catalog)
    flip(catalog, generation, pages=2, metadata={"k": ["v"]}, warnings=("w",))
    found = catalog.document(MINE, "docs", "d")
    assert (found.id, found.generation, found.source, found.title) == ("d", generation, "s", "T")
    assert (found.content_hash, found.text_hash) == ("c1", "text of c1")
    assert (found.chunks, found.tokens, found.pages, found.characters) == (1, 10, 2, 40)
    assert (found.metadata, found.warnings) == ({"k": ["v"]}, ("w",))


def test_a_flip_counts_the_new_generation_instead_of_the_old(catalog):
    flip(catalog, begin(catalog), chunks=3, token_chunks={5: 2, 6: 1})
    created = catalog.document(MINE, "docs", "d").created_at
    flip(catalog, begin(catalog), chunks=2, token_chunks={6: 2}, title="B")
    found = catalog.document(MINE, "docs", "d")
    assert (found.title, found.created_at) == ("B", created)
    assert frequencies(catalog, 5, 6, 7) == ({5: 0, 6: 2}, 2)


def test_a_repeated_flip_changes_nothing(catalog):
    generation = begin(catalog)
    for _ in range(2):
        assert flip(catalog, generation, chunks=2, token_chunks={1: 2})
    assert catalog.stale_generations(MINE, "docs", "d") == []  # a purge would take what is live
    assert frequencies(catalog, 1) == ({1: 2}, 2)


def test_an_abandoned_generation_is_stale_but_never_a_live_one(catalog):
    live, failed = begin(catalog), begin(catalog)
    flip(catalog, live)
    catalog.abandon(MINE, "docs", failed)
    catalog.abandon(MINE, "docs", live)
    assert catalog.stale_generations(MINE, "docs", "d") == [failed]
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": live}


def test_a_purge_leaves_what_is_live_or_being_written(catalog):
    live = begin(catalog)
    flip(catalog, live)
    catalog.purged(MINE, "docs", [live])
    assert catalog.dropped == []
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": live}
    begin(catalog, "other", content="c1")  # is about to need the same objects
    catalog.delete_document(MINE, "docs", "d")
    catalog.purged(MINE, "docs", [live])
    assert catalog.dropped == []


def test_every_call_is_within_its_scope(catalog):
    live, writing = begin(catalog), begin(catalog)
    flip(catalog, live)
    revision = (writing, "d")
    calls = {
        "collection": (),
        "update_collection": (),
        "delete_collection": (),
        "documents": (),
        "document": ("d",),
        "live_generations": (["d"],),
        "flip": (revision,),
        "delete_document": ("d",),
        "abandon": (writing,),
        "stale_generations": ("d",),
        "purged": ([writing],),
        "token_document_frequencies": ([1],),
    }
    for scope in (THEIRS, Scope("mine", collections=frozenset())):
        for name, more in calls.items():
            with pytest.raises(NotFound, match="no collection 'docs'"):
                getattr(catalog, name)(scope, "docs", *more)
        hashes = {"content_hash": "c", "text_hash": "t", "parsed_hash": ""}
        with pytest.raises(NotFound):
            catalog.begin_generation(scope, "docs", "d", **hashes)
    assert catalog.live_generations(MINE, "docs", ["d"]) == {"d": live}


def test_generations_of_another_tenant_are_out_of_reach(catalog):
    # Ids of generations count over all tenants, so one tenant can name those of another.
    catalog.create_collection(THEIRS, "docs", {})
    writing = begin(catalog)
    catalog.abandon(THEIRS, "docs", writing)
    assert catalog.stale_generations(MINE, "docs", "d") == []
    catalog.abandon(MINE, "docs", writing)
    catalog.purged(THEIRS, "docs", [writing])
    assert catalog.stale_generations(MINE, "docs", "d") == [writing]


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(StoreUnreachable, match="does not answer"):
        Database.open(f"sqlite:///{tmp_path}")  # a folder


def test_an_address_that_is_none_is_refused_without_repeating_it():
    with pytest.raises(InvalidInput) as raised:
        Database.open("hunter2")
    assert "hunter2" not in str(raised.value)


def test_documents_by_what_their_source_begins_with(catalog):
    sources = {"a": "/docs/a.md", "b": "/Docs/b.md", "c": "/docs-2/c.md", "d": "/d%cs/d.md"}
    for document, source in sources.items():
        flip(catalog, begin(catalog, document), document, source=source)
    assert catalog.sources_below(MINE, "docs", "/docs/") == [("a", "/docs/a.md")]
    assert catalog.sources_below(MINE, "docs", "/d%") == [("d", "/d%cs/d.md")]
    assert len(catalog.sources_below(MINE, "docs", "")) == 4
    with pytest.raises(NotFound):
        catalog.sources_below(THEIRS, "docs", "")


def filled(catalog: Catalog, count: int) -> None:
    """So many live documents with ended tasks, written at once."""
    found, now = catalog.collection(MINE, "docs"), datetime.now(UTC)
    common = {"collection_id": found.id, "created_at": now, "updated_at": now}
    counts = dict.fromkeys(("chunks", "tokens", "pages", "characters"), 0)
    job = {"id": "j", "collection_id": found.id, "request_hash": "", "created_at": now}
    rows = [
        {
            **common, **counts, "id": n, "document_id": f"d{n}", "generation": n, "state": "live",
            "content_hash": f"c{n}", "text_hash": f"t{n}", "parsed_hash": f"p{n}", "warnings": [],
            "token_chunks": b"", "source": "", "title": "", "media_type": "",
            "metadata": {}, "fingerprint": "",
        }
        for n in range(1, count + 1)
    ]  # fmt: skip
    task = {"job_id": "j", "position": 0, "stage": "", "done": 0, "total": 0, "starts": 0}
    with catalog._database.write() as connection:
        for table in (generations, documents):
            columns = set(table.c.keys())
            part = [{k: v for k, v in row.items() if k in columns} for row in rows]
            connection.execute(table.insert(), part)
        connection.execute(jobs.insert().values(job))
        more = {**task, "source": {}, "state": "done", "content_hash": "", "retries": 0}
        connection.execute(
            tasks.insert(),
            [
                {"collection_id": found.id, "document_id": row["document_id"],
                 "generation": row["id"], "updated_at": now, **more}
                for row in rows
            ],
        )  # fmt: skip


def test_deleting_a_document_costs_the_same_however_many_there_are(catalog):
    """With 3,000 documents a purge took 120 thousand instructions: it looked at every row."""
    if catalog._database._engine.name != "sqlite":
        pytest.skip("counts SQLite's instructions")
    filled(catalog, 3000)
    for call in (
        partial(catalog.delete_document, MINE, "docs", "d7"),
        partial(catalog.stale_generations, MINE, "docs", "d7"),
        partial(catalog.purged, MINE, "docs", [7]),
        catalog.all_stale,
    ):
        assert work_of(catalog._database, call) <= 3
    assert catalog.dropped == ["c7", "p7", "t7"]
