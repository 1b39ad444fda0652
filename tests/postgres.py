"""A Postgres for tests, started from what the machine has and gone when they end.

RAG_TEST_DATABASE_URL names one that runs already, in which databases may be created.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

# Nothing here has to survive a power cut.
_OPTIONS = "-c listen_addresses= -c fsync=off -c full_page_writes=off -c max_connections=200"


@dataclass(frozen=True, slots=True)
class Postgres:
    """A server that runs; `url` is that of its first database."""

    url: sa.URL

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database that is dropped again."""
        name = f"ragstone_{uuid4().hex}"
        admin = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            yield self.url.set(database=name).render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


@contextmanager
def running() -> Iterator[Postgres | None]:
    """The server that the environment names, or one that is started; None where there is none."""
    if url := os.environ.get("RAG_TEST_DATABASE_URL"):
        yield Postgres(sa.make_url(url))
        return
    owner = _owner()
    programs = next((folder for folder in _installed() if _runs(folder, owner)), None)
    if programs is None:
        yield None
        return
    # Not pytest's folder: the path of a socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ragstone-pg-"))
    try:
        with _started(folder, programs, owner) as started:
            yield started
    finally:
        shutil.rmtree(folder)


@contextmanager
def _started(folder: Path, programs: Path, owner: pwd.struct_passwd | None) -> Iterator[Postgres]:
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    data, control = folder / "data", programs / "pg_ctl"

    def run(*command: object) -> None:
        said = folder / "commands.log"  # a pipe would be the server's, too, and never end
        with said.open("wb") as log:
            ended = subprocess.run(
                list(map(str, command)), cwd=folder, check=False, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, **_as(owner),
            )  # fmt: skip
        if ended.returncode:
            raise RuntimeError(f"{command[0]} failed: {said.read_text('utf8')}")

    run(
        programs / "initdb", "-D", data, "-U", "ragstone", "--auth=trust", "--no-sync",
        "--encoding=UTF8", "--locale=C",
    )  # fmt: skip
    run(control, "-D", data, "-l", folder / "log", "-o", f"{_OPTIONS} -k {folder}", "-w", "start")
    try:
        yield Postgres(
            sa.URL.create(
                "postgresql+psycopg", "ragstone", database="postgres", query={"host": str(folder)}
            )
        )
    finally:
        run(control, "-D", data, "-m", "immediate", "-w", "stop")


def _installed() -> Iterator[Path]:
    """Folders in which initdb and pg_ctl may be: those of the package `pgserver`, of Debian, and
    where the PATH leads.
    """
    if (package := importlib.util.find_spec("pgserver")) and package.origin:
        yield Path(package.origin).parent / "pginstall" / "bin"
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if control := shutil.which("pg_ctl"):
        yield Path(control).resolve().parent


def _runs(folder: Path, owner: pwd.struct_passwd | None) -> bool:
    """Whether the programs are there, and the server's user may run them."""
    command = [folder / "initdb", "--version"]
    try:
        return subprocess.run(command, cwd="/", capture_output=True, **_as(owner)).returncode == 0
    except OSError:
        return False


def _as(owner: pwd.struct_passwd | None) -> dict[str, Any]:
    if owner is None:
        return {}
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}


def _owner() -> pwd.struct_passwd | None:
    """Whom the server runs as: it refuses root, who runs tests in a container."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("Postgres refuses root, and there is neither a user postgres nor nobody.")
