"""OpenAI's API, as vLLM, llama.cpp, Ollama, TGI and OpenAI itself serve it.

Conversations go to `/chat/completions`; texts, and conversations of a model without a chat
template, to `/completions`. Both stream. Sampling means what it means for a model in this process:

| here | there |
| --- | --- |
| do_sample false | temperature 0; temperature, top_p and seed are not sent, and `notes` says so |
| temperature, top_p, seed | the same names, values of the model's own where the request has none |
| max_new_tokens | max_tokens; max_completion_tokens at api.openai.com, which asks for it |
| stop | stop, four at most; applied here as well |

What the request leaves open comes from the model's `generation_config.json` where that is on this
machine, then from transformers' defaults (greedy; drawn: temperature 1, top_p 1, top_k 50), and is
sent, so that no default of the server's counts. OpenAI's API has no field for top_k, min_p and the
repetition penalty. They are sent to a server whose `dialect` is known to take them; to others not,
and `notes` says so.

| dialect | further fields | counts tokens, writes prompts | context window |
| --- | --- | --- | --- |
| openai (also Ollama, TGI) | none | no | `max_model_len` of `/models`, else a setting |
| vllm | top_k, min_p, repetition_penalty | `/tokenize`, `/detokenize` | the same |
| llama.cpp | top_k, min_p, typical_p, repeat_penalty | `/tokenize`, `/apply-template` | `/props` |
"""

import logging
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from rag.errors import InvalidInput, ModelUnavailable
from rag.models.lm import SAMPLING_DEFAULTS, Prompt, answer_tokens, first_set, sampling_notes
from rag.models.presets import EmbedderPreset
from rag.models.prompts import (
    EstimatedPrompts,
    OwnPrompts,
    Prompts,
    ServerPrompts,
    read_object,
)
from rag.models.remote_stream import Answer, RemoteStream, nested, read_answer
from rag.models.stream import StopFilter
from rag.models.transport import NotServed, Transport
from rag.sampling import MAX_STOPS, Sampling
from rag.types import Message

log = logging.getLogger(__name__)

Dialect = Literal["openai", "vllm", "llama.cpp"]

MAX_STREAMS = 64  # answers that run at once over one model; further ones wait for their turn
EMBEDDING_BATCH = 32  # texts of one request; the smallest default among the servers (TEI's)

# transformers' name: {dialect: the server's name}. Where a server takes a value, it is always sent,
# also one that changes nothing: the server's own default may be another.
_FURTHER: dict[str, dict[Dialect, str]] = {
    "top_k": {"vllm": "top_k", "llama.cpp": "top_k"},
    "min_p": {"vllm": "min_p", "llama.cpp": "min_p"},
    "typical_p": {"llama.cpp": "typical_p"},
    "repetition_penalty": {"vllm": "repetition_penalty", "llama.cpp": "repeat_penalty"},
}
_PENALTIES = ("repetition_penalty",)  # these shape greedy answers, too
_NEUTRAL = {"top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repetition_penalty": 1.0}
_NO_TOP_K = -1  # what switches top_k off on every server
# What changes a draw and that no server takes, with the values that change nothing.
_UNSENT: dict[str, tuple[object, ...]] = {
    "top_h": (None,), "epsilon_cutoff": (None, 0.0), "eta_cutoff": (None, 0.0),
}  # fmt: skip


