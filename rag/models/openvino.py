"""Encoders and cross-encoders run by OpenVINO on the CPU. Imports neither torch nor transformers.

`convert.py` makes what is run here, once per model, precision and library version.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal, cast

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from tokenizers import Encoding

from rag.errors import InvalidInput
from rag.models.batching import PASS_TOKENS
from rag.models.cache import Entry, NotConvertible, library_versions, open_or_build
from rag.models.cpu import Cpu, Precision, PrecisionChoice
from rag.models.load import ModelFiles
from rag.models.parity import cosines, faults, logit_error
from rag.models.presets import EmbedderPreset, longest_input

log = logging.getLogger(__name__)

# Tokens of one inference: enough to keep a core busy, few enough that twenty passages spread evenly
# over the cores and that a question waits little for the batch before it.
BATCH_TOKENS = 512
MAX_STREAMS = 4
# Activations that share a scale where int8 multiplies in int8, by what a graph puts out. MiniLM
# finds the same nearest passage for 96.9 % in groups of 64 and for 96.3 % in groups of 128, at 124
# and 136 passages/s. A reranker, the slowest step of a question, takes the faster 128; its parity
# check decides whether its order bears that.
ACTIVATION_GROUPS = {"pooled": 64, "states": 64, "logits": 128}
# A graph runs shapes that it has seen faster than new ones, so lengths are rounded up.
LENGTH_STEP = 8

_FORMAT = "2"  # of what `convert.py` writes
GRAPH, TABLE, REFERENCE, CONFIG = "model.xml", "embeddings.npy", "reference.npz", "config.json"


def native_float() -> Literal["f32", "bf16"]:
    """bf16 where the CPU computes it natively; elsewhere it would be emulated, slower than f32."""
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


class OpenVINOEncoder:
    """A converted text encoder, an `EncoderEngine`."""

    batch_tokens = BATCH_TOKENS
    pass_tokens = PASS_TOKENS

    def __init__(self, folder: Path, precision: Precision, threads: int = 0) -> None:
        self._graphs = _Graphs(folder, precision, threads)
        self.precision: str = precision
        self.workers = self._graphs.streams
        self.dim = int(self._graphs.config["dim"])

    def pooled(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Vectors, float32 (n, dim)."""
        return self._graphs("pooled").run(encodings)

    def states(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Token vectors of unit length, float32 (n, longest, dim)."""
        return self._graphs("states").run(encodings)

    def close(self) -> None:
        """Let the memory go."""
        self._graphs.close()


class OpenVINOCrossEncoder:
    """A converted reranker, a `CrossEncoderEngine`."""

    batch_tokens = BATCH_TOKENS
    pass_tokens = PASS_TOKENS

    def __init__(
        self, folder: Path, precision: Precision, threads: int = 0, *, max_tokens: int
    ) -> None:
        self._graphs = _Graphs(folder, precision, threads)
        self.precision = precision
        self.workers = self._graphs.streams
        self.max_tokens = max_tokens

    def scores(self, pairs: Sequence[Encoding]) -> NDArray[np.float32]:
        """Raw logits, float32 (n,)."""
        return self._graphs("logits").run(pairs)

    def close(self) -> None:
        """Let the memory go."""
        self._graphs.close()


def load_encoder(files: ModelFiles, preset: EmbedderPreset, cpu: Cpu) -> OpenVINOEncoder:
    """The encoder, converted first when it has not been. Raises `NotConvertible`."""
    precision = _resolved(cpu.precision)

    def build(part: Path) -> dict[str, Any]:
        from rag.models.convert import convert_encoder

        return convert_encoder(files, preset, part, precision, cpu.on_progress)

    of = {"pooling": preset.pooling, "normalize": str(preset.normalize)}
    entry = open_or_build(cpu.cache, _key(files, "encoder", precision, of), build)
    least = cpu.thresholds.cosine_int8 if precision == "int8" else cpu.thresholds.cosine
    bounds = {"cosine": least, "rank": cpu.thresholds.rank}
    _check(files, precision, entry, bounds)
    engine = OpenVINOEncoder(entry.path, precision, cpu.threads)
    _check_itself(files, entry, engine._graphs("pooled"), {"cosine": least})
    return engine


def load_cross_encoder(files: ModelFiles, cpu: Cpu) -> OpenVINOCrossEncoder:
    """The reranker, converted first when it has not been. Raises `NotConvertible`.

    With precision `auto` int8 is taken when its rank agreement passes, else `native_float`.
    """
    if cpu.precision != "auto":
        return _load_cross_encoder(files, cpu, _resolved(cpu.precision))
    try:
        return _load_cross_encoder(files, cpu, "int8")
    except NotConvertible as error:
        precision = native_float()
        log.info("%s runs in %s and not in int8: %s", files.id, precision, error)
        return _load_cross_encoder(files, cpu, precision)


def _load_cross_encoder(files: ModelFiles, cpu: Cpu, precision: Precision) -> OpenVINOCrossEncoder:
    max_tokens = longest_input(files.id, files.path)

    def build(part: Path) -> dict[str, Any]:
        from rag.models.convert import convert_cross_encoder

        return convert_cross_encoder(files, part, precision, max_tokens, cpu.on_progress)

    of = {"max_tokens": str(max_tokens)}
    entry = open_or_build(cpu.cache, _key(files, "cross-encoder", precision, of), build)
    # Reranking only orders; in int8 the logits may move as long as the order stays.
    error = {} if precision == "int8" else {"logit error": cpu.thresholds.logit}
    _check(files, precision, entry, {"rank": cpu.thresholds.rank, **error})
    engine = OpenVINOCrossEncoder(entry.path, precision, cpu.threads, max_tokens=max_tokens)
    most = max(cpu.thresholds.logit, 2 * entry.record["figures"]["logit error"])
    _check_itself(files, entry, engine._graphs("logits"), {"logit error": most})
    return engine


def _float_of(precision: Precision) -> str:
    """What the graph's floats are computed in: in an int8 graph, those that are not quantised."""
    return native_float() if precision == "int8" else precision


def _resolved(choice: PrecisionChoice) -> Precision:
    if choice == "auto":
        return native_float()
    if choice == "bf16" and native_float() != "bf16":
        raise InvalidInput(
            "This CPU does not compute bf16.", hint="Use precision `auto`, `f32` or `int8`."
        )
    return choice


def _key(
    files: ModelFiles, role: str, precision: Precision, of: Mapping[str, str]
) -> dict[str, str]:
    return {
        "model": Path(files.id).name,
        "revision": files.revision,
        "role": f"{role} {_FORMAT}",
        "precision": precision,
        "libraries": library_versions("openvino", "nncf", "torch", "transformers"),
        **of,
    }


def _check(files: ModelFiles, precision: str, entry: Entry, bounds: Mapping[str, float]) -> None:
    """Compare what was measured after the conversion with the bounds of today."""
    if found := faults(entry.record["figures"], bounds):
        raise NotConvertible(
            f"{files.id} in {precision} on OpenVINO disagrees with torch: {'; '.join(found)}."
        )


def _check_itself(
    files: ModelFiles, entry: Entry, graph: "_Graph", bounds: Mapping[str, float]
) -> None:
    """Run a few inputs whose results in torch are kept beside the graph.

    Another CPU than the one that converted may compute otherwise, and a graph may be replaced.
    """
    with np.load(entry.path / REFERENCE) as reference:
        expected = reference["expected"]
        found = graph.infer(reference["ids"], reference["mask"], reference["types"])
        scale = float(reference["scale"])
    if expected.ndim == 2:
        figures = {"cosine": float(cosines(expected, found).min())}
    else:
        figures = {"logit error": logit_error(expected, found, scale)}
    if problems := faults(figures, bounds):
        raise NotConvertible(f"{files.id} on OpenVINO fails its self-check: {problems[0]}.")


class _Graphs:
    """The outputs of one converted model, each compiled when it is first asked for."""

    def __init__(self, folder: Path, precision: Precision, threads: int) -> None:
        self.config: dict[str, Any] = json.loads((folder / CONFIG).read_text("utf-8"))
        self._folder = folder
        self._threads = threads or len(os.sched_getaffinity(0))
        self.streams = min(self._threads, MAX_STREAMS)
        self._precision = precision
        # Mapped, not read: only rows that texts use become resident.
        self._table: NDArray[np.floating[Any]] = np.load(folder / TABLE, mmap_mode="r")
        self._compiled: dict[str, _Graph] = {}
        self._guard = Lock()

    def __call__(self, output: str) -> "_Graph":
        with self._guard:
            if output not in self._compiled:
                self._compiled[output] = self._compile(output)
            return self._compiled[output]

    def close(self) -> None:
        """Let the memory go."""
        with self._guard:
            self._compiled.clear()

    def _compile(self, output: str) -> "_Graph":
        core = ov.Core()
        model = core.read_model(self._folder / GRAPH)
        (result,) = (r for r in model.get_results() if output in r.output(0).get_tensor().names)
        options = {
            "INFERENCE_PRECISION_HINT": _float_of(self._precision),
            "NUM_STREAMS": self.streams,
            "INFERENCE_NUM_THREADS": self._threads,
        }
        if self._precision == "int8":
            options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = ACTIVATION_GROUPS[output]
        compiled = core.compile_model(ov.Model([result], model.get_parameters()), "CPU", options)
        return _Graph(compiled, self._table, self.config)


class _Graph:
    """One compiled graph with an inference request per stream."""

    def __init__(
        self,
        compiled: ov.CompiledModel,
        table: NDArray[np.floating[Any]],
        config: Mapping[str, Any],
    ) -> None:
        self._table = table
        self._pad_id = int(config["pad_id"])
        self._types = bool(config["types"])
        self._idle: SimpleQueue[ov.InferRequest] = SimpleQueue()
        for _ in range(compiled.get_property("NUM_STREAMS")):
            self._idle.put(compiled.create_infer_request())

    def run(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """The output for a batch, padded on the right."""
        return self.infer(
            _padded([e.ids for e in encodings], self._pad_id),
            _padded([e.attention_mask for e in encodings], 0),
            _padded([e.type_ids for e in encodings], 0),
        )

    def infer(
        self, ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """The output for int64 (n, t) inputs, t a multiple of LENGTH_STEP or not."""
        inputs = {
            "inputs_embeds": self._table[ids].astype(np.float32, copy=False),
            "attention_mask": mask,
        }
        if self._types:
            inputs["token_type_ids"] = types
        request = self._idle.get()
        try:
            results = request.infer(inputs, share_inputs=True, share_outputs=True)
            return cast(NDArray[np.float32], np.array(results[0], dtype=np.float32))
        finally:
            self._idle.put(request)


def _padded(rows: Sequence[Sequence[int]], value: int) -> NDArray[np.int64]:
    longest = max(map(len, rows))
    padded = np.full((len(rows), longest + -longest % LENGTH_STEP), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded
