"""`rag backup` and `rag restore`: progress, and a backup that a running server sends."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rag import backup as made
from rag.archive import Archive, Manifest
from rag.backup import Step
from rag.disk import written_whole
from rag.errors import DataFolderBusy, InvalidInput, NotFound, StoreUnreachable
from rag.parts import open_parts
from rag.restore import Restored
from rag.restore import restore as put_back
from rag.settings import Settings
from services import running
from services.client import authorization, failure

CONNECT_SECONDS = 5.0


def backup(console: Console, settings: Settings, path: Path, server: str | None) -> Manifest:
    """Write a backup of the data that the settings name: in this process, or by the server that
    has the folder open, or by the one that is named. Raises DataFolderBusy when something else has.
    """
    if server is not None:
        return download(console, settings, path, server)
    if settings.database_url is None and not (settings.data / "catalog.sqlite").exists():
        raise NotFound(f"There is no data in {settings.data}.", hint="Name the folder with --data.")
    try:
        parts = open_parts(settings)
    except DataFolderBusy:
        if (url := running.find(settings.data)) is None:
            raise
        return download(console, settings, path, url)
    try:
        with _steps(console) as on_step:
            return made.write(parts, path, on_step)
    finally:
        parts.close()


def download(console: Console, settings: Settings, path: Path, server: str) -> Manifest:
    """Have a running server send a backup; the file has its name only when it is whole."""
    if not server.startswith(("http://", "https://")):
        raise InvalidInput(f"--server takes a URL such as http://127.0.0.1:8000, not {server!r}.")
    timeout = httpx.Timeout(CONNECT_SECONDS, read=settings.backup_lease_seconds)
    headers = authorization(settings.api_key)
    verify = running.trusted(settings.data, server)
    with written_whole(path) as file:
        try:
            with (
                httpx.Client(
                    timeout=timeout, headers=headers, verify=verify, trust_env=False
                ) as client,
                client.stream("POST", f"{server.rstrip('/')}/v1/backup") as response,
            ):
                if response.status_code != 200:
                    raise failure(response)
                with _bytes(console) as on_bytes:
                    for piece in response.iter_raw():
                        file.write(piece)
                        on_bytes(len(piece))
        except httpx.HTTPError as error:
            raise StoreUnreachable(
                f"The backup from {server} broke off: {error or type(error).__name__}.",
                hint="The server's log may say why; nothing was kept of it.",
            ) from error
        file.flush()
        with Archive.open(Path(file.name)) as archive:  # before it gets its name
            return archive.manifest


def restore(console: Console, settings: Settings, path: Path) -> Restored:
    """Put a backup into the empty places that the settings name."""
    with _steps(console) as on_step:
        return put_back(settings, path, on_step)


def show_backup(console: Console, path: Path, manifest: Manifest) -> None:
    """One line: what the file holds."""
    counts = manifest.counts
    console.print(
        f"{escape(str(path))}: {counts['documents']} documents in {counts['collections']}"
        f" collections, {counts['points']} chunks, {path.stat().st_size / 2**20:.1f} MB, as of"
        f" {manifest.created_at}"
    )


def show_restored(console: Console, settings: Settings, restored: Restored) -> None:
    """What is there now, and which settings were others when the backup was made."""
    counts = restored.manifest.counts
    console.print(
        f"{escape(str(settings.data))}: {counts['documents']} documents in"
        f" {counts['collections']} collections, {counts['points']} chunks, as of"
        f" {restored.manifest.created_at}"
    )
    for name, (then, now) in sorted(restored.differs.items()):
        was = escape(f"{name} was {then!r} then and is {now!r} now")
        console.print(f"[yellow]note[/] {was}")


@contextmanager
def _steps(console: Console) -> Iterator[Callable[[Step], None]]:
    """A bar for each stage, one after the other."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None)

        def on_step(step: Step) -> None:
            total = step.total or None
            bars.update(bar, description=step.stage, completed=step.done, total=total)

        yield on_step


@contextmanager
def _bytes(console: Console) -> Iterator[Callable[[int], None]]:
    """What has been downloaded; how much it will be, nobody knows."""
    columns = (TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("backup", total=None)
        yield lambda count: bars.update(bar, advance=count)
