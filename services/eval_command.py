"""`rag eval`: is this change better, and am I sure? Needs the extra `eval`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rag.errors import InvalidInput, MissingExtra

app = typer.Typer(help="Measure retrieval and answers, offline.", no_args_is_help=True)

out = Console(highlight=False)

Home = Annotated[Path, typer.Option("--out", help="Where experiments are kept.")]
Data = Annotated[Path | None, typer.Option("--data", help="The data folder.", show_default=False)]
Profile = Annotated[
    str | None,
    typer.Option("--profile", "-p", help="default, starter or gpu.", show_default=False),
]
HOME = Path("ragstone-eval")


@app.callback()
def _needs_the_extra() -> None:
    try:
        import ir_measures  # noqa: F401 - is it there?
    except ImportError:
        raise MissingExtra(
            "Evaluation needs packages that are not installed.",
            hint='Run: pip install "ragstone[eval]".',
        ) from None


@app.command()
def retrieval(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone.")],
    dataset: Annotated[
        str, typer.Argument(help="queries.jsonl and qrels/ in the BEIR layout: a folder.")
    ],
    qrels: Annotated[str, typer.Option(help="Which file of qrels/.")] = "test",
    depth: Annotated[
        list[int] | None, typer.Option(help="How many candidates are reranked; repeatable.")
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="As nDCG@10; repeatable.")] = None,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """How well each way to search a collection finds what answers its questions."""
    from eval.collection import Shelved
    from eval.datasets import load_judgements
    from eval.measures import STANDARD, parse_measures
    from eval.retrieval import DEPTHS, evaluate, show
    from eval.systems import standard
    from rag.orchestrator import Orchestrator

    measures = parse_measures(measure or STANDARD)
    with Orchestrator.open(data, profile=profile) as rag:
        source = Shelved(rag, collection)
        judged = load_judgements(Path(dataset), qrels)
        blend = source.reranker.blend if source.reranker is not None else 1.0
        depths = tuple(depth or DEPTHS) if source.reranker is not None else ()
        experiment, rows = evaluate(judged, source, standard(blend, depths), measures, home)
    show(out, experiment, rows, f"{collection}, {len(judged.qrels)} questions of {judged.name}")


@app.command(name="make")
def make_set(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone.")] = "",
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Where the set is written.")
    ] = None,
    questions: Annotated[int, typer.Option(min=1, help="How many are wanted.")] = 200,
    seed: Annotated[int, typer.Option(help="Another seed, other questions.")] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Do two kinds of its questions order systems alike?")
    ] = False,
    reviewed: Annotated[
        Path | None, typer.Option(help="An edited review.tsv: writes the set that it leaves.")
    ] = None,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """Make questions about a collection that nobody has judged, to measure retrieval with."""
    from eval.made_command import check_collection, make_collection, review
    from rag.orchestrator import Orchestrator

    if reviewed is not None:
        review(out, reviewed, folder or reviewed.parent)
        return
    if not collection:
        raise InvalidInput("Of which collection?", hint="Run: rag eval make COLLECTION.")
    with Orchestrator.open(data, profile=profile) as rag:
        target = folder or home / f"made-{collection}"
        made = make_collection(out, rag, collection, target, questions, seed)
        if check:
            check_collection(out, rag, collection, made, target, home, seed)


@app.command(name="ls")
def list_experiments(home: Home = HOME) -> None:
    """The experiments that are kept, newest first."""
    from eval.experiments import every

    table = Table("experiment", "of", "begun", "state")
    for experiment in every(home):
        about = experiment.about()
        state = "done" if "rows" in about else "interrupted"
        table.add_row(experiment.id, about["name"], about["begun"], state)
    out.print(table)


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    home: Home = HOME,
) -> None:
    """All that an experiment was made from, and what it found."""
    from eval.experiments import find

    out.print_json(data=find(experiment, home).about())
