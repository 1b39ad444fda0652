"""Rows as a backup keeps them: of every table that matters, in both databases."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from rag import rows
from rag.database import Database
from rag.tables import collections, generations, schema


@pytest.fixture
def database(tmp_path):
    opened = Database.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    yield opened
    opened.close()


def test_of_every_table_it_was_decided_whether_a_backup_keeps_it():
    assert {table.name for table in rows.KEPT} | set(rows.LEFT_OUT) == set(schema.tables)


SHELF = {
    "id": 3, "tenant": "t", "name": "n", "physical": "p", "pipeline": {"dim": 4, "x": [1, None]},
    "settings": {}, "system_prompt": "Sei \u00fcberlegt. \n", "answer_language": "", "chunks": 0,
    "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
}  # fmt: skip
MADE = {
    "id": 5, "collection_id": 3, "document_id": "d", "content_hash": "c", "text_hash": "t",
    "parsed_hash": "", "chunks": 1, "tokens": 2, "pages": 0, "characters": 4, "warnings": ["w"],
    "token_chunks": bytes(range(256)), "created_at": SHELF["created_at"],
}  # fmt: skip


def written(database, *states: str) -> None:
    with database.write() as connection:
        connection.execute(collections.insert(), [SHELF])
        for number, state in enumerate(states):
            row = {**MADE, "id": 5 + number, "state": state}
            connection.execute(generations.insert(), [row])


def test_every_type_of_value_survives_json(database, tmp_path):
    written(database, "live")
    with database.snapshot() as connection:
        kept = {table.name: list(rows.rows_of(connection, table)) for table in rows.KEPT}
    assert kept["generations"][0]["created_at"] == "2026-01-02T03:04:05.678901+00:00"
    other = Database.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    with other.write() as connection:
        for table in rows.KEPT:
            rows.insert(connection, table.name, kept[table.name])
    with database.read() as one, other.read() as two:
        for table in rows.KEPT:
            query = table.select().order_by(*table.primary_key.columns)
            assert one.execute(query).all() == two.execute(query).all()
    other.close()


def test_only_live_generations_are_kept(database):
    written(database, "writing", "live", "stale")
    with database.snapshot() as connection:
        assert [row["id"] for row in rows.rows_of(connection, generations)] == [6]


def test_ids_go_on_behind_the_last_one_ever_given(database, tmp_path):
    written(database, "live", "stale", "stale")
    with database.write() as connection:
        connection.execute(generations.delete().where(generations.c.state == "stale"))
    with database.read() as connection:
        last = rows.last_ids(connection)
    assert last == {
        "collections": 3,
        "generations": 7,
        "tasks": 0,
        "audit": 0,
    }  # not 5, the highest there
    other = Database.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    with other.write() as connection:
        connection.execute(collections.insert(), [SHELF])
        rows.set_last_ids(connection, last)
        fresh = {key: value for key, value in MADE.items() if key != "id"}
        made = connection.execute(generations.insert().values(**fresh, state="writing"))
        assert made.inserted_primary_key == (8,)
    other.close()


def test_a_snapshot_does_not_see_what_comes_after_it(database):
    written(database, "live")
    with database.snapshot() as connection:
        count = sa.select(sa.func.count()).select_from(generations)
        assert connection.execute(count).scalar_one() == 1
        with database.write() as writer:
            writer.execute(generations.delete())
        assert connection.execute(count).scalar_one() == 1
    with database.read() as connection:
        assert connection.execute(count).scalar_one() == 0
