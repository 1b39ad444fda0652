"""How a conversation reads to a language model that runs elsewhere, and how many tokens texts have.

Three sources, the best that there is: the model's own files on this machine, the server where it
can be asked, an estimate. None of them needs torch.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from rag.errors import ModelUnavailable
from rag.models.chat import END_MARKS, ChatTemplate, fold_system, render_chat, write_form
from rag.models.presets import prompt_form
from rag.models.tokens import load_tokenizer
from rag.types import Message

_DIGITS_AND_MARKS = re.compile(r"[0-9!-/:-@\[-`{-~\n]")


class Prompts(Protocol):
    """What is known of a model's prompts. `source` says where from, "" for its own files.

    `end_marks` are the strings that end an answer in an instruction form.
    """

    source: str
    end_marks: tuple[str, ...]

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, no special ones added."""

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as the model reads it, up to where its answer begins."""

    def turns(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """The messages for the server's chat endpoint; None: it must be sent `render` as text."""


class OwnPrompts:
    """By the tokenizer and the chat template in the model's folder.

    Without a chat template conversations get the model's instruction form and are sent as text,
    because no server can write them either. Raises `ModelUnavailable` for a broken template.
    """

    source = ""

    def __init__(self, model_id: str, folder: Path) -> None:
        self._id = model_id
        self._tokenizer = load_tokenizer(folder)
        self._form = prompt_form(model_id)
        self._template = _template(model_id, folder)
        known = self._template is None and self._form in END_MARKS
        self.end_marks: tuple[str, ...] = (END_MARKS[self._form],) if known else ()

    def count_tokens(self, text: str) -> int:
        """By the model's tokenizer."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def render(self, messages: Sequence[Message]) -> str:
        """Raises `InvalidInput` for a conversation that the template refuses."""
        if self._template is None:
            return write_form(self._form, messages)
        return render_chat(self._template, messages, self._id)

    def turns(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """System messages within the first user message where the template refuses them."""
        if self._template is None:
            return None
        try:
            self._template(messages)
        except TemplateError:
            return fold_system(messages)
        return messages


class ServerPrompts:
    """By the server's own tokenizer and chat template, over `count` and `render`."""

    source = "by the server"
    end_marks: tuple[str, ...] = ()

    def __init__(
        self, count: Callable[[str], int], render: Callable[[Sequence[Message]], str]
    ) -> None:
        self._count = count
        self._render = render

    def count_tokens(self, text: str) -> int:
        """One request to the server."""
        return self._count(text)

    def render(self, messages: Sequence[Message]) -> str:
        """One or two requests to the server."""
        return self._render(messages)

    def turns(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """As they are: what the server's template refuses, the server refuses."""
        return messages


class EstimatedPrompts:
    """Where nobody can be asked. Meant to err upwards: less context is read, but none is lost."""

    source = "estimated"
    end_marks: tuple[str, ...] = ()

    def count_tokens(self, text: str) -> int:
        """A token for every digit, ASCII mark and line break, and for every three other bytes.

        Some tokenizers take digits one by one. Of English prose common ones make a token of four
        to five bytes, of Chinese one of three to five.
        """
        single = len(_DIGITS_AND_MARKS.findall(text))
        return single + math.ceil((len(text.encode()) - single) / 3)

    def render(self, messages: Sequence[Message]) -> str:
        """In the ChatML form, whose marks are as long as any."""
        turns = (f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
        return "".join([*turns, "<|im_start|>assistant\n"])

    def turns(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """As they are."""
        return messages


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} where there is no such file. Raises `ModelUnavailable`."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelUnavailable(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ModelUnavailable(f"{path} does not hold a JSON object.")
    return found


def _template(model_id: str, folder: Path) -> ChatTemplate | None:
    """The chat template: a file of its own in newer models, else in the tokenizer's settings."""
    config = read_object(folder / "tokenizer_config.json")
    path = folder / "chat_template.jinja"
    source = path.read_text("utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = {one["name"]: one["template"] for one in source}.get("default")
    if not source:
        return None
    special = {name: _content(token) for name, token in config.items() if name.endswith("_token")}
    try:
        return ChatTemplate(source, special)
    except TemplateError as error:
        raise ModelUnavailable(f"The chat template of {model_id} is broken: {error}.") from error


def _content(token: object) -> object:
    return token.get("content") if isinstance(token, dict) else token
