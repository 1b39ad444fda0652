"""MTEB's tasks on the configured models: python -m eval.mteb_run TASK..., or rag eval mteb TASK...

A task is one of MTEB's by its name, which MTEB fetches, or a folder (see `eval.mteb_tasks`). The
embedder takes all kinds of tasks, the reranker those of reranking. Results that are there for
these very models and data are not computed again.
"""

import argparse
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mteb
from mteb.abstasks import AbsTask
from mteb.cache import ResultCache
from rich.console import Console
from rich.table import Table

from eval.experiments import HOME, Experiment, begin
from eval.mteb_models import EmbedderModel, RerankerModel
from eval.mteb_tasks import ENGLISH, open_task
from rag.errors import InvalidInput
from rag.parts import Parts, open_parts
from rag.settings import load_settings

Model = EmbedderModel | RerankerModel


def main() -> None:
    options = _options()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    tasks = [open_task(name, options.language) for name in options.task]
    with configured(options.profile, reranker=options.reranker) as model:
        experiment = run(model, tasks, options.out)
    show(Console(), experiment)


@contextmanager
def configured(profile: str | None, *, reranker: bool) -> Iterator[Model]:
    """The embedder, or the reranker, of the settings. Nothing is stored: no data folder is used."""
    with TemporaryDirectory() as folder:
        parts = open_parts(load_settings(data=folder, profile=profile))
        try:
            yield model_of(parts, reranker=reranker)
        finally:
            parts.close()


def model_of(parts: Parts, *, reranker: bool) -> Model:
    """The configured embedder, or the configured reranker. Raises InvalidInput without one."""
    if not reranker:
        return EmbedderModel(parts.embedder)
    if parts.reranker is None:
        raise InvalidInput("No reranker is configured.", hint="Set RAG_RERANKER.")
    return RerankerModel(parts.reranker, parts.embedder)


def run(
    model: Model, tasks: Sequence[AbsTask], home: Path = HOME, *, progress: bool = True
) -> Experiment:
    """Evaluate and keep: MTEB's own files, and the main scores as rows. Raises InvalidInput."""
    meta = model.mteb_model_meta
    for task in tasks:
        if isinstance(model, RerankerModel) and task.metadata.type != "Reranking":
            raise InvalidInput(
                f"{task.metadata.name} is a task of {task.metadata.type}: a reranker needs"
                " candidates to order.",
                hint="Give tasks of reranking, or leave --reranker out.",
            )
    made_from = {
        "model": [meta.name, meta.revision],
        "tasks": [[task.metadata.name, task.metadata.dataset["revision"]] for task in tasks],
        "mteb": mteb.__version__,
    }
    experiment = begin("mteb", str(meta.name), made_from, home)
    cache = ResultCache(experiment.folder / "mteb")
    rows = [_row(task, _scores(model, task, cache, progress)) for task in tasks]
    experiment.note(rows=rows)
    return experiment


def _scores(model: Model, task: AbsTask, cache: ResultCache, progress: bool) -> Any:  # noqa: ANN401
    try:
        return mteb.evaluate(model, task, cache=cache, show_progress_bar=progress)[0]
    except (OSError, ConnectionError) as error:  # `datasets` raises these and subclasses of them
        raise InvalidInput(
            f"The data of {task.metadata.name} cannot be had: {error}",
            hint="Give a folder with the data instead, or run it where the hub can be reached.",
        ) from error


def _row(task: AbsTask, found: Any) -> dict[str, Any]:  # noqa: ANN401 - MTEB's TaskResult
    return {
        "task": task.metadata.name,
        "type": task.metadata.type,
        "main_score": task.metadata.main_score,
        "score": float(found.get_score()),
        "seconds": found.evaluation_time,
    }


def show(console: Console, experiment: Experiment) -> None:
    """The main score of each task."""
    about = experiment.about()
    table = Table("task", "type", "measure", "score", "s", title=about["name"])
    for row in about["rows"]:
        score, seconds = f"{row['score']:.4f}", f"{row['seconds'] or 0:.1f}"
        table.add_row(row["task"], row["type"], row["main_score"], score, seconds)
    console.print(table)
    console.print(f"kept as {experiment.folder}", markup=False, soft_wrap=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", nargs="+", help="a task of MTEB by its name, or a folder")
    parser.add_argument("--reranker", action="store_true", help="the reranker, not the embedder")
    parser.add_argument("--language", default=ENGLISH, help="of folders, as cmn-Hans")
    parser.add_argument("--profile", default="starter")
    parser.add_argument("--out", type=Path, default=HOME, help="where the experiment is kept")
    return parser.parse_args()


if __name__ == "__main__":
    from services.cli import told

    told(main)
