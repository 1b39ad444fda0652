"""Revisions by the names of their files are those that alembic knows."""

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from rag import revisions
from rag.database import Database
from rag.errors import Conflict


def test_they_are_alembics():
    config = Config()
    config.set_main_option("script_location", "rag:migrations")
    script = ScriptDirectory.from_config(config)
    assert revisions.newest() == script.get_current_head()
    assert revisions.known() == sorted(one.revision for one in script.walk_revisions())


def test_a_database_is_brought_to_the_newest_from_any(tmp_path):
    for revision in revisions.known():
        database = Database.filled(
            f"sqlite:///{tmp_path / revision}.sqlite", revision, lambda _: None
        )
        with database.read() as connection:
            assert revisions.current(connection) == revisions.newest()
            columns = {c["name"] for c in sa.inspect(connection).get_columns("tasks")}
        database.close()
        assert "password" in columns


def test_tables_of_a_newer_version_are_left_alone(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    database = Database.open(url)
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(Conflict, match="newer version of Ragstone"):
        Database.open(url)


def test_an_empty_database_is_at_none(tmp_path):
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'empty.sqlite'}")
    with engine.connect() as connection:
        assert revisions.current(connection) is None
    engine.dispose()


def test_a_database_that_is_up_to_date_is_opened_without_alembic(tmp_path):
    url = f"sqlite:///{tmp_path / 'catalog.sqlite'}"
    Database.open(url).close()
    code = (
        "import sys; from rag.database import Database; "
        f"Database.open({url!r}).close(); sys.exit('alembic' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
