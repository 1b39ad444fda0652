"""The command line: `rag demo`, `ingest`, `ask`, `search`, `ls`, `rm`, `fsck`, `backup` and more.

Results go to standard output, everything else to standard error. Errors are one line and a hint.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
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
    DataFolderBusy,
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    Overloaded,
    RagError,
    StorageFull,
    StoreUnreachable,
    Unauthenticated,
)
from rag.folder import Selection
from rag.orchestrator import Orchestrator
from rag.settings import load_settings
from services.eval_command import app as evaluation
from services.keys_command import app as keys
from services.keys_command import audit
from services.migrate_command import migrate
from services.reach import open_or_find, reached
from services.schemas import Wire
from services.show import print_json, show_answer, show_hits

FAILED = 1  # the command ran and something in it failed
EXIT_CODES: dict[type[RagError], int] = {
    InvalidInput: 2,
    NotFound: 3,
    Conflict: 4,
    ModelUnavailable: 5,
    StoreUnreachable: 6,
    StorageFull: 7,
    Overloaded: 8,
    Unauthenticated: 9,
    Forbidden: 9,
}

app = typer.Typer(
    help="Retrieval-augmented generation with citations that can be checked.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="The models on this machine.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(evaluation, name="eval")
app.add_typer(keys, name="keys")
app.command()(audit)

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Data = Annotated[Path | None, typer.Option("--data", help="The data folder.", show_default=False)]
Profile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="default, starter or gpu.", show_default=False),
]
CollectionName = Annotated[str, typer.Option("--collection", "-c", help="Which collection.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API answers it.")]
Where = Annotated[
    str | None,
    typer.Option("--filter", help='As JSON: {"author": "Smeaton", "year": {"gte": 1750}}'),
]


def main() -> None:
    """The `rag` command: errors become one line, a hint and an exit code."""
    _quiet_libraries()
    told(app)


def told(command: Callable[[], object]) -> None:
    """Run a command; its errors become one line, a hint and an exit code."""
    try:
        command()
    except RagError as error:
        message = error.message
        if isinstance(error, StoreUnreachable) and error.inside:
            message = f"{message.rstrip('.')} ({error.inside})."
        err.print(f"[red]Error:[/] {escape(message)}")
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
    include: Annotated[
        list[str] | None, typer.Option(help="Of folders, only what matches: '*.md'.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Leave out what matches: 'drafts/'.")
    ] = None,
    gitignore: Annotated[bool, typer.Option(help="Heed .gitignore files.")] = True,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete documents of folders whose files are gone.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on, and ingest what changes, until Ctrl-C.")
    ] = False,
    password: Annotated[
        str | None,
        typer.Option(help="Opens files that have one.", envvar="RAG_PASSWORD", show_default=False),
    ] = None,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Ingest files and folders. The same file again is no work, a changed one replaces.

    Of folders, hidden files and what .gitignore and .ragignore name are left out. While a server
    has the data folder open, it does the work.
    """
    from services.ingest_command import Wanted, run

    settings = load_settings(data=data, profile=profile)
    selection = Selection(
        tuple(include or ()), tuple(exclude or ()), gitignore, never=(settings.data,)
    )
    given = parse_pairs("--metadata", metadata or [])
    wanted = Wanted(tuple(paths), collection, given, selection, delete, watch, password)
    reports = run(wanted, settings, err)
    if as_json:
        print_json([asdict(report) for report in reports])
    if any(report.status in ("failed", "cancelled") for report in reports):
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
    with reached(load_settings(data=data, profile=profile)) as folder:
        events = folder.ask(
            question, collection=collection, sampling=sampling, filter=parse_where(where)
        )
        answer = show_answer(out, events, quiet=as_json)
    if as_json:
        print_json(answer.model_dump(mode="json"))


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
    with reached(load_settings(data=data, profile=profile)) as folder:
        result = folder.search(
            question,
            collection=collection,
            limit=limit,
            mode=mode,
            rerank=rerank,
            filter=parse_where(where),
        )
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        show_hits(out, result)


@app.command()
def trace(
    trace_id: Annotated[str | None, typer.Argument(help="Default: the newest ones.")] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Only those of it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Traces to list.")] = 20,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Why an answer says what it says: every candidate, its scores, and what became of it."""
    from services.trace_command import show_rows, show_trace

    with reached(load_settings(data=data)) as folder:
        if trace_id is None:
            rows = folder.traces(collection, limit)
            if as_json:
                print_json([row.model_dump(mode="json") for row in rows])
            else:
                show_rows(out, rows)
            return
        found = folder.trace(trace_id)
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        show_trace(out, found)


@app.command()
def replay(
    trace_id: Annotated[str, typer.Argument(help="The answer's; `rag trace` lists them.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--with", help="key=value, as rerank_limit=0 or generator=quote; repeatable."),
    ] = None,
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Ask a question again, and see what another setting would have answered."""
    from services.trace_command import run_replay, show_replay

    given = parse_pairs("--with", changes or [])
    before, now = run_replay(trace_id, given, load_settings(data=data, profile=profile))
    if as_json:
        print_json(
            {name: one.model_dump(mode="json") for name, one in (("before", before), ("now", now))}
        )
    else:
        show_replay(out, before, now, given)


@app.command("ls")
def ls(
    collection: Annotated[str | None, typer.Argument(help="List its documents.")] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """List collections, or the documents of one."""
    with reached(load_settings(data=data)) as folder:
        rows: Sequence[Wire]
        columns: tuple[str, ...]
        if collection is None:
            rows = folder.collections()
            columns = ("name", "chunks", "created_at")
        else:
            rows = list(folder.documents(collection))
            columns = ("id", "title", "chunks", "tokens", "updated_at", "parent")
    if as_json:
        print_json([row.model_dump(mode="json") for row in rows])
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
    where: Where = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --filter: say what would be deleted.")
    ] = False,
    prove: Annotated[
        bool, typer.Option("--prove", help="Count what there was and what is left, everywhere.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Delete documents, those that a filter picks, or with --all a whole collection."""
    from services import remove

    named, picked = documents or [], parse_where(where)
    remove.check_choice(named, picked, everything=everything, prove=prove, dry_run=dry_run)
    with reached(load_settings(data=data)) as folder:
        if everything:
            folder.drop(collection)
            return
        ids, proofs = remove.remove(
            folder, named, picked, collection=collection, prove=prove, dry_run=dry_run
        )
    if as_json:
        print_json(remove.as_rows(ids, proofs))
    elif proofs or picked is not None:
        remove.show(out, ids, proofs, dry_run=dry_run)
    if not all(proof.gone for proof in proofs):
        raise typer.Exit(FAILED)


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


app.command("migrate")(migrate)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    server: Annotated[
        str | None,
        typer.Option(help="A running server makes it: its URL.", show_default=False),
    ] = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Write everything into one file, consistent at one moment, while all goes on."""
    from services import cli_backup

    settings = load_settings(data=data)
    manifest = cli_backup.backup(err, settings, file, server)
    if as_json:
        print_json({**asdict(manifest), "file": str(file)})
    else:
        cli_backup.show_backup(err, file, manifest)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `rag backup` wrote.")],
    data: Data = None,
    profile: Profile = None,
    as_json: AsJson = False,
) -> None:
    """Put a backup into an empty data folder, verified before anything is written."""
    from services import cli_backup

    settings = load_settings(data=data, profile=profile)
    restored = cli_backup.restore(err, settings, file)
    if as_json:
        print_json(asdict(restored))
    else:
        cli_backup.show_restored(err, settings, restored)


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
    run(create_app(settings), settings)


@app.command(name="score-batch")
def score_batch(
    source: Annotated[Path, typer.Argument(help="A folder of CSV files with input_string.")],
    target: Annotated[Path, typer.Argument(help="A folder for predictions.csv, errors.csv.")],
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Answer from it, else continue.")
    ] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    max_new_tokens: Annotated[int | None, typer.Option()] = None,
    do_sample: Annotated[bool | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    full_text: Annotated[
        bool | None, typer.Option("--full-text/--no-full-text", help="With the input in front.")
    ] = None,
    mini_batch: Annotated[
        int | None, typer.Option(min=1, help="Rows scored together. [10]")
    ] = None,
    retries: Annotated[int | None, typer.Option(min=0, help="Of a row that may heal. [3]")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for a mini batch. [any]")
    ] = None,
    error_threshold: Annotated[
        int | None, typer.Option(min=-1, help="More failed rows end the run; -1: none does. [-1]")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML of these; options win over it.")
    ] = None,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """Score CSV files row by row; a run that was killed goes on where it was.

    While a server has the data folder open, it does the work.
    """
    from services.score_batch import score_folder
    from services.score_config import ScoreConfig, read_config
    from services.scorers import scoring_with
    from services.show import counting

    read = ScoreConfig() if config is None else read_config(config)
    wanted = read.with_options(
        collection=collection,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        do_sample=do_sample,
        seed=seed,
        return_full_text=full_text,
        mini_batch_size=mini_batch,
        retries=retries,
        timeout=timeout,
        error_threshold=error_threshold,
    )
    logging.getLogger().setLevel(wanted.level)
    batching = wanted.batching
    settings = load_settings(data=data, profile=profile)
    with scoring_with(settings) as scorer, counting(err, "rows") as told:
        rows, failed = score_folder(scorer, source, target, wanted.scoring, batching, told)
    out.print(f"{rows} rows: {rows - failed} in {batching.output}, {failed} in errors.csv")
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def mcp(data: Data = None, profile: Profile = None) -> None:
    """Speak MCP over standard input and output, for an agent that starts this command."""
    from functools import partial

    from anyio import to_thread

    from services.mcp_server import build
    from services.service import VERSION

    with Orchestrator.open(data, profile=profile) as rag:
        run = partial(to_thread.run_sync, abandon_on_cancel=False)
        build(lambda _: rag, run, run, VERSION).run("stdio")


@app.command()
def doctor(
    url: Annotated[
        str | None, typer.Argument(help="With --live: the server.", show_default=False)
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask a running server instead, with RAG_API_KEY.")
    ] = False,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """What this machine can run, and why; or how a running server is."""
    from services.doctor import examine
    from services.doctor_live import address, examine_live

    settings = load_settings(data=data)
    if url is not None and not live:
        raise InvalidInput("A server's address belongs to --live.", hint="rag doctor --live URL")
    found = examine_live(address(settings, url), settings) if live else examine(settings)
    checks = []
    for check in found:
        checks.append(check)
        if not as_json:
            mark = {True: "[green]ok[/]  ", False: "[red]no[/]  ", None: "    "}[check.ok]
            out.print(f"{mark} {check.name:18} {escape(check.found)}")
    if as_json:
        print_json([asdict(check) for check in checks])
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
    """The orchestrator of this command. Raises DataFolderBusy, with the server's address."""
    settings = load_settings(data=data, profile=profile)
    found = open_or_find(settings)
    if isinstance(found, str):
        raise DataFolderBusy(
            f"The server at {found} has the data folder {settings.data} open.",
            hint=f"Use its API ({found}/docs), or stop it first.",
        )
    with found:
        yield found


def parse_pairs(option: str, pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs; a value that is JSON (a number, true, a list) is taken as such."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidInput(f"{option} takes key=value, not {pair!r}.")
        try:
            given[key] = json.loads(value)
        except ValueError:
            given[key] = value
    return given


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


def _quiet_libraries() -> None:
    """Model libraries report their own progress; here only what a person asked for is shown."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("rag.models.cpu").setLevel(logging.INFO)  # a conversion takes a while
    logging.getLogger("httpx").setLevel(logging.WARNING)
