"""`rag eval`: is this change better, and am I sure? Needs the extra `eval`."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
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
        list[int] | None,
        typer.Option(help="How many candidates are reranked; repeatable. [5, 10, 20]", min=1),
    ] = None,
    measure: Annotated[list[str] | None, typer.Option(help="As nDCG@10; repeatable.")] = None,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """How well each way to search a collection finds what answers its questions."""
    from eval.collection import Shelved, check_judged
    from eval.datasets import load_judgements
    from eval.measures import STANDARD, parse_measures
    from eval.retrieval import DEPTHS, evaluate, show
    from eval.systems import standard
    from rag.orchestrator import Orchestrator

    measures = parse_measures(measure or STANDARD)
    with Orchestrator.open(data, profile=profile) as rag:
        source = Shelved(rag, collection)
        judged = load_judgements(Path(dataset), qrels)
        if note := check_judged(rag, collection, judged):
            out.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True)
        blend = source.reranker.blend if source.reranker is not None else 1.0
        depths = tuple(depth or DEPTHS) if source.reranker is not None else ()
        experiment, rows = evaluate(judged, source, standard(blend, depths), measures, home)
    show(out, experiment, rows, f"{collection}, {len(judged.qrels)} questions of {judged.name}")


@app.command()
def answers(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone; it is only read.")],
    dataset: Annotated[
        str, typer.Argument(help="queries.jsonl, answers.jsonl and qrels/ of it: a folder.")
    ],
    questions: Annotated[
        int | None, typer.Option(help="So many, half of them answerable. Default: all.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Which questions.")] = 0,
    qrels: Annotated[str, typer.Option(help="Which file of qrels/.")] = "test",
    generator: Annotated[str | None, typer.Option(help="quote, or a model.")] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(
            envvar="RAG_JUDGE_URL",
            help="openai+https://host/v1 of a model that grades; key: RAG_JUDGE_API_KEY.",
        ),
    ] = None,
    judge_model: Annotated[str | None, typer.Option(envvar="RAG_JUDGE_MODEL")] = None,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """How right, how well cited and how honest the answers from a collection are."""
    from eval.answers import evaluate, show
    from eval.asking import pick
    from eval.datasets import load_judgements
    from eval.judge import JUDGE_KEY, judging
    from rag.orchestrator import Orchestrator

    judged = load_judgements(Path(dataset), qrels)
    asked = pick(judged, questions, seed)
    with (
        judging(judge_model, judge_url, os.environ.get(JUDGE_KEY, "")) as judge,
        Orchestrator.open(data, profile=profile, generator=generator) as rag,
    ):
        experiment = evaluate(rag, collection, judged, asked, home, judge=judge)
    show(out, experiment, f"{collection}, {len(asked)} questions of {judged.name}")


@app.command(name="mteb")
def tasks_of_mteb(
    task: Annotated[list[str], typer.Argument(help="A task of MTEB by its name, or a folder.")],
    reranker: Annotated[bool, typer.Option("--reranker", help="Not the embedder.")] = False,
    language: Annotated[str, typer.Option(help="Of folders, as cmn-Hans.")] = "eng-Latn",
    home: Home = HOME,
    profile: Profile = None,
) -> None:
    """How the configured embedder or reranker does at tasks of MTEB."""
    try:
        from eval.mteb_run import configured, run
        from eval.mteb_run import show as show_scores
        from eval.mteb_tasks import open_task
    except ModuleNotFoundError as error:
        if error.name not in ("mteb", "datasets"):
            raise
        raise MissingExtra(
            "MTEB is not installed.", hint='Run: pip install "ragstone[mteb]".'
        ) from None
    tasks = [open_task(name, language) for name in task]
    with configured(profile, reranker=reranker) as model:
        experiment = run(model, tasks, home)
    show_scores(out, experiment)


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
        Path | None,
        typer.Option(
            help="An edited review.tsv: writes the set that it leaves, and makes nothing.",
            show_default=False,
        ),
    ] = None,
    home: Home = HOME,
    data: Data = None,
    profile: Profile = None,
) -> None:
    """Make questions about a collection that nobody has judged, to measure retrieval with."""
    from eval.made_command import check_collection, make_collection, review
    from rag.orchestrator import Orchestrator

    if not collection and (check or reviewed is None):
        raise InvalidInput("Of which collection?", hint="Run: rag eval make COLLECTION.")
    if reviewed is not None:
        target = folder or reviewed.parent
        made = review(out, reviewed, target)
        if not check:
            return
    with Orchestrator.open(data, profile=profile) as rag:
        if reviewed is None:
            target = folder or home / f"made-{collection}"
            made = make_collection(out, rag, collection, target, questions, seed)
        if check:
            check_collection(out, rag, collection, made, target, home, seed)


@app.command()
def feedback(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone.")],
    folder: Annotated[
        Path | None, typer.Option("--folder", "-o", help="Where the set is written.")
    ] = None,
    home: Home = HOME,
    data: Data = None,
) -> None:
    """Make a set of the questions whose answers readers rated, for the other commands."""
    from eval.feedback import write
    from rag.orchestrator import Orchestrator

    with Orchestrator.open(data) as rag:
        write(out, rag, collection, folder or home / f"feedback-{collection}")


@app.command()
def tune(
    collection: Annotated[str, typer.Argument(help="A collection in Ragstone.")],
    dataset: Annotated[
        Path | None, typer.Argument(help="queries.jsonl and qrels/: a folder.", show_default=False)
    ] = None,
    qrels: Annotated[str, typer.Option(help="Which file of qrels/.")] = "test",
    budget_ms: Annotated[float, typer.Option(help="What a search may take.", min=0)] = 300.0,
    percentile: Annotated[
        float, typer.Option(help="In so many of 100 questions.", min=0, max=100)
    ] = 95.0,
    margin: Annotated[float, typer.Option(help="Of nDCG@10 that may be lost.", min=0)] = 0.01,
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
        try:
            about = experiment.about()
        except InvalidInput as error:
            table.add_row(experiment.id, "", "", escape(error.message))
        else:
            table.add_row(experiment.id, escape(about["name"]), about["begun"], experiment.state)
    out.print(table)


@app.command()
def show(
    experiment: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    home: Home = HOME,
) -> None:
    """All that an experiment was made from, and what it found."""
    from eval.experiments import find

    out.print_json(data=find(experiment, home).about())


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="An experiment, ID:SYSTEM, or a TREC run file.")],
    b: Annotated[str, typer.Argument(help="The same, for what is to take A's place.")],
    dataset: Annotated[
        str | None, typer.Option(help="What run files are measured on: a folder.")
    ] = None,
    qrels: Annotated[str, typer.Option(help="Which file of its qrels/.")] = "test",
    measure: Annotated[list[str] | None, typer.Option(help="As nDCG@10; repeatable.")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help='As "ndcg@10 >= -0.5%"; repeatable. Exit 1 when one is not passed.'),
    ] = None,
    questions: Annotated[int, typer.Option(help="Won and lost, shown.", min=0)] = 3,
    distinct: Annotated[
        bool, typer.Option("--distinct", help="Count questions of the same text once.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of every draw.")] = 0,
    home: Home = HOME,
) -> None:
    """Whether B is better than A, and how sure that is."""
    from eval.compare import compare_sides
    from eval.compare import show as show_comparison
    from eval.datasets import open_judgements
    from eval.gates import parse_gate
    from eval.sides import open_sides

    gates = [parse_gate(text) for text in gate or ()]
    judged = open_judgements(dataset, qrels) if dataset else None
    one, other = open_sides(a, b, judged, home)
    found = compare_sides(one, other, measure or (), gates, questions, distinct=distinct, seed=seed)
    show_comparison(out, found)
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def report(
    experiment: Annotated[str, typer.Argument(help="Its id, or the beginning of it.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file.", show_default="in its folder")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="The system to compare with.", show_default="the first")
    ] = "",
    home: Home = HOME,
) -> None:
    """An experiment as one HTML file, with tables, plots and the questions behind them."""
    from eval.report import write

    out.print(str(write(experiment, output, baseline, home)), markup=False, soft_wrap=True)
