"""Causal LMs on a CPU through OpenVINO GenAI: one pipeline makes the next token of all requests.

The pipeline batches continuously (a request joins and leaves between two tokens), keeps keys and
values in blocks of a fixed budget, and reuses the blocks of a prefix that it has seen. What it
loads was converted and checked by `export_lm.py`; where that is on disk already, neither torch nor
transformers is imported.
"""

import json
import logging
import secrets
import threading
import time
from bisect import insort
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import openvino as ov
from openvino_genai import (
    ContinuousBatchingPipeline,
    GenerationConfig,
    GenerationStatus,
    SchedulerConfig,
)
from openvino_genai.py_openvino_genai import GenerationHandle  # not in the package itself

from rag.errors import InvalidInput, ModelUnavailable, Overloaded
from rag.models.cache import NotConvertible, library_versions, open_or_build
from rag.models.chat import END_MARKS, ChatTemplate, render_chat, write_form
from rag.models.cpu import Cpu, Precision, PrecisionChoice
from rag.models.crowd import Crowd
from rag.models.lm import (
    SAMPLING_DEFAULTS,
    Load,
    Prompt,
    answer_tokens,
    first_set,
    sampling_notes,
)
from rag.models.load import ModelFiles
from rag.models.openvino import native_float
from rag.models.presets import PromptForm, prompt_form
from rag.models.stream import Generation, TokenStream
from rag.models.tokens import load_tokenizer, special_marks
from rag.sampling import MAX_SEED, Sampling
from rag.types import Message
from rag.work import Work, current_work

log = logging.getLogger(__name__)

BLOCK_TOKENS = 32  # positions in one block of the pipeline's KV cache on a CPU
# Tokens in one forward pass, prompts included: more delay the answers that are being written.
BATCHED_TOKENS = 256
MAX_RUNNING = 32  # requests that share a forward pass
# Activations that share a scale where an int8 graph multiplies in int8. Read a prompt of 1,000
# tokens at 1,200 tokens per second; groups of 32, OpenVINO's default, at 980, of 896 at 1,030.
ACTIVATION_GROUP = 128

_FORMAT = "2"  # of what `export_lm.py` writes
GRAPH, TOKENIZER, _DESCRIPTION = "openvino_model.xml", "tokenizer.json", "lm.json"
_FORGETTING = 0.8  # weight of the past in the mean duration of a request


@dataclass(frozen=True, slots=True)
class Description:
    """What the runtime has to know of a converted model beside its graph.

    `precision`: f32 stores and computes as the model's authors did; bf16 stores in 16 bits; int8
    stores weights in 8 bits and computes in the CPU's native float. `block_bytes` is the size of a
    block of its KV cache. `generation` holds what is used here of the model's own configuration.
    """

    precision: Precision
    context_window: int
    block_bytes: int
    chat_template: str | None
    special_tokens: dict[str, Any]
    generation: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write it beside the graph."""
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self), indent=1), "utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Description":
        """Read what `save` wrote."""
        return cls(**json.loads((folder / _DESCRIPTION).read_text("utf-8")))


def load_causal_lm(
    files: ModelFiles,
    cpu: Cpu,
    *,
    kv_cache_mb: int = 512,
    waiting: int = 32,
    form: PromptForm | None = None,
    min_agreement: float = 0.9,
    turns: "Turns | None" = None,
) -> "OpenVINOCausalLM":
    """The model, converted first when the cache does not have it.

    Precision `auto` is int8 where at least `min_agreement` of its tokens are torch's own choice,
    else the float that the CPU computes natively. Raises `NotConvertible` for a model that does not
    convert or does not agree with torch, now or when it was tried before; `ModelUnavailable` when
    its files cannot be loaded.
    """
    choices = _choices(cpu.precision)
    key = {
        "model": Path(files.id).name,
        "revision": files.revision,
        "role": f"causal LM {_FORMAT}",
        "precision": ", ".join(choices),
        "compute": native_float(),
        "agreement": str(min_agreement),
        "libraries": library_versions(
            "openvino", "openvino-genai", "nncf", "torch", "transformers", "tokenizers"
        ),
    }

    def build(part: Path) -> dict[str, Any]:
        from rag.models.export_lm import export_or_refuse

        return export_or_refuse(files, part, choices, cpu, min_agreement=min_agreement)

    entry = open_or_build(cpu.cache, key, build)
    if (refusal := entry.record.get("refused")) is not None:
        raise NotConvertible(refusal)
    return OpenVINOCausalLM(
        files.id,
        entry.path,
        kv_cache_mb=kv_cache_mb,
        waiting=waiting,
        revision=files.revision,
        threads=cpu.threads,
        form=form,
        turns=turns,
    )


def _choices(wanted: PrecisionChoice) -> tuple[Precision, ...]:
    """The precisions to try, in this order. Raises `InvalidInput` for bf16 without hardware."""
    if wanted == "auto":
        return ("int8", native_float())
    if wanted == "bf16" and native_float() != "bf16":
        raise InvalidInput(
            "This CPU does not compute bf16.", hint="Use precision `auto`, `f32` or `int8`."
        )
    return (wanted,)


def open_pipeline(
    folder: Path, precision: Precision, *, blocks: int, threads: int
) -> ContinuousBatchingPipeline:
    """The pipeline over a converted model. Raises `RuntimeError` for a graph that it refuses."""
    scheduler = SchedulerConfig()
    scheduler.num_kv_blocks = blocks
    scheduler.max_num_batched_tokens = BATCHED_TOKENS
    scheduler.max_num_seqs = MAX_RUNNING
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = True
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": native_float() if precision == "int8" else precision,
        # Eight bits halve the memory at the speed of bf16.
        "KV_CACHE_PRECISION": "f32" if precision == "f32" else "u8",
    }
    if precision == "int8":
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = str(ACTIVATION_GROUP)
    if threads:
        properties["INFERENCE_NUM_THREADS"] = threads
    return ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)


def token_tensor(ids: Sequence[int]) -> ov.Tensor:
    """Token ids as the pipeline reads them: int64 (1, n)."""
    return ov.Tensor(np.array([ids], dtype=np.int64))


def _warm_up(pipeline: ContinuousBatchingPipeline) -> None:
    """Write one token: the first step packs the weights, which is no question's business."""
    config = GenerationConfig()
    config.max_new_tokens = 1
    pipeline.add_request(0, token_tensor([0]), config)
    while pipeline.has_non_finished_requests():
        pipeline.step()


