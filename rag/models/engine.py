"""Which engine runs a local model, and what happens when it cannot.

OpenVINO on a CPU, torch on a GPU. What OpenVINO cannot convert, or computes otherwise than torch,
runs in torch, and the log says why.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from tokenizers import Tokenizer

from rag.errors import ModelUnavailable
from rag.models.cache import NotConvertible
from rag.models.cpu import Cpu
from rag.models.encoders import LocalCrossEncoder, LocalEncoder, Queueing
from rag.models.load import ModelFiles
from rag.models.presets import EmbedderPreset
from rag.models.tokens import load_tokenizer

if TYPE_CHECKING:
    from rag.generate import LanguageModel

log = logging.getLogger(__name__)

EngineName = Literal["auto", "openvino", "torch"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Engines:
    """Where models run. `device` None: a GPU when there is one.

    `name` auto: OpenVINO on a CPU with torch behind it, torch on a GPU. openvino: nothing else,
    a model that cannot run there is an error.
    """

    name: EngineName = "auto"
    device: Literal["cpu", "cuda"] | None = None
    cpu: Cpu = field(default_factory=Cpu)
    queueing: Queueing = field(default_factory=Queueing)

    @property
    def on_cpu(self) -> bool:
        """Whether models run on the CPU. Imports torch only where there is an NVIDIA driver."""
        if self.device is not None:
            return self.device == "cpu"
        return not _has_cuda()


def open_encoder(
    files: ModelFiles, preset: EmbedderPreset, tokenizer: Tokenizer, engines: Engines
) -> LocalEncoder:
    """An embedding model, ready. Raises `ModelUnavailable`."""

    def on_torch() -> LocalEncoder:
        from rag.models.torch import TorchEncoder, use_threads

        use_threads(engines.cpu.threads)
        engine = TorchEncoder(files, preset, device=engines.device)
        return LocalEncoder(files.id, engine, tokenizer, engines.queueing)

    def on_openvino() -> LocalEncoder:
        from rag.models.openvino import load_encoder

        engine = load_encoder(files, preset, engines.cpu)
        return LocalEncoder(files.id, engine, tokenizer, engines.queueing)

    return choose(engines, on_openvino, on_torch)


def open_cross_encoder(files: ModelFiles, engines: Engines) -> LocalCrossEncoder:
    """A reranker, ready. Raises `ModelUnavailable`."""
    tokenizer = load_tokenizer(files.path)

    def on_torch() -> LocalCrossEncoder:
        from rag.models.torch import TorchCrossEncoder, use_threads

        use_threads(engines.cpu.threads)
        engine = TorchCrossEncoder(files, device=engines.device)
        return LocalCrossEncoder(files.id, engine, tokenizer, engines.queueing)

    def on_openvino() -> LocalCrossEncoder:
        from rag.models.openvino import load_cross_encoder

        engine = load_cross_encoder(files, engines.cpu)
        return LocalCrossEncoder(files.id, engine, tokenizer, engines.queueing)

    return choose(engines, on_openvino, on_torch)


@dataclass(frozen=True, slots=True)
class Generation:
    """How a causal LM serves several requests; see `load_causal_lm`."""

    kv_cache_mb: int = 512
    waiting: int = 32
    min_agreement: float = 0.9
    patience_seconds: float = 0.25


def open_causal_lm(
    files: ModelFiles,
    engines: Engines,
    options: Generation = Generation(),
) -> "LanguageModel":
    """A causal LM, ready. Raises `ModelUnavailable`."""

    def on_torch() -> "LanguageModel":
        from rag.models.torch import use_threads
        from rag.models.torch_lm import TorchCausalLM

        use_threads(engines.cpu.threads)
        return TorchCausalLM(files, device=engines.device, waiting=options.waiting)

    def on_openvino() -> "LanguageModel":
        from rag.models.genai import Turns, load_causal_lm

        return load_causal_lm(
            files,
            engines.cpu,
            kv_cache_mb=options.kv_cache_mb,
            waiting=options.waiting,
            min_agreement=options.min_agreement,
            turns=Turns(engines.queueing.crowd, options.patience_seconds),
        )

    return choose(engines, on_openvino, on_torch)


def choose(engines: Engines, on_openvino: Callable[[], _T], on_torch: Callable[[], _T]) -> _T:
    """What the engine of choice makes, or torch in its place, said in the log."""
    if engines.name == "torch" or (engines.name == "auto" and not engines.on_cpu):
        return on_torch()
    try:
        return on_openvino()
    except NotConvertible as error:
        if engines.name == "openvino":
            raise ModelUnavailable(
                str(error), hint="Set RAG_ENGINE=auto to run such a model with torch."
            ) from error
        log.warning("%s It runs in torch, slower.", error)
        return on_torch()


def _has_cuda() -> bool:
    # Importing torch takes seconds, so the driver is looked for first.
    if not any(
        Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
    ):
        return False
    import torch

    return torch.cuda.is_available()
