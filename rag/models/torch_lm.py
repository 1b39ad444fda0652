"""Causal LMs run by torch through transformers: prompts, limits, streams."""

import copy
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
)

from rag.errors import InvalidInput
from rag.models.chat import END_MARKS, render_chat, write_form
from rag.models.lm import Load, Prompt, answer_tokens
from rag.models.load import ModelFiles
from rag.models.presets import PromptForm, prompt_form
from rag.models.stream import Generation, TokenStream
from rag.models.torch import context_window, load_model, load_pretrained_tokenizer, pick_device
from rag.models.torch_draw import Draw, draw_settings, without_sampling
from rag.models.torch_engines import (
    BatchLimits,
    ContinuousEngine,
    Engine,
    Job,
    Places,
    SequentialEngine,
    best_engine,
)
from rag.sampling import Sampling
from rag.types import Message


class TorchCausalLM:
    """Any `AutoModelForCausalLM`. Safe to use from several threads.

    `continuous` runs requests together in one batch (see `ContinuousEngine`), otherwise one runs at
    a time; None: together on CUDA, unless the architecture cannot be batched, which the log says.
    `waiting` is how many requests may wait beside those that run. `form` None: what is known of the
    model's id. Raises `ModelUnavailable`, also where `continuous` is asked for and cannot be.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: str | None = None,
        form: PromptForm | None = None,
        continuous: bool | None = None,
        waiting: int = 32,
        limits: BatchLimits | None = None,
    ) -> None:
        self.id = files.id
        self.revision = files.revision
        self._device = pick_device(device)
        self._tokenizer = load_pretrained_tokenizer(files)
        self._tokenizer_lock = threading.Lock()
        self.marks = tuple(self._tokenizer.all_special_tokens)
        model = load_model(AutoModelForCausalLM, files, self._device)
        self._form = form or prompt_form(files.id)
        self._own = model.generation_config
        # Sampling is done here (see `Draw`), so `generate` must not see the model's own settings.
        self._greedy = model.generation_config = without_sampling(self._own)
        self._end_ids, self._end_stops = self._ends()
        self.context_window = context_window(model.config, self._tokenizer)
        self._engine = self._start(model, continuous, limits or BatchLimits())
        if self._engine.longest is not None:
            self.context_window = min(self.context_window, self._engine.longest)
        self._places = Places(self._engine.slots + waiting)

    def _start(
        self, model: PreTrainedModel, continuous: bool | None, limits: BatchLimits
    ) -> Engine:
        if continuous is None and self._device.type == "cuda":
            return best_engine(model, self._own, self.context_window, limits)
        if continuous:
            return ContinuousEngine(model, self._own, self.context_window, limits)
        return SequentialEngine(model)

    def close(self) -> None:
        """Wait for the requests that are there, let the generating thread and the memory go."""
        self._engine.close()

    @property
    def load(self) -> Load:
        """Requests now."""
        there = self._places.there
        running = min(there, self._engine.slots)
        return Load(running, there - running)

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
        return render_chat(self._apply_template, messages, self.id)

    def stream(self, prompt: Prompt, sampling: Sampling) -> TokenStream:
        """Generate from messages, or from a text that is already a prompt and is used as it is.

        Raises `InvalidInput` when prompt and answer do not fit the context window together, and
        `Overloaded` when too many requests wait.
        """
        prompt_ids = self._prompt_ids(prompt)
        new_tokens = answer_tokens(
            sampling.max_new_tokens,
            self._own.max_new_tokens,
            prompt_tokens=len(prompt_ids),
            window=self.context_window,
            model_id=self.id,
        )
        generation = Generation(
            self._decode,
            stops=(*sampling.stop, *self._end_stops),
            end_ids=self._end_ids,
            max_new_tokens=new_tokens,
        )
        settings, notes = draw_settings(self._own, sampling)
        draw = Draw(settings, sampling.seed, self._device) if settings["do_sample"] else None
        future = self._submit(Job(generation, prompt_ids, self._config(new_tokens), draw))
        return TokenStream(generation, future, prompt_tokens=len(prompt_ids), notes=notes)

    def _submit(self, job: Job) -> Future[None]:
        entered = self._places.enter()
        try:
            future = self._engine.submit(job)
        except BaseException:
            self._places.leave(entered)
            raise
        future.add_done_callback(lambda _: self._places.leave(entered))
        return future

    def _config(self, new_tokens: int) -> GenerationConfig:
        config = copy.deepcopy(self._greedy)
        config.max_new_tokens = new_tokens
        config.eos_token_id = sorted(self._end_ids) or None
        if config.pad_token_id is None and self._end_ids:
            config.pad_token_id = min(self._end_ids)  # transformers would do so, with a warning
        return config

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
