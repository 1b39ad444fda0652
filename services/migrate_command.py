"""`rag migrate`: in this process where it can open the data folder, or through a running server."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rag.builds import Migration, Wish
from rag.errors import InvalidInput, NotFound, RagError, StoreUnreachable
from rag.migrate import model_id
from rag.orchestrator import Orchestrator
from rag.settings import load_settings
from services import running
from services.client import authorization, failure
from services.reach import open_or_find
from services.schemas import MigrationOut, MigrationRequest, QueryIn

FAILED = 1
POLL_SECONDS = 0.5
HTTP_SECONDS = 600.0  # starting one loads a model, and may fetch it first


class Migrations(Protocol):
    """Where migrations are done. What is asked for is over when a method returns."""

    def start(self, name: str, request: MigrationRequest) -> MigrationOut:
        """Build, compare, and flip unless something speaks against it."""

    def go_on(self, name: str) -> MigrationOut | None:
        """See what was asked for through to its end; None when nothing is left of it."""

    def ask(self, name: str, wish: Wish) -> MigrationOut | None:
        """Flip, go back, or drop."""

    def status(self, name: str) -> MigrationOut:
        """How far it is. Raises NotFound."""


def migrate(
    collection: str,
    to: Annotated[
        str | None, typer.Option("--to", help="The embedder to go to: an id or a folder.")
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="Of LLM-Embedder: qa, convsearch, chat, lrlm, icl, tool.")
    ] = "",
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Questions to compare both indexes with: one a line, or BEIR's queries.jsonl,"
            " also with `documents`. Default: made of the collection."
        ),
    ] = None,
    no_flip: Annotated[
        bool, typer.Option("--no-flip", help="Build and compare, and leave it aside.")
    ] = False,
    most_loss: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Leave the new index aside when it finds the document that a question looks for"
            " among the first ten more rarely than the old one, by more than this.",
        ),
    ] = 0.02,
    flip: Annotated[bool, typer.Option("--flip", help="Put an index that is ready in place.")] = (
        False
    ),
    back: Annotated[bool, typer.Option("--back", help="Put the index of before back.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say how far it is.")] = False,
    drop: Annotated[
        bool, typer.Option("--drop", "--cancel", help="Delete the index that does not serve.")
    ] = False,
    server: Annotated[
        str | None, typer.Option(help="A running server, such as http://127.0.0.1:8000.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="The data folder.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", "-p")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move a collection to another embedder, while the old index serves; --back undoes it.

    Without an option it goes on with what was interrupted.
    """
    given = {"--to": to, "--flip": flip, "--back": back, "--status": status, "--drop": drop}
    wanted = [name for name, value in given.items() if value]
    if len(wanted) > 1:
        raise InvalidInput(f"{' and '.join(wanted)} do not go together.", hint="Give one of them.")
    if task and not to:
        raise InvalidInput("--task belongs to --to.", hint="Name the model as well.")
    request = None
    if to:
        request = MigrationRequest(
            to=to, task=task, flip=not no_flip, most_loss=most_loss, queries=_read(queries)
        )
    with _where(server, data, profile) as migrations:
        result = _carry_out(migrations, collection, wanted[0] if wanted else "", request)
    _show(collection, result, as_json=as_json)
    refused = result is not None and result.state == "ready" and bool(to) and not no_flip
    if refused:
        raise typer.Exit(FAILED)


def _carry_out(
    migrations: Migrations, name: str, wanted: str, request: MigrationRequest | None
) -> MigrationOut | None:
    if request is not None:
        return migrations.start(name, request)
    if wanted == "--status":
        return migrations.status(name)
    wishes: dict[str, Wish] = {"--flip": "flip", "--back": "back", "--drop": "drop"}
    if wanted in wishes:
        return migrations.ask(name, wishes[wanted])
    migrations.status(name)  # NotFound when there is nothing to go on with
    return migrations.go_on(name)