class Turns:
    """When a model may make its next tokens: when nobody of the crowd is left, and at the latest
    `patience` seconds after the ones before. Used by one thread.
    """

    def __init__(self, crowd: Crowd | None = None, patience: float = 0.0) -> None:
        self._crowd = crowd or Crowd()
        self._patience = patience
        self._last = time.monotonic()

    def wait(self) -> None:
        """Wait for the turn."""
        self._crowd.wait_until_gone(self._last + self._patience - time.monotonic())

    def taken(self) -> None:
        """Tokens were made."""
        self._last = time.monotonic()


class OpenVINOCausalLM:
    """A converted causal LM. Requests from any number of threads run side by side.

    A request starts when the keys and values of its prompt and its longest answer fit into what is
    free of `kv_cache_mb`; until then at most `waiting` of them wait, interactive ones ahead of
    bulk. `form` None: what is known of the model's id.

    Each request draws from a random generator of its own, so a seed repeats. In f32 it does so
    whatever else runs; in bf16 and int8 the rounding of a forward pass depends on how many
    requests share it, which now and then decides between two tokens that are as good as even.
    """

    def __init__(
        self,
        model_id: str,
        folder: Path,
        *,
        kv_cache_mb: int,
        waiting: int,
        revision: str = "",
        threads: int = 0,
        form: PromptForm | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.id = model_id
        self.revision = revision
        about = Description.load(folder)
        blocks = kv_cache_mb * 2**20 // about.block_bytes
        if blocks < 1:
            raise ModelUnavailable(
                f"kv_cache_mb {kv_cache_mb} holds not even {BLOCK_TOKENS} tokens of {model_id}.",
                hint="Raise RAG_KV_CACHE_MB.",
            )
        self.precision: str = about.precision
        self.context_window = min(about.context_window, blocks * BLOCK_TOKENS)
        self._own = about.generation
        self._form = form or prompt_form(model_id)
        self._template = (
            ChatTemplate(about.chat_template, about.special_tokens)
            if about.chat_template is not None
            else None
        )
        self._tokenizer = load_tokenizer(folder)
        self.marks = special_marks(self._tokenizer)
        self._end_ids, self._end_stops = self._ends()
        pipeline = open_pipeline(folder, about.precision, blocks=blocks, threads=threads)
        _warm_up(pipeline)
        turns = turns or Turns()
        self._engine = _Engine(model_id, pipeline, blocks=blocks, waiting=waiting, turns=turns)

    def close(self) -> None:
        """Wait for the requests in flight and let the generating thread go."""
        self._engine.close()

    @property
    def load(self) -> Load:
        """Requests now."""
        return self._engine.load

    def count_tokens(self, text: str) -> int:
        """The tokens of `text`, no special ones added."""
        return len(self._encode(text, special=False))

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model's prompt, up to where its answer begins.

        By the tokenizer's chat template if it has one, else in the model's instruction form. A
        template without a system role gets system messages within the first user message. Raises
        `InvalidInput` for a conversation that the template refuses.
        """
        if self._template is None:
            return write_form(self._form, messages)
        return render_chat(self._template, messages, self.id)

    def stream(self, prompt: Prompt, sampling: Sampling) -> TokenStream:
        """Generate from messages, or from a text that is already a prompt and is used as it is.

        Raises `InvalidInput` when prompt and answer do not fit the context window together,
        `Overloaded` when too many requests wait.
        """
        prompt_ids = self._prompt_ids(prompt)
        new_tokens = answer_tokens(
            sampling.max_new_tokens,
            self._own["max_new_tokens"],
            prompt_tokens=len(prompt_ids),
            window=self.context_window,
            model_id=self.id,
        )
        generation = Generation(
            partial(self._tokenizer.decode, skip_special_tokens=True),
            stops=(*sampling.stop, *self._end_stops),
            end_ids=self._end_ids,
            max_new_tokens=new_tokens,
        )
        config = self._config(sampling, new_tokens)
        request = _Request(generation, prompt_ids, config, current_work())
        self._engine.submit(request)
        notes = sampling_notes(
            sampling, do_sample=config.do_sample, num_beams=self._own["num_beams"] or 1
        )
        return TokenStream(generation, request.future, prompt_tokens=len(prompt_ids), notes=notes)

    def _config(self, sampling: Sampling, new_tokens: int) -> GenerationConfig:
        """The request's values, else the model's own, else transformers', each given explicitly."""

        def setting(name: str) -> Any:  # noqa: ANN401 - a number or a switch
            asked = getattr(sampling, name, None)
            return first_set(asked, self._own.get(name), SAMPLING_DEFAULTS.get(name))

        config = GenerationConfig()
        config.max_new_tokens = new_tokens
        config.stop_token_ids = set(self._end_ids)
        config.ignore_eos = not self._end_ids
        config.repetition_penalty = setting("repetition_penalty") or 1.0
        config.do_sample = setting("do_sample")
        if config.do_sample:
            config.temperature = setting("temperature")
            config.top_k = setting("top_k")
            config.top_p = setting("top_p")
            config.min_p = setting("min_p") or 0.0
            seed = sampling.seed
            config.rng_seed = secrets.randbelow(MAX_SEED + 1) if seed is None else seed
        return config

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self._encode(prompt, special=True)
        else:
            # A chat template writes the special tokens itself.
            ids = self._encode(self.render(prompt), special=self._template is None)
        if not ids:
            raise InvalidInput("The prompt is empty.")
        return ids

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=special).ids

    def _ends(self) -> tuple[frozenset[int], tuple[str, ...]]:
        """The token ids, and the strings, that end an answer."""
        ids, stops = set(self._own["eos_token_ids"]), list(self._own["stop_strings"])
        if self._template is None and (mark := END_MARKS.get(self._form)):
            mark_ids = self._encode(mark, special=False)
            if len(mark_ids) == 1:
                ids.add(mark_ids[0])
            else:
                stops.append(mark)
        return frozenset(ids), tuple(stops)


