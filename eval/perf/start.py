"""From nothing to the first answer, and the memory that it takes."""

import time
from dataclasses import dataclass

from rich.progress import track

from eval.perf import peers
from eval.perf.bench import Bench, Side, miss, names, pipelines, variants
from eval.perf.end_to_end import empty_folder, folder_of
from eval.perf.figures import Figure, Section
from eval.perf.workers import WorkerFailed

WORKLOAD = "start over a filled index"
GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True)
class Started:
    """Seconds since the process began, and resident bytes then."""

    ready: float
    answered: float
    resident: int
    resident_later: int


def measure(bench: Bench) -> Section:
    """Each round starts every side afresh; files and converted models are cached by then."""
    section = Section("start", names(variants("pipeline", {})))
    section.notes.append(
        "ready: the process would take a question; models that load on first use load after that. "
        "Files were read shortly before, so they are in the page cache."
    )
    chunks = bench.texts.chunks(bench.sizes.documents)
    filled = [side for side in pipelines(bench, empty_folder) if _fill(section, side, chunks)]
    sides = {side.name: side for side in pipelines(bench, folder_of)}
    found: dict[str, list[Started]] = {side.name: [] for side in filled}
    turns = [name for _ in range(bench.rounds) for name in found]
    for name in track(turns, "start", console=bench.console):
        if name not in found:
            continue
        try:
            found[name].append(_start(sides[name], bench.texts.questions))
        except WorkerFailed as error:
            miss(section, name, error)
            del found[name]
    for side, starts in found.items():
        measures = {
            "ready": ("s", [one.ready for one in starts]),
            "first answer": ("s", [one.answered for one in starts]),
            "memory after the first answer": ("GiB", [one.resident / GIBIBYTE for one in starts]),
            "memory after several": ("GiB", [one.resident_later / GIBIBYTE for one in starts]),
        }
        section.figures += [
            Figure(WORKLOAD, measure, unit, side, tuple(values), higher_is_better=False)
            for measure, (unit, values) in measures.items()
        ]
    return section


def _fill(section: Section, side: Side, chunks: list[str]) -> bool:
    try:
        with peers.start(side.peer, side.task, side.environment, side.name) as worker:
            worker.call("load", **side.load)
            worker.call("ingest", texts=chunks)
            worker.call("answer", questions=["Is everything converted?"], concurrency=1)
    except (peers.PeerMissing, WorkerFailed) as error:
        miss(section, side.name, error)
        return False
    return True


def _start(side: Side, questions: list[str]) -> Started:
    begin = time.perf_counter()
    with peers.start(side.peer, side.task, side.environment, side.name) as worker:
        worker.count_from(worker.call("load", **side.load).get("pid", 0))
        ready = time.perf_counter() - begin
        worker.call("answer", questions=questions[:1], concurrency=1)
        answered = time.perf_counter() - begin
        resident = worker.resident()
        worker.call("answer", questions=questions[1:5], concurrency=2)
        return Started(ready, answered, resident, worker.resident())
