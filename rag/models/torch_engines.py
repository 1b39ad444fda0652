"""Two ways to run a causal LM's requests on torch: one after another, or all in one batch.

The second is transformers' continuous batching: a paged key-value cache, and in every forward pass
the next token of all running requests beside pieces of new prompts. It is for GPUs; on a CPU it
computes the same and is slower than one request after another.
"""

import copy
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import OutputRouter
from transformers.generation.continuous_batching.model_runner import (
    infer_max_single_request_tokens,
)
from transformers.generation.continuous_batching.requests import (
    FutureRequestState,
    GenerationOutput,
    RequestState,
)

from rag.errors import ModelUnavailable, Overloaded
from rag.models.stream import Generation
from rag.models.torch_draw import Draw

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """One request as an engine takes it. `config` is greedy: `draw` samples, None takes the best.

    The engine ends with the `Generation`, never by `config`'s length or end tokens.
    """

    generation: Generation
    prompt_ids: list[int]
    config: GenerationConfig
    draw: Draw | None


class Engine(Protocol):
    """Runs jobs on one model, in the order in which they came. Thread-safe."""

    @property
    def slots(self) -> int:
        """How many jobs run at a time."""
        ...

    @property
    def longest(self) -> int | None:
        """The most tokens, prompt and answer, that one job can have; None: any number."""
        ...

    def submit(self, job: Job) -> Future[None]:
        """Run the job. The future is done when the model has let go of it."""
        ...

    def close(self) -> None:
        """Wait for the jobs that are there, take no more and let the thread go."""
        ...


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What continuous batching may use.

    `requests` run at a time, in forward passes of at most `batch_tokens` tokens (a longer prompt is
    read in pieces). The cache holds `cache_tokens` in pages of `page_tokens`; None: on a GPU what
    fits into `memory_share` of the memory that is free once the model is loaded, elsewhere four
    context windows, at most 32,768 tokens.
    """

    requests: int = 32
    batch_tokens: int = 2048
    page_tokens: int = 256
    cache_tokens: int | None = None
    memory_share: float = 0.5  # embedder and reranker may share the GPU


class Places:
    """The places for jobs that run or wait, `most` of them. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._there = 0
        self._last_end = 0.0
        self._seconds = 1.0

    @property
    def there(self) -> int:
        """How many are taken."""
        return self._there

    def enter(self) -> float:
        """Take a place, which `leave` gives back. Raises `Overloaded`."""
        with self._lock:
            if self._there >= self._most:
                raise Overloaded(
                    f"{self._there} answers are being generated or wait for their turn.",
                    retry_after=min(max(self._seconds, 1.0), 60.0),
                    hint="Ask again later.",
                )
            self._there += 1
        return time.monotonic()

    def leave(self, entered: float) -> None:
        """Give the place back that was taken at `entered`."""
        with self._lock:
            self._there -= 1
            now = time.monotonic()
            # How long it took this place to get free once the one before it was.
            self._seconds = now - max(self._last_end, entered)
            self._last_end = now


# --- one after another


class SequentialEngine:
    """Runs one job at a time through `generate`, for any architecture.

    One thread of its own generates: torch keeps a team of threads for every thread that computes,
    so a new one for each request would start a new team each time.
    """

    slots = 1
    longest = None

    def __init__(self, model: PreTrainedModel) -> None:
        self._model: Any = model
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def submit(self, job: Job) -> Future[None]:
        """Run the job when its turn comes. The future can be cancelled until then."""
        return self._worker.submit(self._run, job)

    def close(self) -> None:
        """Wait for the jobs that are there and let the generating thread go."""
        self._worker.shutdown()
        self._model = None

    def _run(self, job: Job) -> None:
        """One job, in the generating thread. The reader is told of its end whatever happens."""
        try:
            if not job.generation.cancelled.is_set():
                self._generate(job)
        finally:
            job.generation.finish()

    def _generate(self, job: Job) -> None:
        input_ids = torch.tensor([job.prompt_ids], device=self._model.device)
        self._model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            generation_config=job.config,
            logits_processor=LogitsProcessorList([job.draw] if job.draw else []),
            stopping_criteria=StoppingCriteriaList([_Reader(job.generation)]),
        )


class _Reader(StoppingCriteria):
    """Hands each new token to the `Generation` and stops the model when that says so.

    A streamer would see the token only after the decision to go on: one forward pass too late.
    """

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        stop = self._generation.push(int(input_ids[0, -1]))
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)


# --- all in one batch


def best_engine(
    model: PreTrainedModel, config: GenerationConfig, window: int, limits: BatchLimits
) -> Engine:
    """A `ContinuousEngine` if this model can run so, else a `SequentialEngine`, with a warning."""
    try:
        return ContinuousEngine(model, config, window, limits)
    except ModelUnavailable as error:
        log.warning("%s It answers one request at a time.", error)
        return SequentialEngine(model)


@dataclass(slots=True)
class _Running:
    """A job among those that run: and what shapes its logits."""

    job: Job
    future: Future[None]
    processors: LogitsProcessorList = field(default_factory=LogitsProcessorList)


class ContinuousEngine:
    """Runs jobs together through transformers' continuous batching.

    Its manager builds the cache, the scheduler and what computes a batch; its loop is not used, for
    three reasons: it dies of the first error, it does not tell when a cancelled request is gone,
    and it hands tokens over while it computes the next ones, so a stop string would cost a forward
    pass more. Every request has its own logits processors, which the manager cannot do (it would
    drop a repetition penalty, say). Greedy answers are those of `generate` up to the rounding of a
    batch, and a seed repeats as far as that goes: in half precision two nearly equal logits may
    change places with the company that a request has.

    `config` is the model's own, `window` its context window. Raises `ModelUnavailable` for a model
    that cannot run so and when there is no memory for the cache.
    """

    def __init__(
        self, model: PreTrainedModel, config: GenerationConfig, window: int, limits: BatchLimits
    ) -> None:
        if reason := _refusal(model, config):
            raise ModelUnavailable(f"{type(model).__name__} cannot be batched: {reason}.")
        self.slots = limits.requests
        self._model: Any = model
        self._arrived: deque[tuple[Job, Future[None]]] = deque()
        self._running: dict[str, _Running] = {}
        self._numbers = count()
        self._manager: Any
        self._processor: Any
        self._manager, self._processor = self._build(window, limits)
        self.longest = infer_max_single_request_tokens(self._processor.cache)
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generate")

    def _build(self, window: int, limits: BatchLimits) -> tuple[Any, Any]:
        """transformers' manager, and what it runs a batch with."""
        try:
            manager = self._model.init_continuous_batching(
                _greedy_without_end(),
                _batching_config(limits, self._model.device, window),
            )
            manager.logit_processor = _OwnProcessors(self._running)
            manager.output_router = _Router(self)
            manager.warmup()
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            raise ModelUnavailable(
                f"{type(self._model).__name__} cannot be batched: {error}."
            ) from error
        return manager, manager.batch_processor

    def submit(self, job: Job) -> Future[None]:
        """Run the job with those that run already. Its future can't be cancelled, the job can."""
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()
        self._arrived.append((job, future))
        self._worker.submit(self._serve)
        return future

    def close(self) -> None:
        """Wait for the jobs that are there and let the generating thread go."""
        self._worker.shutdown()
        # The cache is most of a GPU's memory, and goes without waiting for a garbage collection:
        # the manager points to its router, which points here.
        self._manager = self._processor = self._model = None

    def _serve(self) -> None:
        """Compute until no job is left, those that come meanwhile included."""
        if self._model.device.type == "cuda":
            torch.cuda.set_device(self._model.device)
        self._admit()
        while self._running:
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  # whatever it is, the readers must see it
                self._fail(error)
            self._admit()

    def _admit(self) -> None:
        while self._arrived:
            job, future = self._arrived.popleft()
            name = str(next(self._numbers))
            self._running[name] = _Running(job, future)
            try:
                self._running[name].processors = self._own_processors(job)
                self._manager.add_request(job.prompt_ids, request_id=name, streaming=True)
            except Exception as error:  # noqa: BLE001  # its reader must see it, and no other
                self._leave(name, error)

    def _step(self) -> None:
        """Drop who has ended, let in who has come, and compute one token for each that runs."""
        ended = [
            name
            for name, running in self._running.items()
            if running.job.generation.finish_reason or running.job.generation.cancelled.is_set()
        ]
        for name in ended:
            self._manager.cancel_request(name)
            # A full cache lets nobody in until a request finishes, and cancelling is not finishing.
            self._processor.scheduler.block_new_requests = False
        try:
            ready = self._processor.prepare_next_batch()
        finally:
            for name in ended:
                self._leave(name)
        if ready:
            self._processor._generation_step(self._model)
            self._processor.update_batch()
        elif self._running:
            raise RuntimeError("Continuous batching found no room for any of the requests.")

    def take(self, output: GenerationOutput) -> None:
        """The token that the last batch has added to one request, or its error."""
        running = self._running.get(output.request_id)
        if running is None:  # it has failed before the scheduler had heard of it
            self._manager.cancel_request(output.request_id)
        elif output.error is not None:
            self._leave(output.request_id, RuntimeError(output.error))
        else:
            running.job.generation.push(output.generated_tokens[-1])

    def _leave(self, name: str, error: Exception | None = None) -> None:
        running = self._running.pop(name)
        running.job.generation.finish()
        if error is None:
            running.future.set_result(None)
        else:
            running.future.set_exception(error)

    def _fail(self, error: Exception) -> None:
        """Give everybody the error, and start anew."""
        for name in list(self._running):
            self._leave(name, error)
        self._processor.reset()

    def _own_processors(self, job: Job) -> LogitsProcessorList:
        """The processors that `generate` would apply before drawing."""
        config = copy.deepcopy(job.config)
        config.max_length = len(job.prompt_ids) + (config.max_new_tokens or 0)
        ids = torch.tensor([job.prompt_ids], device=self._model.device)
        model: Any = self._model  # nn.Module types unknown attributes as tensors
        model._prepare_special_tokens(config, True, device=ids.device, batch_size=1)
        processors: LogitsProcessorList = model._get_logits_processor(
            generation_config=config,
            input_ids_seq_length=len(job.prompt_ids),
            encoder_input_ids=ids,
            device=ids.device,
            model_kwargs={"attention_mask": torch.ones_like(ids)},
        )
        return processors


def _refusal(model: PreTrainedModel, config: GenerationConfig) -> str | None:
    """Why this model cannot run so, or would answer otherwise than by `generate`; None: it can."""
    if not model._supports_attention_backend:
        return "its attention cannot read a paged cache"
    if model.config._attn_implementation != "sdpa":
        return f"its attention is {model.config._attn_implementation}, not sdpa"
    if config.guidance_scale not in (None, 1):
        return "guidance_scale takes a second forward pass for each token"
    return None


def _greedy_without_end() -> GenerationConfig:
    """What the manager is told: each request's own processors and `Generation` decide the rest."""
    return GenerationConfig(  # type: ignore[no-untyped-call]  # transformers has no types here
        do_sample=False, eos_token_id=-1
    )


def _batching_config(
    limits: BatchLimits, device: torch.device, window: int
) -> ContinuousBatchingConfig:
    cache_tokens = limits.cache_tokens
    if cache_tokens is None and device.type != "cuda":
        cache_tokens = min(4 * window, 32768)
    return ContinuousBatchingConfig(
        page_size=limits.page_tokens,
        num_blocks=None if cache_tokens is None else math.ceil(cache_tokens / limits.page_tokens),
        max_batch_tokens=limits.batch_tokens,
        max_memory_percent=limits.memory_share,
        max_requests_per_batch=limits.requests,
        max_blocks_per_request=0,  # block tables are for flash attention
        # Each step draws in Python, between one batch and the next: no graphs, no overlap.
        use_cuda_graph=False,
        use_async_batching=False,
        # It would fetch a kernel from the hub.
        auto_switch_to_flash=False,
    )


class _OwnProcessors(ContinuousBatchingLogitsProcessorList):
    """Applies to each row of a batch the processors of the request that it belongs to."""

    def __init__(self, running: dict[str, _Running]) -> None:
        super().__init__(LogitsProcessorList())
        self.do_processing = True
        self._running = running
        self._states: Sequence[RequestState] = ()

    def prepare_tensor_args(
        self, requests_in_batch: list[FutureRequestState], arg_storage: torch.Tensor
    ) -> torch.Tensor:
        """Called before each forward pass: remember whose next token each row is."""
        self._states = [request.state for request in requests_in_batch if request.has_new_token]
        return arg_storage

    def __call__(
        self,
        input_ids: torch.Tensor,
        scores: torch.Tensor,
        logits_processor_args: torch.Tensor,  # noqa: ARG002  # the caller's signature
    ) -> torch.Tensor:
        """Logits float32 (requests, vocabulary) to scores whose largest is the token to take."""
        for row, state in enumerate(self._states):
            running = self._running[state.request_id]
            own = scores[row : row + 1]
            if running.processors:
                # A request that lost its place in the cache begins again with its tokens as prompt.
                ids = [*state.initial_tokens, *state.generated_tokens]
                so_far = torch.tensor([ids], device=scores.device)
                own = running.processors(so_far, own)  # type: ignore[arg-type]  # LongTensor in name
            if running.job.draw:
                own = running.job.draw(input_ids, own)
            scores[row] = own[0]
        return scores


class _Router(OutputRouter):
    """Gives each token to its request in the thread that computes, before the next batch begins."""

    def __init__(self, engine: ContinuousEngine) -> None:
        super().__init__()
        self._engine = engine

    def deliver(self, output: GenerationOutput) -> None:
        """One request's tokens so far, or its error."""
        self._engine.take(output)

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        """The tokens so far of every request in a batch."""
        for output in outputs:
            self._engine.take(output)
