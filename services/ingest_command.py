"""`rag ingest`: files and folders into a collection, once or as they change."""

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from rag.errors import InvalidInput, NotFound
from rag.folder import LeftOut, Selection
from rag.ingest import unread
from rag.settings import Settings
from rag.sources import Source, as_text, check_metadata, find, of_file
from rag.types import DocumentReport, Metadata
from services.destination import Destination
from services.feed import Feed
from services.in_process import InProcess
from services.progress import Progress
from services.reach import client_of, open_or_find
from services.show import show_reports
from services.through_server import ThroughServer
from services.watch import Watched, changes

NAMES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command was asked to do."""

    paths: tuple[Path, ...]
    collection: str
    metadata: Metadata
    selection: Selection
    delete: bool = False
    watch: bool = False
    password: str | None = field(default=None, repr=False)  # opens files that have one

    @property
    def folders(self) -> list[Path]:
        """Those of the paths that are folders."""
        return [path for path in self.paths if path.is_dir()]

    @property
    def named(self) -> set[str]:
        """The origins of files that were named by themselves."""
        files = (path for path in self.paths if not path.is_dir())
        return {of_file(path, {}).origin for path in files}

    def check(self, settings: Settings) -> None:
        """Raise InvalidInput for what cannot be done."""
        self.selection.check()
        check_metadata(self.metadata, settings.max_metadata_bytes)
        if self.watch and any(path.is_file() for path in self.paths):
            raise InvalidInput(
                "--watch takes folders.", hint="Name the folder of the file, with --include FILE."
            )


def run(wanted: Wanted, settings: Settings, err: Console) -> list[DocumentReport]:
    """Ingest what was asked for; a report of each document that was tried or deleted.

    What was accepted when this ends early, by an error or an interrupt, is ingested by the next
    process that opens the data folder. With `watch` it goes on until it is interrupted.
    """
    wanted.check(settings)
    watched = Watched(wanted.folders, wanted.selection)
    if wanted.watch:
        watched.begin()  # before anything is looked for: what comes from now on is a change
    left_out = LeftOut()
    found = find(
        wanted.paths,
        metadata=wanted.metadata,
        password=wanted.password,
        selection=wanted.selection,
        left_out=left_out,
    )
    sources = list(found)
    reports = unread(left_out)
    show_reports(err, reports, summary=False)
    if left_out.links:
        links = _listed([str(path) for path in left_out.links])
        err.print(f"Links to folders are not followed: {links}")
    with destination(settings, wanted.collection, err) as into:
        try:
            reports += _ingest(into, settings, err, sources, wanted.named, resume=True)
            reports += _sweep(wanted, into, err)
            if wanted.watch:
                _watch(wanted, watched, settings, err, into)
        except KeyboardInterrupt:
            if not wanted.watch:
                raise
            err.print("Stopped.")
    return reports


@contextmanager
def destination(settings: Settings, collection: str, err: Console) -> Iterator[Destination]:
    """This process's own, or that of the server which has the data folder open.

    Raises DataFolderBusy when something else has.
    """
    found = open_or_find(settings)
    if isinstance(found, str):
        err.print(f"[dim]The server at {escape(found)} has the data folder open, and ingests.[/]")
        with client_of(found, settings) as client:
            yield ThroughServer(client, collection)
    else:
        with found, closing(InProcess(found, collection)) as own:
            yield own


def _watch(
    wanted: Wanted, watched: Watched, settings: Settings, err: Console, into: Destination
) -> None:
    """Ingest what changes, until interrupted."""
    err.print(f"Watching {_listed([str(folder) for folder in wanted.folders])}. Ctrl-C ends it.")
    for change in changes(watched, wanted.folders, never=wanted.selection.never):
        if change.files:
            changed = [of_file(file, wanted.metadata, wanted.password) for file in change.files]
            _ingest(into, settings, err, changed, ())
        if change.some_gone:
            _sweep(wanted, into, err)


def _ingest(
    into: Destination,
    settings: Settings,
    err: Console,
    sources: Sequence[Source],
    named: Collection[str],
    *,
    resume: bool = False,
) -> list[DocumentReport]:
    """Ingest files and say what became of them, also when it ends early."""
    with Progress(err) as progress:
        feed = Feed(into, settings, progress)
        try:
            if resume:
                feed.resume()
            feed.take(sources, named=named)
        finally:
            result = feed.result
            show_reports(err, result.reports, result.skipped)
            if result.open:
                err.print(
                    f"{result.open} documents are accepted and not done: they go on as soon as"
                    " `rag serve` or `rag ingest` has the data folder open."
                )
    return result.reports


def _sweep(wanted: Wanted, into: Destination, err: Console) -> list[DocumentReport]:
    """Delete the documents of folders whose files are gone, or say which those are."""
    gone = _gone(into, wanted.folders)
    if not gone:
        return []
    if not wanted.delete:
        names = _listed([source for _, source in gone])
        err.print(f"{len(gone)} documents have no file any more; --delete removes them: {names}")
        return []
    for document_id, _ in gone:
        with suppress(NotFound):  # somebody was faster
            into.delete(document_id)
    err.print(f"{len(gone)} documents deleted: {_listed([source for _, source in gone])}")
    return [DocumentReport(document_id, "deleted", source) for document_id, source in gone]


def _gone(into: Destination, folders: Sequence[Path]) -> list[tuple[str, str]]:
    """(id, source) of documents that came from below these folders, and whose files do not exist.

    A file that is there and only left out, by a pattern or an ignore file, is not gone. Nor is one
    of which the system does not say so: it may lie on a disk that is not there just now.
    """
    prefixes = {as_text(str(folder.resolve())).rstrip("/") + "/" for folder in folders}
    found = {pair for prefix in prefixes for pair in into.sources_below(prefix)}
    return sorted(pair for pair in found if _is_gone(pair[1]))


def _is_gone(source: str) -> bool:
    if "\\" in source:  # it may stand for bytes of a name that is no text, see `as_text`
        return False
    try:
        os.lstat(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(escape(name) for name in names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
