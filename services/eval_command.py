"""`rag eval`: is this change better, and am I sure? Needs the extra `eval`."""

import json
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


@app.command()
def tune(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone.")],
    dataset: Annotated[
        Path | None, typer.Argument(help="queries.jsonl and qrels/: a folder.", show_default=False)
    ] = None,
    qrels: Annotated[str, typer.Option(help="Which file of qrels/.")] = "test",
    budget_ms: Annotated[float, typer.Option(help="What a search may take.")] = 300.0,
    percentile: Annotated[float, typer.Option(help="In so many of 100 questions.")] = 95.0,
    margin: Annotated[float, typer.Option(help="Of nDCG@10 that may be lost.")] = 0.01,
    least: Annotated[int, typer.Option(help="Refuse to tune on fewer questions.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the halves, and of every draw.")] = 0,
    timed: Annotated[int, typer.Option(help="Questions to time.", min=1)] = 60,
    write: Annotated[
        bool, typer.Option("--write/--dry-run", help="Search the collection so from now on.")
    ] = False,
    back: Annotated[
        bool, typer.Option("--back", help="Return to the settings before the last tuning.")
    ] = False,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """Choose how to search a collection, on half of the questions; prove it on the other half."""
    from eval import tune as tuning
    from eval.adopt import adopt
    from eval.adopt import back as go_back
    from rag.orchestrator import Orchestrator

    if back == (dataset is not None):
        raise InvalidInput("Tuning needs a folder with questions, or --back and none.")
    terms = tuning.Terms(budget_ms, percentile, margin, least, seed, timed)
    with Orchestrator.open(data, profile=profile) as rag:
        if dataset is None:
            before = json.dumps(go_back(rag, collection))
            out.print(f"{collection} is back to {before}", markup=False)
            return
        tuned = tuning.tune_collection(rag, collection, dataset, terms, qrels=qrels, home=home)
        tuning.show(out, tuned, collection)
        if write and tuned.settings:
            changed = adopt(rag, collection, tuned.settings)
            out.print("written; --back returns to those of before" if changed else "so already")


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
