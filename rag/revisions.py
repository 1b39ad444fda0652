"""Revisions of the catalog's schema: which there are, and how a database gets to one.

alembic is imported only where something has to be migrated: without it `rag ls` takes 0.76 s in
place of 0.88.
"""

from pathlib import Path

import sqlalchemy as sa

from rag.errors import Conflict

VERSIONS = Path(__file__).parent / "migrations" / "versions"
MIGRATION_LOCK = 0x7261675F  # one number that every Ragstone process asks Postgres to lock


def known() -> list[str]:
    """Every revision, oldest first; each is the beginning of its file's name."""
    return sorted(path.name.partition("_")[0] for path in VERSIONS.glob("[0-9]*.py"))


def newest() -> str:
    """The one that this version of Ragstone works with."""
    return known()[-1]


def current(connection: sa.Connection) -> str | None:
    """The one that a database is at; None for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version"))
    revision: str | None = found.scalar_one_or_none()
    return revision


def bring_to(connection: sa.Connection, revision: str) -> None:
    """Migrate a database to a revision, within the transaction.

    Raises Conflict for one at a revision that this version of Ragstone does not know.
    """
    if connection.engine.name == "postgresql":
        # Two services that start together must not both create the tables.
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
    found = current(connection)
    if found == revision:
        return
    if found is not None and found not in known():
        raise Conflict(
            f"The catalog's tables are of a newer version of Ragstone (revision {found}).",
            hint="Run that version, or restore a backup of before into an empty folder.",
        )
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "rag:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
