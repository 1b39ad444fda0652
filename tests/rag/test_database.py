"""The database's errors, in words that say what to do."""

import pytest
import sqlalchemy as sa

from rag import database as module
from rag.database import Database
from rag.errors import StorageFull, StoreUnreachable
from rag.tables import doomed
from tests.waiting import until


def test_sqlite_without_room_says_that_the_disk_is_full(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with database.read() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def fill() -> None:
        with database.write() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            connection.execute(doomed.insert(), [{"name": f"{n:064}"} for n in range(1000)])

    with pytest.raises(StorageFull, match="disk is full"):
        fill()
    database.close()
    database = Database.open(f"sqlite:///{tmp_path / 'catalog.sqlite'}")
    with database.read() as connection:
        assert connection.execute(sa.select(doomed)).all() == []
    database.close()


def test_postgres_ends_a_transaction_that_stands_still(postgres_url, monkeypatch):
    """Its locks are what others wait for; whoever slept meanwhile is told at the next step."""
    database = Database.open(postgres_url)

    def sleep_with(lock: sa.Connection) -> None:
        lock.execute(doomed.insert().values(name="mine"))
        mine = lock.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        query = sa.text("SELECT 1 FROM pg_stat_activity WHERE pid = :pid").bindparams(pid=mine)

        def is_gone() -> bool:
            with database.read() as other:
                return other.execute(query).first() is None

        until(is_gone)
        lock.execute(sa.select(doomed))

    with monkeypatch.context() as patched:
        patched.setattr(module, "STILL_SECONDS", 0.1)
        with pytest.raises(StoreUnreachable), database.write() as connection:
            sleep_with(connection)
    with database.write() as connection:
        connection.execute(doomed.insert().values(name="mine"))
        connection.execute(doomed.delete())
    database.close()
