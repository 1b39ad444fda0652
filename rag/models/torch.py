"""Models run by torch through transformers' Auto classes. The only module here that imports them.

float32 on a CPU, half precision on a GPU; attention is torch's fused one (sdpa) wherever the
architecture has it, which is transformers' own default.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray
from safetensors import SafetensorError
from tokenizers import Encoding, Tokenizer
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.utils import logging as transformers_logging

from rag.errors import InvalidInput, ModelUnavailable
from rag.models.chat import END_MARKS, fold_system, write_form
from rag.models.load import ModelFiles
from rag.models.presets import EmbedderPreset, Pooling, PromptForm, longest_input, prompt_form
from rag.models.stream import Generation, TokenStream
from rag.models.tokens import (
    TokenVectors,
    load_tokenizer,
    pad,
    plan_batches,
    tokenize,
    tokenize_pairs,
)
from rag.sampling import Sampling
from rag.types import Message

_T = TypeVar("_T")

Prompt = str | tuple[Message, ...]

# An answer's length when neither the request nor the model's configuration sets one. transformers'
# own 20 is too short for any answer.
DEFAULT_NEW_TOKENS = 256

# What shapes the draw, in the order in which transformers applies it; the value that changes
# nothing; what applies it.
_WARPERS: tuple[tuple[str, float | None, Callable[[Any], LogitsProcessor]], ...] = (
    ("temperature", 1.0, TemperatureLogitsWarper),
    ("top_h", None, TopHLogitsWarper),
    ("top_k", 0, TopKLogitsWarper),
    ("top_p", 1.0, TopPLogitsWarper),
    ("min_p", None, MinPLogitsWarper),
    ("typical_p", 1.0, TypicalLogitsWarper),
    ("epsilon_cutoff", 0.0, EpsilonLogitsWarper),
    ("eta_cutoff", 0.0, EtaLogitsWarper),
)
# transformers' defaults, for what neither the request nor generation_config.json sets.
_DEFAULTS = {"do_sample": False, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


class TorchEncoder:
    """A text encoder with its pooling. Safe to use from several threads.

    `batch_tokens` bounds the padded tokens of one forward pass. Raises `ModelUnavailable`.
    """

    def __init__(
        self,
        files: ModelFiles,
        preset: EmbedderPreset,
        tokenizer: Tokenizer | None = None,
        *,
        device: str | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        self._preset = preset
        self._tokenizer = tokenizer or load_tokenizer(files.path, lower_case=preset.lower_case)
        self._device = _device(device)
        self._model = _load(AutoModel, files, self._device, unused="pooler.")
        self._batch_tokens = batch_tokens

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float32]:
        """Pooled vectors, float32 (n, dim), of unit length where the preset normalises.

        In the order of `texts`. No instruction is added; what exceeds `max_tokens` is cut.
        """
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        encodings = tokenize(self._tokenizer, texts, max_tokens)
        for batch in plan_batches([len(e) for e in encodings], self._batch_tokens):
            vectors[batch] = self._pooled([encodings[i] for i in batch])
        return vectors

    def token_vectors(self, texts: Sequence[str], *, max_tokens: int) -> list[TokenVectors]:
        """Each text's last hidden states of unit length, special tokens left out."""
        encodings = tokenize(self._tokenizer, texts, max_tokens)
        found: dict[int, TokenVectors] = {}
        for batch in plan_batches([len(e) for e in encodings], self._batch_tokens):
            states = self._token_states([encodings[i] for i in batch])
            for row, i in enumerate(batch):
                found[i] = _token_vectors(encodings[i], states[row])
        return [found[i] for i in range(len(encodings))]

    @torch.inference_mode()
    def _pooled(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        states, mask = self._hidden_states(encodings)
        pooled = _pool(states, mask, self._preset.pooling)
        if self._preset.normalize:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        return _to_numpy(pooled)

    @torch.inference_mode()
    def _token_states(self, encodings: Sequence[Encoding]) -> NDArray[np.float32]:
        states, _ = self._hidden_states(encodings)
        return _to_numpy(torch.nn.functional.normalize(states, dim=-1))

    def _hidden_states(self, encodings: Sequence[Encoding]) -> tuple[torch.Tensor, torch.Tensor]:
        """Last hidden states float32 (b, t, dim) and the attention mask int64 (b, t)."""
        inputs = _inputs(encodings, self._model.config, self._device)
        # Pooling and normalising in half precision would lose what the model's own float32 keeps.
        return self._model(**inputs).last_hidden_state.float(), inputs["attention_mask"]


class TorchCrossEncoder:
    """A reranker that reads question and passage together. Safe to use from several threads.

    `max_tokens` None: what the model's files say. Raises `ModelUnavailable`, also for a classifier
    with other than one label.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        max_tokens: int | None = None,
        device: str | None = None,
        batch_tokens: int = 8192,
    ) -> None:
        self._tokenizer = load_tokenizer(files.path)
        self._device = _device(device)
        # bfloat16's eight bits of precision would make ties of neighbouring logits.
        self._model = _load(
            AutoModelForSequenceClassification, files, self._device, half=torch.float16
        )
        if (labels := self._model.config.num_labels) != 1:
            raise ModelUnavailable(
                f"{files.id} is a classifier of {labels} labels; a reranker has one."
            )
        self.max_tokens = max_tokens or longest_input(files.id, files.path)
        self._batch_tokens = batch_tokens

    def logits(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """The raw score of each passage, float32 (n,), in the order of `passages`.

        Passages are cut to what `max_tokens` leaves; a question of over three quarters of it, too.
        """
        scores = np.empty(len(passages), dtype=np.float32)
        pairs = tokenize_pairs(self._tokenizer, question, passages, self.max_tokens)
        for batch in plan_batches([len(pair) for pair in pairs], self._batch_tokens):
            scores[batch] = self._scores([pairs[i] for i in batch])
        return scores

    @torch.inference_mode()
    def _scores(self, pairs: Sequence[Encoding]) -> NDArray[np.float32]:
        inputs = _inputs(pairs, self._model.config, self._device)
        return _to_numpy(self._model(**inputs).logits[:, 0])


class TorchCausalLM:
    """Any `AutoModelForCausalLM`. One request runs at a time, others wait in the order they came.

    One thread of its own generates: torch keeps a team of threads for every thread that computes,
    so a new one for each request would start a new team each time. `form` None: what is known of
    the model's id. Raises `ModelUnavailable`.
    """

    def __init__(
        self, files: ModelFiles, *, device: str | None = None, form: PromptForm | None = None
    ) -> None:
        self.id = files.id
        self._device = _device(device)
        self._tokenizer = _load_tokenizer(files)
        self._tokenizer_lock = threading.Lock()
        self._model = _load(AutoModelForCausalLM, files, self._device)
        self._form = form or prompt_form(files.id)
        self._own = self._model.generation_config
        # Sampling is done here (see `_Draw`), so `generate` must not see the model's own settings.
        self._model.generation_config = _without_sampling(self._own)
        self._end_ids, self._end_stops = self._ends()
        self.context_window = _context_window(self._model.config, self._tokenizer)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def close(self) -> None:
        """Wait for the request in flight and let the generating thread go."""
        self._worker.shutdown()

    def count_tokens(self, text: str) -> int:
        """The tokens of `text`, no special ones added."""
        return len(self._encode(text, special=False))

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model's prompt, up to where its answer begins.

        By the tokenizer's chat template if it has one, else in the model's instruction form. A
        template without a system role gets system messages within the first user message. Raises
        `InvalidInput` for a conversation that the template refuses.
        """
        if self._tokenizer.chat_template is None:
            return write_form(self._form, messages)
        try:
            return self._apply_template(messages)
        except TemplateError:
            return self._apply_template_without_system(messages)

    def stream(self, prompt: Prompt, sampling: Sampling) -> TokenStream:
        """Generate from messages, or from a text that is already a prompt and is used as it is.

        Raises `InvalidInput` when prompt and answer do not fit the context window together.
        """
        prompt_ids = self._prompt_ids(prompt)
        new_tokens = self._new_tokens(sampling.max_new_tokens, len(prompt_ids))
        generation = Generation(
            self._decode,
            stops=(*sampling.stop, *self._end_stops),
            end_ids=self._end_ids,
            max_new_tokens=new_tokens,
        )
        settings, notes = self._settings(sampling)
        future = self._worker.submit(
            self._run, generation, prompt_ids, new_tokens, settings, sampling.seed
        )
        return TokenStream(generation, future, prompt_tokens=len(prompt_ids), notes=notes)

    def _run(
        self,
        generation: Generation,
        prompt_ids: list[int],
        new_tokens: int,
        settings: dict[str, Any],
        seed: int | None,
    ) -> None:
        """One request, in the generating thread. The reader is told of its end whatever happens."""
        try:
            if not generation.cancelled.is_set():
                draw = _Draw(settings, seed, self._device) if settings["do_sample"] else None
                self._generate(generation, prompt_ids, new_tokens, draw)
        finally:
            generation.finish()

    def _generate(
        self, generation: Generation, prompt_ids: list[int], new_tokens: int, draw: "_Draw | None"
    ) -> None:
        config = copy.deepcopy(self._model.generation_config)
        config.max_new_tokens = new_tokens
        config.eos_token_id = sorted(self._end_ids) or None
        if config.pad_token_id is None and self._end_ids:
            config.pad_token_id = min(self._end_ids)  # transformers would do so, with a warning
        input_ids = torch.tensor([prompt_ids], device=self._device)
        self._model.generate(  # type: ignore[operator]  # nn.Module types unknown attributes so
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([draw] if draw else []),
            stopping_criteria=StoppingCriteriaList([_Reader(generation)]),
        )

    def _settings(self, sampling: Sampling) -> tuple[dict[str, Any], tuple[str, ...]]:
        """What the draw is made with: the request's values, the model's own, transformers'."""
        asked = {name: getattr(sampling, name) for name in ("do_sample", "temperature", "top_p")}
        names = ["do_sample", *(name for name, _, _ in _WARPERS)]
        settings = {
            name: _first(asked.get(name), getattr(self._own, name, None), _DEFAULTS.get(name))
            for name in names
        }
        notes = []
        idle = [name for name in ("temperature", "top_p") if asked[name]]
        if idle and not settings["do_sample"]:
            notes.append(f"do_sample is off, so {' and '.join(idle)} had no effect.")
        if (self._own.num_beams or 1) > 1:
            notes.append("The model asks for beam search, which cannot stream: one beam was used.")
        return settings, tuple(notes)

    def _new_tokens(self, asked: int | None, prompt_tokens: int) -> int:
        room = self.context_window - prompt_tokens
        if asked is None:
            asked = min(self._own.max_new_tokens or DEFAULT_NEW_TOKENS, max(room, 1))
        if asked > room:
            raise InvalidInput(
                f"The prompt has {prompt_tokens} tokens and max_new_tokens is {asked}, together "
                f"more than the {self.context_window} that {self.id} can hold.",
                hint="Shorten the prompt or ask for fewer tokens.",
            )
        return asked

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self._encode(prompt, special=True)
        else:
            # A chat template writes the special tokens itself.
            special = self._tokenizer.chat_template is None
            ids = self._encode(self.render(prompt), special=special)
        if not ids:
            raise InvalidInput("The prompt is empty.")
        return ids

    def _apply_template(self, messages: Sequence[Message]) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        with self._tokenizer_lock:
            rendered = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True
            )
        return str(rendered)

    def _apply_template_without_system(self, messages: Sequence[Message]) -> str:
        try:
            return self._apply_template(fold_system(messages))
        except TemplateError as error:
            raise InvalidInput(
                f"The chat template of {self.id} refuses this conversation: {error}."
            ) from error

    def _encode(self, text: str, *, special: bool) -> list[int]:
        # transformers sets truncation on the shared tokenizer in every call.
        with self._tokenizer_lock:
            return list(self._tokenizer.encode(text, add_special_tokens=special, verbose=False))

    def _decode(self, ids: list[int]) -> str:
        text = self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return str(text)

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """The token ids, and the strings, that end an answer."""
        eos = self._own.eos_token_id
        ids = set(eos) if isinstance(eos, list) else {eos} - {None}
        stops = self._own.stop_strings or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        if self._tokenizer.chat_template is None and (mark := END_MARKS.get(self._form)):
            mark_ids = self._encode(mark, special=False)
            if len(mark_ids) == 1:
                ids.add(mark_ids[0])
            else:
                stops.append(mark)
        return frozenset(ids), tuple(stops)


