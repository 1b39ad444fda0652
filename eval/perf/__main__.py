"""Speed beside what a user would otherwise run, both in one run: python -m eval.perf SECTION

    python -m eval.perf install              the peers, each into a virtual environment of its own
    python -m eval.perf embed --rounds 3     or rerank, generate, ingest, end-to-end, start,
                                         limits, all
    python -m eval.perf all --quick          small counts: does it all work?
    python -m eval.perf readme               the results so far into the README's table

Every side is a process of its own; they take turns, and each ratio is of the same round. Ratios
above 1 mean that ours is better. Nothing else should run on the machine meanwhile.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from eval.perf import (
    embed,
    end_to_end,
    generate,
    ingest,
    limits,
    models,
    peers,
    readme,
    report,
    rerank,
    start,
)
from eval.perf.bench import FULL, QUICK, Bench
from eval.perf.figures import Section
from eval.perf.places import MODELS, RESULTS, RETRIEVAL_SETS, WORK
from eval.perf.texts import corpus, load_texts

SECTIONS: dict[str, Callable[[Bench], Section]] = {
    "embed": embed.measure,
    "rerank": rerank.measure,
    "generate": generate.measure,
    "ingest": ingest.measure,
    "end-to-end": end_to_end.measure,
    "start": start.measure,
    "limits": limits.measure,
}


def main() -> None:
    options = _options()
    console = Console(width=None if sys.stdout.isatty() else 180)  # a file is not 80 wide
    if options.section == "install":
        for name, error in peers.install(options.peers or peers.NAMES).items():
            console.print(f"{name}: {error or 'installed'}", markup=False)
        return
    if options.section == "readme":
        readme.update()
        return
    bench = _bench(options, console)
    for name in list(SECTIONS) if options.section == "all" else [options.section]:
        _write(SECTIONS[name](bench), options, console)
    if options.quick:
        console.print("[yellow]--quick: these figures show that it works, not how fast it is[/]")


def _write(section: Section, options: argparse.Namespace, console: Console) -> None:
    """Show a section and keep it at once: the next one may not come to its end."""
    report.show(console, section)
    given = {
        name: value.name if isinstance(value, Path) else str(value)
        for name, value in vars(options).items()
    }
    found = report.document(section, given)
    folder = WORK / "quick" if options.quick else RESULTS
    for path in report.write(found, section, folder):
        console.print(f"wrote {path}", markup=False, soft_wrap=True)
    console.print(found["machine"])


def _bench(options: argparse.Namespace, console: Console) -> Bench:
    sizes = QUICK if options.quick else FULL
    questions = sizes.distinct_questions(options.rounds)
    texts = load_texts(options.texts, FULL.passages, questions, FULL.candidates)
    console.print(f"texts: {texts.origin}", markup=False)
    with console.status("building models that are not there yet"):
        words = [] if _all_built() else corpus(options.texts)
        embedder = models.bge_small(words)
        reranker = models.bge_reranker(words)
        generator = models.qwen(words)
    meaning: Path | None = options.reranker_with_meaning
    if meaning is not None and not meaning.is_dir():
        meaning = None
    return Bench(texts, sizes, options.rounds, console, embedder, reranker, generator, meaning)


def _all_built() -> bool:
    names = ("bge-small-en", "bge-reranker-base", "Qwen2.5-0.5B-Instruct")
    return all((MODELS / name).is_dir() for name in names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", choices=["install", "readme", "all", *SECTIONS])
    parser.add_argument("peers", nargs="*", help=f"to install: {', '.join(peers.NAMES)}")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--quick", action="store_true", help="small counts, into eval/cache/perf")
    parser.add_argument("--texts", type=Path, default=RETRIEVAL_SETS, help="folder of BEIR sets")
    parser.add_argument(
        "--reranker-with-meaning", type=Path, default=MODELS / "minilm-cross-encoder",
        help="a trained cross-encoder: random weights rank nothing",
    )  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    main()
