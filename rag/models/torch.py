"""Encoders run by torch through transformers' Auto classes, and how any such model is loaded.

float32 on a CPU, half precision on a GPU; attention is torch's fused one (sdpa) wherever the
architecture has it, which is transformers' own default.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Encoding, Tokenizer
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging as transformers_logging

from rag.errors import ModelUnavailable
from rag.models.batching import PASS_TOKENS
from rag.models.load import ModelFiles
from rag.models.presets import EmbedderPreset, Pooling, longest_input
from rag.models.tokens import pad

# Padded tokens of one forward pass. Large ones gain nothing on a CPU, and a question that comes
# during one waits for its end.
BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
# While a GPU computes one batch, another thread pads the next. A CPU's cores all work on one.
WORKERS = {"cpu": 1, "cuda": 2}


class TorchEncoder:
    """A text encoder with its pooling, an `EncoderEngine`.

    `batch_tokens` bounds the padded tokens of one forward pass. Raises `ModelUnavailable`.
    """

    def __init__(
        self,
        files: ModelFiles,
        preset: EmbedderPreset,
        *,
        device: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self._preset = preset
        self._device = pick_device(device)
        self.model = load_model(AutoModel, files, self._device, unused="pooler.")
        self.precision = str(self.model.dtype).removeprefix("torch.")
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self._device.type]
        self.pass_tokens = pass_tokens(self.model, self.batch_tokens)
        self.workers = WORKERS[self._device.type]
        self.dim = int(self.model.config.hidden_size)

    @torch.inference_mode()
    def pooled(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Vectors float32 (n, dim), of unit length where the preset normalises."""
        states, mask = self._hidden_states(encodings)
        return _to_numpy(pool(states, mask, self._preset))

    @torch.inference_mode()
    def states(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        """Last hidden states of unit length, float32 (n, longest, dim)."""
        states, _ = self._hidden_states(encodings)
        return _to_numpy(torch.nn.functional.normalize(states, dim=-1))

    def close(self) -> None:
        """Let the memory go."""
        del self.model

    def _hidden_states(self, encodings: Sequence[Encoding]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states float32 (b, t, dim) and the attention mask int64 (b, t)."""
        inputs = _inputs(encodings, self.model.config, self._device)
        # Pooling and normalising in half precision would lose what the model's own float32 keeps.
        return self.model(**inputs).last_hidden_state.float(), inputs["attention_mask"]


class TorchCrossEncoder:
    """A reranker that reads question and passage together, a `CrossEncoderEngine`.

    `max_tokens` None: what the model's files say. Raises `ModelUnavailable`, also for a classifier
    with other than one label.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        max_tokens: int | None = None,
        device: str | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        self._device = pick_device(device)
        # bfloat16's eight bits of precision would make ties of neighbouring logits.
        self.model = load_model(
            AutoModelForSequenceClassification, files, self._device, half=torch.float16
        )
        if (labels := self.model.config.num_labels) != 1:
            raise ModelUnavailable(
                f"{files.id} is a classifier of {labels} labels; a reranker has one."
            )
        self.max_tokens = max_tokens or longest_input(files.id, files.path)
        self.batch_tokens = batch_tokens or BATCH_TOKENS[self._device.type]
        self.pass_tokens = pass_tokens(self.model, self.batch_tokens)
        self.workers = WORKERS[self._device.type]

    @torch.inference_mode()
    def scores(self, pairs: Sequence[Encoding]) -> NDArray[np.float32]:
        """Raw logits, float32 (n,)."""
        inputs = _inputs(pairs, self.model.config, self._device)
        return _to_numpy(self.model(**inputs).logits[:, 0])

    def close(self) -> None:
        """Let the memory go."""
        del self.model


def convert_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model that has only vocabulary files. Raises `ModelUnavailable`."""
    tokenizer = load_pretrained_tokenizer(ModelFiles(str(folder), folder, ""))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelUnavailable(f"The tokenizer in {folder} has no fast version.")
    return backend


@contextmanager
def _loading(files: ModelFiles) -> Iterator[None]:
    # A bar that runs for a tenth of a second tells nobody anything.
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelUnavailable(f"{files.id} cannot be loaded from {files.path}: {error}") from error
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def load_pretrained_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """The model's tokenizer as transformers loads it. Raises `ModelUnavailable`."""
    with _loading(files):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def load_model(
    auto_class: type[_BaseAutoModelClass],
    files: ModelFiles,
    device: torch.device,
    *,
    half: torch.dtype = torch.bfloat16,
    unused: str = "",
) -> PreTrainedModel:
    """A model ready to run, without network or foreign code.

    Weights that are not in the files are an error, not random numbers, unless their names start
    with `unused`. Raises `ModelUnavailable`.
    """
    model: PreTrainedModel
    with _loading(files):
        model, report = auto_class.from_pretrained(
            files.path,
            dtype=_dtype(device, half),
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = [key for key in report["missing_keys"] if not (unused and key.startswith(unused))]
    if missing:
        raise ModelUnavailable(
            f"{files.id} has no weights for {', '.join(sorted(missing)[:3])}: "
            f"it is no {type(model).__name__}."
        )
    model.to(device)  # type: ignore[arg-type]  # its decorator hides the method's signature
    model.eval()  # type: ignore[no-untyped-call]
    return model


def context_window(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens, prompt and answer together, that a causal LM can hold."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len", "seq_length", "n_ctx")
    limits = [getattr(text, name, None) for name in names] + [tokenizer.model_max_length]
    known = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < 1e9]
    return known[0] if known else 2048


def use_threads(threads: int) -> None:
    """Let torch compute with so many CPU threads; 0 leaves it at one per core."""
    if threads:
        torch.set_num_threads(threads)


def pick_device(name: str | None) -> torch.device:
    """The device of that name; None: CUDA where there is one, else the CPU."""
    if name is not None:
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pass_tokens(model: PreTrainedModel, batch_tokens: int) -> int:
    """What a forward pass costs whatever is in it, in tokens; see `Batcher`.

    Measured on a GPU, which computes thousands of tokens while its kernels are being launched.
    """
    return measured_pass_tokens(model, batch_tokens) if model.device.type == "cuda" else PASS_TOKENS


def measured_pass_tokens(model: PreTrainedModel, batch_tokens: int) -> int:
    """`pass_tokens` by two passes, one of next to nothing and a full one; the warm-up as well."""
    # Half of its positions: some models begin to count them behind the padding's.
    length = min(256, model.config.max_position_embeddings // 2)
    rows = max(2, batch_tokens // length)
    few, many = (
        min(_seconds(model, *shape) for _ in range(3)) for shape in ((1, length), (rows, length))
    )
    return launch_tokens((length, few), (rows * length, many))


def launch_tokens(few: tuple[int, float], many: tuple[int, float]) -> int:
    """The fixed cost of a pass in tokens, from two passes' (tokens, seconds).

    seconds = fixed + tokens / rate; at most the larger pass, when both take as long.
    """
    rate = (many[0] - few[0]) / max(many[1] - few[1], 1e-9)
    fixed = few[1] - few[0] / rate
    return max(PASS_TOKENS, min(many[0], round(fixed * rate)))


@torch.inference_mode()
def _seconds(model: PreTrainedModel, rows: int, length: int) -> float:
    ids = torch.ones((rows, length), dtype=torch.int64, device=model.device)
    _wait_for(model.device)
    start = time.perf_counter()
    model(input_ids=ids, attention_mask=ids)
    _wait_for(model.device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    """A GPU computes behind the caller's back."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _dtype(device: torch.device, half: torch.dtype) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    if half is torch.bfloat16 and not torch.cuda.is_bf16_supported():
        return torch.float16
    return half


def _inputs(
    encodings: Sequence[Encoding], config: PreTrainedConfig, device: torch.device
) -> dict[str, torch.Tensor]:
    """Model inputs int64 (b, t), padded on the right."""
    arrays = {
        "input_ids": pad([e.ids for e in encodings], config.pad_token_id or 0),
        "attention_mask": pad([e.attention_mask for e in encodings], 0),
    }
    # One type only (RoBERTa) or none (DistilBERT): the model does not want to be told.
    if (getattr(config, "type_vocab_size", None) or 1) > 1:
        arrays["token_type_ids"] = pad([e.type_ids for e in encodings], 0)
    return {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}


def pool(states: torch.Tensor, mask: torch.Tensor, preset: EmbedderPreset) -> torch.Tensor:
    """(b, t, dim) to (b, dim), padding left out, of unit length where the preset normalises."""
    pooled = _pool(states, mask, preset.pooling)
    return torch.nn.functional.normalize(pooled, dim=-1) if preset.normalize else pooled


def _pool(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        last = (mask.sum(1) - 1).view(-1, 1, 1).expand(-1, 1, states.shape[-1])
        return states.gather(1, last).squeeze(1)
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array
