"""What every section works with: sizes, texts, and sides that take turns."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from eval.perf import peers
from eval.perf.figures import Absent, Section
from eval.perf.texts import Texts
from eval.perf.workers import Worker, WorkerFailed


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    passages: int  # embedded in one round
    questions: int  # reranked in one round
    candidates: int  # passages of a question
    new_tokens: int
    together: int  # requests to the language model at once
    documents: int  # of the end-to-end index, each one chunk
    asked: dict[int, int]  # concurrency -> questions put end to end
    gemm: int  # rows and columns
    mebibytes: int  # moved to measure bandwidth

    def distinct_questions(self, rounds: int) -> int:
        """Questions that are needed for none to be put twice to one process."""
        warm_up = 8
        return warm_up + (rounds + 1) * max(self.questions, sum(self.asked.values()))


FULL = Sizes(2000, 16, 20, 32, 16, 500, {1: 8, 4: 8, 16: 16}, 2048, 1024)
QUICK = Sizes(32, 1, 6, 6, 4, 24, {1: 2, 2: 2}, 512, 64)

# Ragstone's own ways, by name: the settings that make them. `ours` is what it does by itself.
# A way whose setting this version does not have is reported as not measured.
INT8_EMBEDDER = {"RAG_EMBEDDER_PRECISION": "int8"}
INT8_RERANKER = {"RAG_RERANKER_PRECISION": "int8"}
INT8_GENERATOR = {"RAG_GENERATOR_PRECISION": "int8"}
VARIANTS: dict[str, dict[str, dict[str, str]]] = {
    "embed": {"ours": {}, "ours int8": INT8_EMBEDDER},
    "rerank": {"ours bf16": {"RAG_RERANKER_PRECISION": "bf16"}, "ours int8": INT8_RERANKER},
    "generate": {"ours bf16": {"RAG_GENERATOR_PRECISION": "bf16"}, "ours int8": INT8_GENERATOR},
    "ingest": {"ours": {}},
    "pipeline": {"ours": {}},
}
# Random weights agree with nothing: their logits and cosines are all but equal, so that the check
# after a conversion says nothing, and no passage of theirs supports an answer. Speed is measured on
# them, agreement on models with meaning.
UNCHECKED = {
    "RAG_PARITY_COSINE": "0",
    "RAG_PARITY_COSINE_INT8": "0",
    "RAG_PARITY_RANK": "-1",
    "RAG_PARITY_LOGIT": "1000000",
    "RAG_PARITY_LM_TOKENS": "0",
    "RAG_LEAST_RELEVANCE": "0",
}


# What users assemble, by the peer's folder.
ASSEMBLED = {"LangChain": "langchain", "LlamaIndex": "llamaindex", "Haystack": "haystack"}
CONTEXT_PASSAGES = 5  # that the language model reads
WINDOW = 8192  # tokens that it may read


@dataclass(frozen=True, slots=True)
class Side:
    """A way to do the work: a peer's worker, and what it is told when it loads."""

    name: str
    peer: str
    task: str
    load: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the benchmark."""

    texts: Texts
    sizes: Sizes
    rounds: int
    console: Console
    embedder: Path  # of bge-small-en's shape
    reranker: Path
    generator: Path
    reranker_with_meaning: Path | None

    def asked(self, number: int) -> list[list[Any]]:
        """Questions and candidates of a round. Each round has its own: scores may be remembered."""
        count = self.sizes.questions
        chosen = self.texts.asked[number * count : (number + 1) * count]
        return [[question, list(found[: self.sizes.candidates])] for question, found in chosen]

    @contextmanager
    def opened(self, section: Section, sides: Iterable[Side]) -> Iterator[dict[str, Worker]]:
        """Workers that loaded, by the name of their side; the others are noted as absent."""
        with ExitStack() as stack:
            workers = {}
            for side in sides:
                try:
                    worker = peers.start(side.peer, side.task, side.environment, side.name)
                    stack.callback(worker.close)
                    with self.console.status(f"{section.name}: {side.name} loads"):
                        found = worker.call("load", **side.load)
                except (peers.PeerMissing, WorkerFailed) as error:
                    miss(section, side.name, error)
                    continue
                worker.count_from(found.get("pid", 0))
                note = f"{side.name}: {found['precision']}"
                if note not in section.notes:
                    section.notes.append(note)
                workers[side.name] = worker
            yield workers

    def each(
        self,
        section: Section,
        workers: dict[str, Worker],
        what: str,
        call: Callable[[Worker], Any],
    ) -> dict[str, Any]:
        """Results of `call` by side; a side that fails is noted and taken out of `workers`."""
        found = {}
        for name, worker in list(workers.items()):
            try:
                with self.console.status(f"{section.name}: {name}, {what}"):
                    found[name] = call(worker)
            except WorkerFailed as error:
                miss(section, f"{name}, {what}", error)
                del workers[name]
        return found

    def alternate(
        self,
        section: Section,
        workers: dict[str, Worker],
        what: str,
        call: Callable[[str, Worker, int], Any],
    ) -> dict[str, list[Any]]:
        """`call(side, worker, round)` for A, B, A, B, ...; a side that fails is noted and left out.

        Results by side, one per round.
        """
        found: dict[str, list[Any]] = {name: [] for name in workers}
        turns = [(name, n) for n in range(self.rounds) for name in workers]
        for name, n in track(turns, f"{section.name}: {what}", console=self.console):
            if name not in found:
                continue
            try:
                found[name].append(call(name, workers[name], n))
            except WorkerFailed as error:
                miss(section, f"{name}, {what}", error)
                del found[name]
        return found


def variants(task: str, settings: dict[str, str]) -> list[Side]:
    """Ragstone's sides of a task; `settings` are those that all of them have."""
    return [
        Side(name, peers.OURS, task, environment={**settings, **own})
        for name, own in VARIANTS[task].items()
    ]


def miss(section: Section, side: str, why: object) -> None:
    """Note that a side did not run."""
    section.absent.append(Absent(side, str(why)))


def names(sides: Sequence[Side]) -> list[str]:
    """What sides are called."""
    return [side.name for side in sides]


def pipelines(bench: Bench, folders: Callable[[str], Path]) -> list[Side]:
    """Everything from question to answer: Ragstone's and what users assemble, on the same models.

    `folders(side)` is where a side keeps its index.
    """
    models = {
        "embedder": str(bench.embedder),
        "reranker": str(bench.reranker),
        "generator": str(bench.generator),
    }
    options = {
        "rerank": bench.sizes.candidates,
        "context": CONTEXT_PASSAGES,
        "new_tokens": bench.sizes.new_tokens,
        "window": WINDOW,
        "dim": json.loads((bench.embedder / "config.json").read_text("utf-8"))["hidden_size"],
        "concurrency": max(bench.sizes.asked),
    }
    sides = [
        *variants("pipeline", UNCHECKED),
        *(Side(name, peer, "pipeline") for name, peer in ASSEMBLED.items()),
    ]
    return [
        replace(
            side, load={"models": models, "folder": str(folders(side.name)), "options": options}
        )
        for side in sides
    ]