class _Reader(StoppingCriteria):
    """Hands each new token to the `Generation` and stops the model when that says so.

    A streamer would see the token only after the decision to go on: one forward pass too late.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        stop = self._generation.push(int(input_ids[0, -1]))
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


class _Draw(LogitsProcessor):
    """Draws the next token with a random generator of its own and leaves no other choice.

    `generate(do_sample=True)` draws from torch's one global generator, which every other thread
    draws from as well: a seed would not repeat. The draw is otherwise the same, token for token.
    """

    def __init__(self, settings: dict[str, Any], seed: int | None, device: torch.device) -> None:
        self._random = torch.Generator(device)
        if seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(seed)
        self._warpers = LogitsProcessorList(
            warper(value)
            for name, neutral, warper in _WARPERS
            if (value := settings[name]) is not None and value != neutral
        )

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        warped = self._warpers(input_ids, scores)  # type: ignore[arg-type]  # a LongTensor in name
        drawn = torch.multinomial(warped.softmax(-1), num_samples=1, generator=self._random)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def convert_tokenizer(folder: Path) -> Tokenizer:
    """The fast tokenizer of a model that has only vocabulary files. Raises `ModelUnavailable`."""
    tokenizer = _load_tokenizer(ModelFiles(str(folder), folder, ""))
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


def _load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    with _loading(files):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            files.path, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


def _load(
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


def _device(name: str | None) -> torch.device:
    if name is not None:
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def _pool(states: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """(b, t, dim) to (b, dim), padding left out."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _token_vectors(encoding: Encoding, states: NDArray[np.float32]) -> TokenVectors:
    own = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
    return TokenVectors(
        ids=np.array(encoding.ids, dtype=np.int32)[own],
        vectors=states[own],
        offsets=np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)[own],
    )


def _to_numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def _without_sampling(config: GenerationConfig) -> GenerationConfig:
    """The configuration for one greedy beam; penalties and suppressed tokens stay."""
    greedy = copy.deepcopy(config)
    nothing = dict.fromkeys([*(name for name, _, _ in _WARPERS), "stop_strings", "max_length"])
    options = nothing | {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
    greedy.update(**options)  # type: ignore[no-untyped-call]  # transformers has no types here
    return greedy


def _context_window(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """The most tokens, prompt and answer together, that the model can hold."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len", "seq_length", "n_ctx")
    limits = [getattr(text, name, None) for name in names] + [tokenizer.model_max_length]
    known = [int(n) for n in limits if isinstance(n, int | float) and 0 < n < 1e9]
    return known[0] if known else 2048


def _first(*values: _T | None) -> _T | None:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)