@contextmanager
def _where(server: str | None, data: Path | None, profile: str | None) -> Iterator[Migrations]:
    """Through the server that is named, or has the data folder open; else in this process."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    settings = load_settings(data=data, profile=profile)
    with _bar(err) as bar:
        found = server or open_or_find(settings)
        if isinstance(found, str):
            timeout = httpx.Timeout(HTTP_SECONDS, connect=5.0)
            headers = authorization(settings.api_key)
            with httpx.Client(
                base_url=found,
                timeout=timeout,
                headers=headers,
                verify=running.trusted(settings.data, found),
                trust_env=False,
            ) as client:
                yield Through(client, bar)
        else:
            with found:
                yield Here(found, bar)


class Here:
    """In this process."""

    def __init__(self, rag: Orchestrator, bar: "Bar") -> None:
        from rag.migrating import Migrator

        self._rag = rag
        self._bar = bar
        self._migrator = Migrator(rag.parts)

    def start(self, name: str, request: MigrationRequest) -> MigrationOut:
        """As `Migrations`."""
        from rag.migrate import start

        to = model_id(request.to, request.task)
        start(self._rag.parts, self._rag.scope, name, to, request.options())
        result = self.go_on(name)
        assert result is not None  # what was started is dropped by nobody else
        return result

    def go_on(self, name: str) -> MigrationOut | None:
        """As `Migrations`."""
        found = self._migrator.run(self._rag.scope, name, self._told)
        return MigrationOut.of(found) if found is not None else None

    def ask(self, name: str, wish: Wish) -> MigrationOut | None:
        """As `Migrations`."""
        self._rag.parts.builds.ask(self._rag.scope, name, wish)
        return self.go_on(name)

    def status(self, name: str) -> MigrationOut:
        """As `Migrations`."""
        return MigrationOut.of(self._rag.parts.builds.find(self._rag.scope, name))

    def _told(self, migration: Migration) -> None:
        self._bar.show(MigrationOut.of(migration))


class Through:
    """Through a running server."""

    def __init__(self, client: httpx.Client, bar: "Bar") -> None:
        self._client = client
        self._bar = bar

    def start(self, name: str, request: MigrationRequest) -> MigrationOut:
        """As `Migrations`."""
        sent = request.model_dump() | {"to": model_id(request.to)}  # a folder by its whole path
        self._call("POST", name, json=sent)
        result = self.go_on(name)
        if result is None:
            raise NotFound(f"The migration of {name!r} was dropped by somebody else.")
        return result

    def go_on(self, name: str) -> MigrationOut | None:
        """As `Migrations`."""
        while True:
            try:
                found = self.status(name)
            except NotFound:
                return None
            self._bar.show(found)
            if found.state in ("ready", "flipped", "failed"):
                if found.error:
                    raise RagError(found.error, hint=found.hint or "")
                return found
            time.sleep(POLL_SECONDS)

    def ask(self, name: str, wish: Wish) -> MigrationOut | None:
        """As `Migrations`."""
        if wish == "drop":
            self._call("DELETE", name)
        else:
            self._call("POST", name, f"/{wish}")
        return self.go_on(name)

    def status(self, name: str) -> MigrationOut:
        """As `Migrations`."""
        return self._call("GET", name)

    def _call(
        self, method: str, name: str, path: str = "", json: dict[str, Any] | None = None
    ) -> MigrationOut:
        url = f"/v1/collections/{name}/migration{path}"
        try:
            response = self._client.request(method, url, json=json)
        except httpx.HTTPError as error:
            raise StoreUnreachable(
                f"No server answers at {self._client.base_url}: {error}.",
                hint="Start it with `rag serve`, or leave --server out.",
            ) from None
        if response.is_success:
            return MigrationOut.model_validate_json(response.content)
        raise failure(response)


class Bar:
    """How far a migration is, while it runs."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._bar = bars.add_task("", total=None)

    def show(self, found: MigrationOut) -> None:
        """Draw it."""
        said = escape(found.doing or found.state)
        self._bars.update(
            self._bar, description=said, completed=found.done, total=found.total or None
        )


@contextmanager
def _bar(console: Console) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        yield Bar(bars)


def _read(queries: Path | None) -> list[QueryIn]:
    if queries is None:
        return []
    from rag.compare import read_queries

    try:
        text = queries.read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{queries} cannot be read: {error}.") from None
    return [QueryIn(text=one.text, documents=list(one.documents)) for one in read_queries(text)]


def _show(name: str, result: MigrationOut | None, *, as_json: bool) -> None:
    if as_json:
        shown = None if result is None else result.model_dump(mode="json")
        sys.stdout.write(json.dumps(shown, ensure_ascii=False, indent=2) + "\n")
        return
    out = Console(highlight=False, soft_wrap=True)
    if result is None:
        out.print(f"{escape(name)}: there is one index, and no migration.")
        return
    show_migration(out, result)


def show_migration(out: Console, found: MigrationOut) -> None:
    """The state in a line, then the comparison as a table."""
    out.print(
        f"{escape(found.collection)}: [bold]{found.state}[/], {found.done} of {found.total}"
        f" documents. Answers come from {escape(found.serving)}; aside: {escape(found.aside)}."
    )
    if found.doing:
        out.print(f"  {escape(found.doing)}")
    if found.error:
        out.print(f"  [red]{escape(found.error)}[/] [dim]{escape(found.hint or '')}[/]")
    if found.comparison is not None:
        _show_comparison(out, found.comparison)


def _show_comparison(out: Console, seen: dict[str, Any]) -> None:
    whence = "made of the collection" if seen["made"] else "given"
    out.print(f"\n{seen['queries']} queries, {whence}; {seen['known']} name their document.")
    table = Table("", "before", "after", box=None, pad_edge=False)
    before, after = seen["before"], seen["after"]
    table.add_row("embedder", escape(before["model"]), escape(after["model"]))
    table.add_row("chunks", str(before["chunks"]), str(after["chunks"]))
    table.add_row("dimensions", str(before["dim"]), str(after["dim"]))
    table.add_row("vectors", _megabytes(before), _megabytes(after))
    for mode, sides in seen["modes"].items():
        old, new = sides["before"] or {}, sides["after"]
        for key, what in (("first", "found first"), ("among_ten", "found in the first 10")):
            table.add_row(f"{mode}: {what}", _share(old.get(key)), _share(new[key]))
        table.add_row(
            f"{mode}: p50", _milliseconds(old.get("p50_ms")), _milliseconds(new["p50_ms"])
        )
        table.add_row(f"{mode}: the same in the first 10", "", _share(sides["overlap"]))
    out.print(table)
    if seen["note"]:
        out.print(f"[yellow]note:[/] {escape(seen['note'])}")
    if seen["verdict"]:
        out.print(
            f"[yellow]not flipped:[/] {escape(seen['verdict'])}. --flip does it all the same."
        )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def _megabytes(size: dict[str, Any]) -> str:
    return f"{size['vector_bytes'] / 2**20:.1f} MB"