class OpenAIServer:
    """One model of a server, asked once about it. Safe to use from several threads.

    `max_tokens` is the model's context window, None where the server does not tell. `revision` is
    the caller's, for the server tells none. Raises `ModelUnavailable` where the server lists models
    and not this one.
    """

    batch_size = EMBEDDING_BATCH

    def __init__(
        self,
        transport: Transport,
        served_as: str,
        *,
        prefix: str = "/v1",
        dialect: Dialect = "openai",
        revision: str = "",
    ) -> None:
        self.name = transport.name
        self.transport = transport
        self.served_as = served_as
        self.prefix = prefix
        self.dialect = dialect
        self.revision = revision
        self.entry = self._listed()
        self.max_tokens = self._context_window()

    def check_embedder(self, preset: EmbedderPreset) -> None:
        """Nothing: OpenAI's API does not tell how a model pools."""

    def vectors(self, texts: Sequence[str], *, normalize: bool) -> object:  # noqa: ARG002
        """The vectors of `/embeddings` by their index. The server normalises or not as it likes."""
        body = {"model": self.served_as, "input": list(texts), "encoding_format": "float"}
        answer = self.transport.post(f"{self.prefix}/embeddings", body)
        try:
            rows = {int(row["index"]): row["embedding"] for row in answer["data"]}
            return [rows[i] for i in range(max(len(rows), len(texts)))]
        except (TypeError, KeyError, ValueError) as error:
            raise self._unknown_form("/embeddings") from error

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, no special ones added. vLLM and llama.cpp."""
        if self.dialect == "vllm":
            body = {"model": self.served_as, "prompt": text, "add_special_tokens": False}
        else:
            body = {"content": text, "add_special": False}
        return len(self._tokens(body))

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation by the server's chat template. vLLM and llama.cpp."""
        turns = wire_messages(messages)
        if self.dialect == "vllm":
            tokens = self._tokens({"model": self.served_as, "messages": turns})
            path, body = "/detokenize", {"model": self.served_as, "tokens": tokens}
        else:
            path, body = "/apply-template", {"messages": turns}
        answer = self.transport.post(path, body)
        if not isinstance(answer, dict) or not isinstance(answer.get("prompt"), str):
            raise self._unknown_form(path)
        return str(answer["prompt"])

    def close(self) -> None:
        """Let the connections go."""
        self.transport.close()

    def _tokens(self, body: dict[str, object]) -> list[object]:
        answer = self.transport.post("/tokenize", body)
        if not isinstance(answer, dict) or not isinstance(answer.get("tokens"), list):
            raise self._unknown_form("/tokenize")
        return list(answer["tokens"])

    def _listed(self) -> dict[str, Any]:
        """What `/models` says of the model, {} where there is no such list."""
        try:
            answer = self.transport.get(f"{self.prefix}/models")
        except NotServed:
            log.warning("%s lists no models: %s is not checked.", self.name, self.served_as)
            return {}
        rows = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(rows, list) or not all(isinstance(r, dict) and "id" in r for r in rows):
            raise self._unknown_form("/models")
        names = {str(row["id"]): row for row in rows}
        # Ollama: a name without a tag means the tag `latest`.
        found = names.get(self.served_as) or names.get(f"{self.served_as}:latest")
        if found is None:
            raise ModelUnavailable(
                f"{self.name} has no model {self.served_as!r}; it has "
                f"{', '.join(sorted(names)) or 'none'}.",
                hint=f"Where it is only named otherwise there, put #NAME after the address in "
                f"{self.transport.setting}_URL.",
            )
        return dict(found)

    def _context_window(self) -> int | None:
        known = [self.entry.get("max_model_len"), nested(self.entry, "meta", "n_ctx")]
        if self.dialect == "llama.cpp":
            props = self.transport.get("/props")
            known.append(nested(props, "default_generation_settings", "n_ctx"))
        return next((int(n) for n in known if isinstance(n, int) and n > 0), None)

    def _unknown_form(self, path: str) -> ModelUnavailable:
        return ModelUnavailable(
            f"{self.name} answered {path} in an unknown form.",
            hint=f"Check {self.transport.setting}_URL.",
        )


