"""`rag keys`: who may use the service. It works beside a running one, which sees it at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from getpass import getuser
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.audit import Audit, Entry
from rag.database import Database
from rag.errors import InvalidInput
from rag.keys import ROLES, Key, Keys, Role
from rag.settings import Settings, load_settings
from services.logs import shown
from services.show import print_json

app = typer.Typer(help="API keys: who may use the service.", no_args_is_help=True)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[Path | None, typer.Option("--data", help="The data folder.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Whose. [RAG_TENANT]", show_default=False)
]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, to tell it from others.")],
    role: Annotated[str, typer.Option("--role", "-r", help=f"{', '.join(ROLES)}.")],
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="That it reaches, repeatable.")
    ] = None,
    all_collections: Annotated[
        bool, typer.Option("--all-collections", help="All of the tenant, and those to come.")
    ] = False,
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", help="That it is in, repeatable.")
    ] = None,
    all_groups: Annotated[
        bool, typer.Option("--all-groups", help="Sees every document of its collections.")
    ] = False,
    tenant: Tenant = None,
    days: Annotated[
        float | None, typer.Option("--days", help="Until it expires. [never]", min=0.001)
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(min=1, help="Requests. [RAG_REQUESTS_PER_MINUTE]")
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed once, and kept nowhere.

    A key reaches the collections that are named, and documents that name no group or one of its
    own. One of role admin reaches all of its tenant unless something is named.
    """
    is_admin = role == "admin"
    if role in ("read", "write") and not collection and not all_collections:
        raise InvalidInput(
            "The key would reach no collection.",
            hint="Name one with --collection, repeatable, or allow --all-collections.",
        )
    every_collection = all_collections or (is_admin and not collection)
    every_group = all_groups or (is_admin and not group)
    settings = load_settings(data=data)
    with _database(settings) as database:
        key, text = Keys(database).create(
            name,
            cast(Role, role),
            tenant=tenant or settings.tenant,
            groups=None if every_group else group or (),
            collections=None if every_collection else collection or (),
            expires_at=datetime.now(UTC) + timedelta(days=days) if days else None,
            per_minute=per_minute,
        )
        _write_down(database, key, "keys create")
    if as_json:
        print_json({**_shown(key), "key": text})
        return
    out.print(escape(text))
    err.print("[dim]It is shown this once. Send it as `Authorization: Bearer ...`.[/]")


@app.command("ls")
def ls(tenant: Tenant = None, data: Data = None, as_json: AsJson = False) -> None:
    """Every key there ever was, by its prefix; the secrets are not kept."""
    with _database(load_settings(data=data)) as database:
        keys = Keys(database).every(tenant)
    if as_json:
        print_json([_shown(key) for key in keys])
        return
    table = Table("prefix", "name", "role", "tenant", "collections", "groups", "state", "used")
    for key in keys:
        used = f"{key.used_at:%Y-%m-%d %H:%M}" if key.used_at else "never"
        table.add_row(
            key.prefix,
            escape(key.name),
            key.role,
            escape(key.tenant),
            _listed(key.collections),
            _listed(key.groups),
            key.state(datetime.now(UTC)),
            used,
        )
    out.print(table)


@app.command("revoke")
def revoke(
    prefix: Annotated[str, typer.Argument(help="As `rag keys ls` shows it.")], data: Data = None
) -> None:
    """End a key, effective with the next request."""
    with _database(load_settings(data=data)) as database:
        key = Keys(database).revoke(prefix)
        _write_down(database, key, "keys revoke")
    out.print(f"{key.prefix} ({escape(key.name)}) is revoked")


def audit(
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 100,
    tenant: Tenant = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Who wrote what, and who was denied what: the latest entries of the audit log."""
    with _database(load_settings(data=data)) as database:
        entries = Audit(database).entries(tenant, limit=limit)
    if as_json:
        print_json([asdict(entry) for entry in entries])
        return
    table = Table("at", "caller", "tenant", "action", "target", "status", "address")
    for entry in entries:
        table.add_row(*_cells(entry))
    out.print(table)


def _write_down(database: Database, key: Key, action: str) -> None:
    """What gives access, or takes it, is in the audit log like all that is written over HTTP."""
    entry = Entry(
        at=datetime.now(UTC),
        tenant=key.tenant,
        caller=f"shell:{getuser()}"[:200],
        action=action,
        target=f"{key.prefix} ({key.name}, {key.role})",
        status=200,
        address="",
        request_id="",
    )
    Audit(database).write(entry)


def _cells(entry: Entry) -> tuple[str, ...]:
    found = (entry.caller, entry.tenant, entry.action, entry.target)
    named = (escape(shown(value)) or "-" for value in found)
    return (f"{entry.at:%Y-%m-%d %H:%M:%S}", *named, str(entry.status), entry.address)


def _shown(key: Key) -> dict[str, Any]:
    found = asdict(key)
    for name in ("groups", "collections"):
        if found[name] is not None:
            found[name] = sorted(found[name])
    return {**found, "state": key.state(datetime.now(UTC))}


def _listed(names: frozenset[str] | None) -> str:
    return "all" if names is None else escape(", ".join(sorted(names))) or "-"


@contextmanager
def _database(settings: Settings) -> Iterator[Database]:
    """The catalog's database alone: the data folder may be open in a server."""
    database = Database.open(settings.catalog_url)
    try:
        yield database
    finally:
        database.close()
