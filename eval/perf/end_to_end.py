"""From a question to the last token of its answer: our HTTP service, and pipelines as users write
them with their framework's guides."""

import shutil
from pathlib import Path
from typing import Any

from eval.perf.bench import Bench, names, pipelines, variants
from eval.perf.figures import Figure, Section, percentile
from eval.perf.places import WORK
from eval.perf.workers import Worker


def measure(bench: Bench) -> Section:
    """Ingest once, then ask at each concurrency."""
    section = Section("end-to-end", names(variants("pipeline", {})))
    chunks = bench.texts.chunks(bench.sizes.documents)
    section.notes.append(
        f"{len(chunks)} documents of one chunk each; rerank {bench.sizes.candidates}, then "
        f"{bench.sizes.new_tokens} tokens. Ours is asked over HTTP and searches dense and BM25; "
        "the others are called in their process, by threads, and search dense."
    )
    with bench.opened(section, pipelines(bench, empty_folder)) as workers:
        bench.each(section, workers, "warm-up", lambda w: w.call("ingest", texts=["Is it warm?"]))
        ingested = bench.each(
            section, workers, "ingestion", lambda w: w.call("ingest", texts=chunks)
        )
        section.figures += [
            Figure("ingestion", "throughput", "chunks/s", side, (len(chunks) / done["seconds"],))
            for side, done in ingested.items()
        ]
        first = bench.texts.questions[:1]
        bench.each(
            section, workers, "warm-up", lambda w: w.call("answer", questions=first, concurrency=1)
        )
        start = 1  # no question is put twice: its scores may be remembered
        for concurrency, count in bench.sizes.asked.items():
            _ask(bench, section, workers, concurrency, start)
            start += count * bench.rounds
    return section


def empty_folder(side: str) -> Path:
    """A folder for the index of a side, with nothing in it."""
    folder = folder_of(side)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def folder_of(side: str) -> Path:
    """Where a side keeps its index."""
    return WORK / "indexes" / side.replace(" ", "-")


def _ask(
    bench: Bench, section: Section, workers: dict[str, Worker], concurrency: int, start: int
) -> None:
    count = bench.sizes.asked[concurrency]

    def answer(_: str, worker: Worker, number: int) -> dict[str, Any]:
        at = start + number * count
        questions = bench.texts.questions[at : at + count]
        found: dict[str, Any] = worker.call("answer", questions=questions, concurrency=concurrency)
        return found

    workload = f"{concurrency} at a time"
    found = bench.alternate(section, workers, workload, answer)
    for side, rounds in found.items():
        short = [n for r in rounds for n in r["tokens"] if n != bench.sizes.new_tokens]
        if short:
            section.notes.append(
                f"{side}, {workload}: {len(short)} answers had other than "
                f"{bench.sizes.new_tokens} tokens, such as {short[0]}"
            )
        for cut in sorted({cut for r in rounds for cut in r.get("cuts", [])}):
            section.notes.append(f"{side}, {workload}: left out: {cut}")
        latencies = [r["latencies"] for r in rounds]
        section.figures += [
            Figure(workload, "answer, p50", "s", side,
                   tuple(percentile(r, 0.5) for r in latencies), higher_is_better=False),
            Figure(workload, "answer, p95", "s", side,
                   tuple(percentile(r, 0.95) for r in latencies), higher_is_better=False),
            Figure(workload, "throughput", "answers/min", side,
                   tuple(60 * len(r["latencies"]) / r["seconds"] for r in rounds)),
        ]  # fmt: skip
        if all("first" in r for r in rounds):
            section.figures.append(
                Figure(workload, "first token, p50", "s", side,
                       tuple(percentile(r["first"], 0.5) for r in rounds), higher_is_better=False)
            )  # fmt: skip
