"""The command line: `rag demo`, `ingest`, `ask`, `search`, `ls`, `rm`, `fsck`, `serve`, and more.

Results go to standard output, everything else to standard error. Errors are one line and a hint.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rag.errors import (
    Conflict,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RagError,
    StorageFull,
    StoreUnreachable,
)
from rag.orchestrator import Orchestrator
from rag.settings import load_settings
from rag.sources import find
from services.show import show_answer, show_hits, show_reports, watched

FAILED = 1  # the command ran and something in it failed
EXIT_CODES: dict[type[RagError], int] = {
    InvalidInput: 2,
    NotFound: 3,
    Conflict: 4,
    ModelUnavailable: 5,
    StoreUnreachable: 6,
    StorageFull: 7,
    Overloaded: 8,
}

app = typer.Typer(
    help="Retrieval-augmented generation with citations that can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="The models on this machine.", no_args_is_help=True)
app.add_typer(models, name="models")

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[Path | None, typer.Option("--data", help="The data folder.", show_default=False)]
Profile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="default, starter or gpu.", show_default=False),
]
CollectionName = Annotated[str, typer.Option("--collection", "-c", help="Which collection.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Where = Annotated[
    str | None,
    typer.Option("--filter", help='As JSON: {"author": "Smeaton", "year": {"gte": 1750}}'),
]


def main() -> None:
    """The `rag` command: errors become one line, a hint and an exit code."""
    _quiet_libraries()
    try:
        app()
    except RagError as error:
        err.print(f"[red]Error:[/] {escape(error.message)}")
        if error.hint:
            err.print(f"[dim]{escape(error.hint)}[/]")
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `rag ls | head`
        sys.stderr.close()
        sys.exit(141)


def exit_code(error: RagError) -> int:
    """The exit code of the error's class, or of the nearest class above it."""
    codes = (EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
    return next(codes, FAILED)


@app.command()
def demo(profile: Profile = None, data: Data = None) -> None:
    """Ingest a sample collection, ask it four questions; exit 0 only if all answers are right."""
    from services.demo import run_demo

    if not run_demo(out, err, data=data, profile=profile):
        raise typer.Exit(FAILED)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files and folders.")],
    collection: CollectionName = "default",
    metadata: Annotated[
        list[str] | None, typer.Option("--metadata", "-m", help="key=value, repeatable.")
    ] = None,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Ingest files and folders. The same file again is no work, a changed one replaces."""
    given = parse_metadata(metadata or [])
    with opened(data, profile) as rag:
        sources = list(find(paths, metadata=given))
        with watched(err, len(sources)) as on_progress:
            reports = rag.ingest(
                *paths, collection=collection, metadata=given, on_progress=on_progress
            )
    if as_json:
        print_json([asdict(report) for report in reports])
    else:
        show_reports(err, reports)
    if any(report.status == "failed" for report in reports):
        raise typer.Exit(FAILED)


@app.command()
def ask(
    question: str,
    collection: CollectionName = "default",
    temperature: Annotated[float | None, typer.Option(show_default=False)] = None,
    top_p: Annotated[float | None, typer.Option(show_default=False)] = None,
    max_new_tokens: Annotated[int | None, typer.Option(show_default=False)] = None,
    do_sample: Annotated[bool | None, typer.Option("--sample/--greedy", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(show_default=False)] = None,
    stop: Annotated[list[str] | None, typer.Option(show_default=False)] = None,
    where: Where = None,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Answer a question from the documents, with citations."""
    from rag.sampling import Sampling

    sampling = Sampling(temperature, top_p, max_new_tokens, do_sample, seed, tuple(stop or ()))
    with opened(data, profile) as rag:
        events = rag.stream(
            question, collection=collection, sampling=sampling, filter=parse_where(where)
        )
        answer = show_answer(out, events, quiet=as_json)
    if as_json:
        print_json(asdict(answer))


@app.command()
def search(
    question: str,
    collection: CollectionName = "default",
    limit: Annotated[int, typer.Option(help="Hits to show.")] = 10,
    mode: Annotated[str, typer.Option(help="hybrid, dense or bm25.")] = "hybrid",
    rerank: Annotated[bool, typer.Option("--rerank/--no-rerank")] = True,
    where: Where = None,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Find passages, with the score of every stage."""
    if mode not in ("hybrid", "dense", "bm25"):
        raise InvalidInput(f"mode is hybrid, dense or bm25, not {mode!r}.")
    with opened(data, profile) as rag:
        result = rag.search(
            question,
            collection=collection,
            limit=limit,
            mode=mode,  # type: ignore[arg-type] # checked above
            rerank=rerank,
            filter=parse_where(where),
        )
    if as_json:
        print_json(asdict(result))
    else:
        show_hits(out, result)


@app.command("ls")
def ls(
    collection: Annotated[str | None, typer.Argument(help="List its documents.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List collections, or the documents of one."""
    with opened(data, None) as rag:
        catalog, scope = rag.parts.catalog, rag.scope
        rows: Sequence[Any]
        columns: tuple[str, ...]
        if collection is None:
            rows = catalog.collections(scope)
            columns = ("name", "chunks", "created_at")
        else:
            rows = list(all_documents(rag, collection))
            columns = ("id", "title", "chunks", "tokens", "updated_at", "parent")
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(shown(getattr(row, column))) for column in columns))
    out.print(table)