class OpenAICausalLM:
    """A `LanguageModel` on a server. Any number of requests run at once, up to `MAX_STREAMS`.

    `folder` holds the model's tokenizer and configuration, None where they are not on this machine.
    `context_window` 0: what the server says. Raises `ModelUnavailable` where it says nothing.
    """

    marks: tuple[str, ...] = ()  # only the server knows

    def __init__(
        self, server: OpenAIServer, model_id: str, folder: Path | None, *, context_window: int = 0
    ) -> None:
        self.id = model_id
        self.revision = server.revision
        self._server = server
        self._own = read_object(folder / "generation_config.json") if folder else {}
        self._prompts = _prompts(server, model_id, folder)
        self.context_window = context_window or server.max_tokens or 0
        if not self.context_window:
            raise ModelUnavailable(
                f"{server.name} does not say how many tokens its model holds.",
                hint="Set RAG_GENERATOR_CONTEXT_WINDOW to what it was started with.",
            )
        self._guard = threading.Lock()
        self._running: weakref.WeakSet[RemoteStream] = weakref.WeakSet()
        self._threads = ThreadPoolExecutor(MAX_STREAMS, thread_name_prefix="remote-lm")

    def close(self) -> None:
        """Cut the answers that run, let threads and connections go."""
        with self._guard:
            running = list(self._running)
        for stream in running:
            stream.cancel()
        self._threads.shutdown()
        self._server.close()

    def count_tokens(self, text: str) -> int:
        """Tokens of a text: by its own tokenizer, by the server, or an estimate meant as too high.

        Which one is logged once, and an estimate is told in the `notes` of every answer.
        """
        return self._prompts.count_tokens(text)

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model reads it. Raises `InvalidInput` where it cannot."""
        return self._prompts.render(messages)

    def stream(self, prompt: Prompt, sampling: Sampling) -> RemoteStream:
        """Generate from messages, or from a text that is already a prompt and is used as it is.

        Raises `InvalidInput` when prompt and answer do not fit the context window together. What
        the server answers, errors included, comes when the stream is read.
        """
        path, body, length = self._request(prompt)
        sampled, notes = parameters(sampling, self._own, self._server.dialect)
        stops = (*sampling.stop, *self._prompts.end_marks, *_own_stops(self._own))
        body |= sampled | {
            "model": self._server.served_as,
            "stream": True,
            "stream_options": {"include_usage": True},
            self._length_field(path): answer_tokens(
                sampling.max_new_tokens,
                self._own.get("max_new_tokens"),
                prompt_tokens=length,
                window=self.context_window,
                model_id=self.id,
            ),
        }
        if stops:
            body["stop"] = list(stops[:MAX_STOPS])
        if self._prompts.source == "estimated":
            notes.append("The prompt's tokens were estimated: the tokenizer is not at hand.")
        answer = Answer(StopFilter(stops), notes)
        future = self._threads.submit(read_answer, answer, self._server.transport, path, body)
        stream = RemoteStream(answer, future)
        with self._guard:
            self._running.add(stream)
        return stream

    def _request(self, prompt: Prompt) -> tuple[str, dict[str, Any], int]:
        """Path, body and number of tokens of a prompt."""
        prefix = self._server.prefix
        text = prompt if isinstance(prompt, str) else self.render(prompt)
        if not text:
            raise InvalidInput("The prompt is empty.")
        length = self.count_tokens(text)
        turns = None if isinstance(prompt, str) else self._prompts.turns(prompt)
        if turns is not None:
            return f"{prefix}/chat/completions", {"messages": wire_messages(turns)}, length
        return f"{prefix}/completions", {"prompt": text}, length

    def _length_field(self, path: str) -> str:
        chat = path.endswith("/chat/completions")
        openai = self._server.transport.host == "api.openai.com"
        return "max_completion_tokens" if chat and openai else "max_tokens"


def parameters(
    sampling: Sampling, own: dict[str, Any], dialect: Dialect
) -> tuple[dict[str, Any], list[str]]:
    """The sampling fields of a request's body by the table above, and what to note about them.

    `own` is the model's `generation_config.json`.
    """
    do_sample = bool(first_set(sampling.do_sample, own.get("do_sample"), False))
    further, lost = _further(own, dialect, do_sample)
    notes = [*sampling_notes(sampling, do_sample=do_sample, num_beams=own.get("num_beams") or 1)]
    if lost:
        notes.append(f"The server takes no {' and no '.join(lost)}.")
    if not do_sample:
        return {"temperature": 0, **further}, notes
    asked = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    drawn = {name: first_set(value, _value(name, own)) for name, value in asked.items()}
    return {k: v for k, v in drawn.items() if v is not None} | further, notes


def _further(
    own: dict[str, Any], dialect: Dialect, do_sample: bool
) -> tuple[dict[str, Any], list[str]]:
    """What OpenAI's API has no field for: the fields of the dialect, and what is lost."""
    fields: dict[str, Any] = {}
    lost: list[str] = []
    for name, servers in _FURTHER.items():
        if not do_sample and name not in _PENALTIES:
            continue
        value = _value(name, own)
        if dialect in servers:
            fields[servers[dialect]] = value or _NO_TOP_K if name == "top_k" else value
        elif value != _NEUTRAL[name]:
            lost.append(f"{name} ({value:g})")
    if dialect == "llama.cpp":
        fields["repeat_last_n"] = -1  # penalties look at the whole text, as transformers' do
    if do_sample:
        found = ((name, own.get(name)) for name in _UNSENT)
        lost += [f"{name} ({value})" for name, value in found if value not in _UNSENT[name]]
    return fields, lost


def _value(name: str, own: dict[str, Any]) -> Any:  # noqa: ANN401 - what a JSON file says
    """The model's own setting, else transformers' default."""
    return first_set(own.get(name), SAMPLING_DEFAULTS.get(name), _NEUTRAL.get(name))


def wire_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as JSON."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _prompts(server: OpenAIServer, model_id: str, folder: Path | None) -> Prompts:
    if folder is not None:
        return OwnPrompts(model_id, folder)
    found: Prompts
    if server.dialect == "openai":
        found = EstimatedPrompts()
    else:
        found = ServerPrompts(server.count_tokens, server.render)
    log.warning(
        "The files of %s are not on this machine: its tokens are counted %s, and transformers' "
        "defaults stand for its generation_config.json.",
        model_id, found.source if found.source != "estimated" else "by an estimate",
    )  # fmt: skip
    return found


def _own_stops(own: dict[str, Any]) -> tuple[str, ...]:
    stops = own.get("stop_strings") or []
    return (stops,) if isinstance(stops, str) else tuple(stops)
