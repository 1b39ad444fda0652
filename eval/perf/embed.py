"""Texts to vectors, as fast as each side can, and how alike the vectors are."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.perf import peers
from eval.perf.bench import UNCHECKED, Bench, Side, miss, names, variants
from eval.perf.figures import Figure, Section, cosines, same_nearest
from eval.perf.models import minilm
from eval.perf.places import MODELS, WORK
from eval.perf.workers import Worker, WorkerFailed

REFERENCE = "sentence-transformers"


def measure(bench: Bench) -> Section:
    """bge-small-en's shape, and all-MiniLM-L6-v2 whose vectors mean something."""
    section = Section("embed", names(variants("embed", {})))
    section.notes.append(f"{bench.sizes.passages} passages of {bench.texts.origin}")
    _workload(bench, section, "bge-small-en", bench.embedder, "cls", compare=False)
    _workload(bench, section, "all-MiniLM-L6-v2", minilm(), "mean", compare=True)
    return section


def _workload(
    bench: Bench, section: Section, name: str, model: Path, pooling: str, *, compare: bool
) -> None:
    own = {"RAG_EMBEDDER": str(model), "RAG_RERANKER": "none"}
    own |= {} if compare else UNCHECKED
    sides = [
        *variants("embed", own),
        Side(
            REFERENCE, "sentence_transformers", "embed", {"model": str(model), "dtype": "float32"}
        ),
        Side(
            "sentence-transformers bf16", "sentence_transformers", "embed",
            {"model": str(model), "dtype": "bfloat16"},
        ),
    ]  # fmt: skip
    try:
        onnx = _onnx(name, model)
        load = {"model": str(onnx), "pooling": pooling, "dim": 384}
        sides.append(Side("fastembed", "fastembed", "embed", load))
    except (peers.PeerMissing, WorkerFailed) as error:
        miss(section, f"fastembed, {name}", f"no ONNX file could be exported: {error}")
    texts = list(bench.texts.passages[: bench.sizes.passages])
    with bench.opened(section, sides) as workers:

        def encode(side: str, worker: Worker, number: int) -> float:
            save = str(_saved(name, side)) if number == 0 else None
            spent: dict[str, float] = worker.call("encode", texts=texts, save=save)
            return len(texts) / spent["seconds"]

        bench.each(section, workers, "warm-up", lambda w: w.call("encode", texts=texts[:32]))
        found = bench.alternate(section, workers, name, encode)
    section.figures += [
        Figure(name, "throughput", "passages/s", side, tuple(values))
        for side, values in found.items()
    ]
    if compare and REFERENCE in found:
        for side in found:
            if side != REFERENCE:
                section.figures += _agreement(name, side)


def _agreement(name: str, side: str) -> list[Figure]:
    ours, reference = _vectors(name, side), _vectors(name, REFERENCE)
    alike = cosines(ours, reference)
    values = {
        "cosine with fp32, mean": float(alike.mean()),
        "cosine with fp32, least": float(alike.min()),
        "same nearest passage as fp32": same_nearest(ours, reference),
    }
    return [
        Figure(name, measure, "", side, (value,), compared=False)
        for measure, value in values.items()
    ]


def _saved(name: str, side: str) -> Path:
    return WORK / f"embed-{name}-{side.replace(' ', '-')}.npz"


def _vectors(name: str, side: str) -> NDArray[np.float32]:
    with np.load(_saved(name, side)) as stored:
        values: NDArray[np.float32] = stored["values"]
    return values


def _onnx(name: str, model: Path) -> Path:
    """A folder as fastembed wants it. Raises PeerMissing, WorkerFailed."""
    folder = MODELS / f"{name}-onnx"
    file = folder / "onnx" / "model.onnx"
    if not file.is_file():
        half_written = file.with_suffix(".part")
        with peers.start("sentence_transformers", "export", {}, name) as worker:
            worker.call("onnx", model=str(model), to=str(half_written))
        half_written.rename(file)
    for beside in ("config.json", "tokenizer.json", "special_tokens_map.json"):
        shutil.copy(model / beside, folder / beside)
    # fastembed cuts where the tokenizer says; all sides cut where the model's own files say.
    settings: dict[str, Any] = json.loads((model / "tokenizer_config.json").read_text("utf-8"))
    limits = json.loads((model / "sentence_bert_config.json").read_text("utf-8"))
    settings["model_max_length"] = limits["max_seq_length"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder
