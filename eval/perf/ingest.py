"""Files to a searchable index, as fast as each side can: many small documents, and few large ones.

Every side reads, splits, embeds and stores the same files with the same model, as its guides say.
How they cut differs, so that documents per second compare, and chunks per second beside them.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.perf.bench import ASSEMBLED, UNCHECKED, Bench, Side, names, variants
from eval.perf.end_to_end import empty_folder
from eval.perf.figures import Figure, Section
from eval.perf.places import WORK
from eval.perf.workers import Worker

CHUNK_TOKENS, OVERLAP = 256, 32  # on all sides
PARAGRAPHS = 60  # of a large document
INGESTING = ("LangChain", "LlamaIndex")


def measure(bench: Bench) -> Section:
    """Both kinds of documents; ours says where its time goes as well."""
    section = Section("ingest", names(variants("ingest", {})))
    small, large = _write(bench)
    section.notes.append(
        f"{len(small)} files of one paragraph and {len(large)} of {PARAGRAPHS}, of"
        f" {bench.texts.origin}; chunks of {CHUNK_TOKENS} tokens, {OVERLAP} repeated. Ours keeps"
        " each file on the disk before it promises it, parses it in a child process, and can be"
        " killed at any time."
    )
    with bench.opened(section, _sides(bench)) as workers:
        warm = [str(path) for path in small[:8]]
        bench.each(
            section, workers, "warm-up", lambda w: w.call("ingest", files=warm, into="warm-up")
        )
        for name, files in (("many small", small), ("few large", large)):
            _workload(bench, section, workers, name, files)
    return section


def _workload(
    bench: Bench, section: Section, workers: dict[str, Worker], name: str, files: Sequence[Path]
) -> None:
    def ingest(_: str, worker: Worker, number: int) -> dict[str, Any]:
        into = f"{name.replace(' ', '-')}-{number}"
        paths = [str(path) for path in files]
        found: dict[str, Any] = worker.call("ingest", files=paths, into=into)
        return found

    for side, rounds in bench.alternate(section, workers, name, ingest).items():
        if not rounds:
            continue
        seconds = [one["seconds"] for one in rounds]
        section.figures += [
            Figure(name, "documents", "documents/s", side, tuple(len(files) / s for s in seconds)),
            Figure(name, "chunks", "chunks/s", side,
                   tuple(one["chunks"] / one["seconds"] for one in rounds)),
        ]  # fmt: skip
        if all("busy" in one for one in rounds):
            section.figures += [
                Figure(name, measure, "%", side, tuple(100 * one[key] for one in rounds),
                       compared=False)
                for measure, key in (("embedder busy", "busy"), ("of the embedder alone", "alone"))
            ]  # fmt: skip
        for note in rounds[-1].get("notes", ()):
            section.notes.append(f"{side}, {name}: {note}")
        if side in workers:
            resident = workers[side].resident() / 2**20
            section.notes.append(f"{side}, {name}: {resident:.0f} MiB resident afterwards")


def _sides(bench: Bench) -> list[Side]:
    load = {
        "model": str(bench.embedder),
        "chunk_tokens": CHUNK_TOKENS,
        "overlap": OVERLAP,
    }
    own = UNCHECKED | {
        "RAG_EMBEDDER": str(bench.embedder),
        "RAG_RERANKER": "none",
        "RAG_CHUNK_TOKENS": str(CHUNK_TOKENS),
        "RAG_CHUNK_OVERLAP": str(OVERLAP),
    }
    sides = [
        *variants("ingest", own),
        *(Side(name, ASSEMBLED[name], "ingest") for name in INGESTING),
    ]
    return [
        Side(s.name, s.peer, s.task, load | {"folder": str(empty_folder(f"{s.name} ingest"))},
             s.environment)
        for s in sides
    ]  # fmt: skip


def _write(bench: Bench) -> tuple[list[Path], list[Path]]:
    """The files of both workloads, no paragraph in two of them."""
    folder = WORK / "documents"
    shutil.rmtree(folder, ignore_errors=True)
    short = bench.texts.chunks(bench.sizes.documents)
    taken = set(short)
    rest = [text for text in bench.texts.passages if text not in taken]
    count = max(1, bench.sizes.documents // PARAGRAPHS)
    ends = range(PARAGRAPHS, (count + 1) * PARAGRAPHS, PARAGRAPHS)
    large = ["\n\n".join(rest[end - PARAGRAPHS : end]) for end in ends]
    return _files(folder / "small", short), _files(folder / "large", large)


def _files(folder: Path, texts: Sequence[str]) -> list[Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{number:04}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, "utf8")
    return paths