@dataclass(eq=False, slots=True)
class _Request:
    """One prompt on its way. `future` is done when nothing more is computed for it."""

    generation: Generation
    prompt_ids: list[int]
    config: GenerationConfig
    work: Work
    future: Future[None] = field(default_factory=Future)
    handle: GenerationHandle | None = None
    arrived: float = field(default_factory=time.monotonic)

    @property
    def blocks(self) -> int:
        """Blocks of the KV cache that its prompt and longest answer take."""
        tokens: int = len(self.prompt_ids) + self.config.max_new_tokens
        return -(-tokens // BLOCK_TOKENS)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        if self.work.cancelled.is_set():
            self.generation.cancelled.set()
        return self.generation.cancelled.is_set()


class _Engine:
    """Runs the pipeline in one thread while there are requests.

    A request is started only when all the blocks that it can come to need are free, so the pipeline
    never has to throw out a running request and compute it again.
    """

    def __init__(
        self,
        model_id: str,
        pipeline: ContinuousBatchingPipeline,
        *,
        blocks: int,
        waiting: int,
        turns: Turns,
    ) -> None:
        self._turns = turns
        self._model_id = model_id
        self._pipeline = pipeline
        self._free_blocks = blocks
        self._most_waiting = waiting
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []  # in the order in which they will start
        self._starting: list[_Request] = []  # blocks are reserved, the pipeline has yet to be told
        self._running: list[_Request] = []
        self._driving = False
        self._closed = False
        self._started = 0
        self._seconds = 0.0  # a request takes, on average
        # An executor's thread, unlike a daemon, is waited for when the interpreter ends.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def submit(self, request: _Request) -> None:
        """Run a request as soon as it fits. Raises `Overloaded`, `ModelUnavailable` when closed."""
        with self._lock:
            if self._closed:
                raise ModelUnavailable(f"{self._model_id} has been closed.")
            self._waiting = [r for r in self._waiting if not r.future.cancelled()]
            insort(self._waiting, request, key=lambda r: r.work.priority)
            self._start_what_fits()
            if len(self._waiting) > self._most_waiting and request in self._waiting:
                self._waiting.remove(request)
                raise Overloaded(
                    f"{self._most_waiting} requests to {self._model_id} wait already.",
                    # One of those that run now will be done by then, give or take.
                    retry_after=max(1.0, self._seconds / max(len(self._running), 1)),
                    hint="Try again later, or raise RAG_GENERATIONS_WAITING.",
                )
            if not self._driving:
                self._driving = True
                self._thread.submit(self._drive)

    def close(self) -> None:
        """Refuse new requests and return when all earlier ones are done."""
        with self._lock:
            self._closed = True
        self._thread.shutdown()

    @property
    def load(self) -> Load:
        """Requests now."""
        with self._lock:
            waiting = sum(not request.future.cancelled() for request in self._waiting)
            return Load(len(self._running) + len(self._starting), waiting)

    def _start_what_fits(self) -> None:
        """Reserve blocks for the first of those who wait, as long as they fit. With the lock."""
        while self._waiting and self._fits(self._waiting[0]):
            request = self._waiting.pop(0)
            if request.future.set_running_or_notify_cancel():
                self._free_blocks -= request.blocks
                self._starting.append(request)

    def _fits(self, request: _Request) -> bool:
        running = len(self._running) + len(self._starting)
        return running < MAX_RUNNING and request.blocks <= self._free_blocks

    def _drive(self) -> None:
        """Make tokens until there is no request left. In the engine's thread."""
        while self._start_requests():
            self._turns.wait()
            self._make_tokens()
            self._turns.taken()
        # What was cancelled last leaves the pipeline in its next step, without being computed.
        try:
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except RuntimeError:
            log.exception("the pipeline of %s cannot let go of a request", self._model_id)

    def _start_requests(self) -> bool:
        """Hand the started requests to the pipeline. False when nothing runs."""
        with self._lock:
            starting, self._starting = self._starting, []
            self._running += starting
        for request in starting:
            self._start(request)
        with self._lock:
            self._driving = bool(self._running or self._starting)
        return self._driving

    def _start(self, request: _Request) -> None:
        if request.cancelled:
            self._finish(request)
            return
        self._started += 1
        ids = token_tensor(request.prompt_ids)
        try:
            request.handle = self._pipeline.add_request(self._started, ids, request.config)
        except Exception as error:  # noqa: BLE001 - its reader would wait for ever
            self._finish(request, error)

    def _make_tokens(self) -> None:
        """The next token of every request; those that have ended leave."""
        try:
            self._pipeline.step()
            for request in list(self._running):
                if self._has_ended(request):
                    self._finish(request)
        except Exception as error:  # noqa: BLE001 - each reader would wait for ever
            for request in list(self._running):
                self._finish(request, error)

    def _has_ended(self, request: _Request) -> bool:
        """Pass new tokens on. Whether the request needs no more of them."""
        if request.cancelled:
            return True
        handle = cast(GenerationHandle, request.handle)
        outputs = handle.read().values() if handle.can_read() else ()
        tokens = [token for output in outputs for token in output.generated_ids]
        ended = any(request.generation.push(token) for token in tokens)
        if not ended and (status := handle.get_status()) != GenerationStatus.RUNNING:
            raise ModelUnavailable(f"The pipeline of {self._model_id} dropped a request: {status}.")
        return ended

    def _finish(self, request: _Request, error: Exception | None = None) -> None:
        """Take a request out of the pipeline, tell its reader, start who fits into its place."""
        if request.handle is not None:
            request.handle.cancel()
        with self._lock:
            self._running.remove(request)
            self._free_blocks += request.blocks
            seconds = time.monotonic() - request.arrived
            self._seconds += (1 - _FORGETTING) * (seconds - self._seconds)
            self._start_what_fits()
        request.generation.finish()
        if error is None:
            request.future.set_result(None)
        else:
            request.future.set_exception(error)