@app.command("rm")
def rm(
    documents: Annotated[list[str] | None, typer.Argument(help="Document ids.")] = None,
    collection: CollectionName = "default",
    everything: Annotated[bool, typer.Option("--all", help="The whole collection.")] = False,
    data: Data = None,
) -> None:
    """Delete documents, or with --all a whole collection."""
    from rag import collection as shelf

    if bool(documents) == everything:
        raise InvalidInput(
            "Name documents to delete, or --all for the collection.",
            hint=f"`rag ls {collection}` lists the ids.",
        )
    with opened(data, None) as rag:
        if everything:
            shelf.drop(rag.parts, rag.scope, collection)
        for document in documents or []:
            rag.delete(document, collection=collection)


@app.command()
def fsck(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Compare catalog, object store and vectors with one another, both ways."""
    from rag.fsck import examine

    rows = []
    with opened(data, profile) as rag:
        for finding in list(examine(rag.parts)):
            outcome = "found"
            if repair and finding.repair is not None:
                finding.repair()
                outcome = "repaired"
            rows.append({"kind": finding.kind, "what": finding.what, "outcome": outcome})
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            out.print(f"{row['outcome']:8} {row['kind']}: {escape(row['what'])}")
        out.print(f"{len(rows)} findings." if rows else "Everything fits.")
    if any(row["outcome"] == "found" for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(show_default=False)] = None,
    port: Annotated[int | None, typer.Option(show_default=False)] = None,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """Run the chat and ingestion APIs in one process."""
    from services.app import create_app
    from services.service import serve as run

    settings = load_settings(data=data, profile=profile, host=host, port=port)
    # `main` has set the level of the other commands already.
    shown = "%(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=shown, force=True)
    run(create_app(settings), settings)


@app.command()
def doctor(data: Data = None, as_json: AsJson = False) -> None:
    """What this machine can run, and why."""
    from services.doctor import examine

    checks = examine(load_settings(data=data))
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mark = {True: "[green]ok[/]  ", False: "[red]no[/]  ", None: "    "}[check.ok]
            out.print(f"{mark} {check.name:18} {escape(check.found)}")
    if any(check.ok is False and check.needed for check in checks):
        raise typer.Exit(FAILED)


@models.command("pull")
def pull(
    model: Annotated[str, typer.Argument(help="A hub id, such as BAAI/bge-small-en.")],
    to: Annotated[
        Path | None, typer.Option("--to", help="A folder to copy to a machine without network.")
    ] = None,
) -> None:
    """Download a model, into the hub's cache or a folder."""
    from rag.models.load import pull as download
    from rag.models.load import resolve

    files = resolve(model) if to is None else download(model, to)
    out.print(str(files.path))


@contextmanager
def opened(data: Path | None, profile: str | None) -> Iterator[Orchestrator]:
    """The orchestrator of this command."""
    with Orchestrator.open(data, profile=profile) as rag:
        yield rag


def all_documents(rag: Orchestrator, collection: str) -> Iterator[Any]:
    """Every document of a collection, page by page."""
    after = ""
    while page := rag.parts.catalog.documents(rag.scope, collection, after=after):
        yield from page
        after = page[-1].id


def parse_metadata(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON (a number, true, a list) is taken as such."""
    metadata: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"--metadata takes key=value, not {pair!r}.")
        try:
            metadata[key] = json.loads(value)
        except ValueError:
            metadata[key] = value
    return metadata


def parse_where(where: str | None) -> dict[str, Any] | None:
    """The filter of --filter."""
    if where is None:
        return None
    try:
        given = json.loads(where)
    except ValueError as error:
        raise InvalidInput(f"--filter is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise InvalidInput('--filter takes an object such as {"author": "Smeaton"}.')
    return given


def shown(value: object) -> str:
    """A table cell."""
    if value is None:
        return ""
    return f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "strftime") else str(value)


def print_json(value: object) -> None:
    """Standard output for scripts: one JSON document, nothing else."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def _quiet_libraries() -> None:
    """Model libraries report their own progress; here only what a person asked for is shown."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("rag.models.cpu").setLevel(logging.INFO)  # a conversion takes a while
    logging.getLogger("httpx").setLevel(logging.WARNING)
