"""Conversations as one prompt string: by the model's chat template, or in its instruction form.

The Alpaca form is that of Stanford Alpaca's `train.py`, the Dolly form that of Databricks'
`instruct_pipeline.py`; they differ in one line break. Earlier turns are written in the same form.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Never

import jinja2.ext
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from rag.errors import InvalidInput
from rag.models.presets import PromptForm
from rag.types import Message

INTRO = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
# The text that ends an answer. In Dolly's tokenizer it is one token, elsewhere a stop string.
END_MARKS: dict[PromptForm, str] = {"dolly": "### End"}


def write_form(form: PromptForm, messages: Sequence[Message]) -> str:
    """The prompt up to where the model's answer begins."""
    if form == "plain":
        return "\n\n".join(message.content for message in messages)
    gap = "\n" if form == "dolly" else ""
    intro = [INTRO, *(m.content for m in messages if m.role == "system")]
    turns = [_turn(message, gap) for message in messages if message.role != "system"]
    return "\n\n".join([*intro, *turns, f"### Response:{gap}"])


def _turn(message: Message, gap: str) -> str:
    if message.role == "assistant":
        return f"### Response:{gap}{message.content}"
    return f"### Instruction:\n{message.content}"


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Put system messages at the start of the first user message, for templates without a system
    role."""
    system = [message.content for message in messages if message.role == "system"]
    turns = [message for message in messages if message.role != "system"]
    first = next((i for i, message in enumerate(turns) if message.role == "user"), None)
    if first is None:
        return (Message("user", "\n\n".join(system)), *turns)
    turns[first] = Message("user", "\n\n".join([*system, turns[first].content]))
    return tuple(turns)


def render_chat(
    template: Callable[[Sequence[Message]], str], messages: Sequence[Message], model_id: str
) -> str:
    """The conversation by a model's template, which raises `TemplateError` for what it refuses.

    A template without a system role gets system messages within the first user message. Raises
    `InvalidInput` for a conversation that is refused in that form, too.
    """
    try:
        return template(messages)
    except TemplateError:
        return _render_folded(template, messages, model_id)


def _render_folded(
    template: Callable[[Sequence[Message]], str], messages: Sequence[Message], model_id: str
) -> str:
    try:
        return template(fold_system(messages))
    except TemplateError as error:
        raise InvalidInput(
            f"The chat template of {model_id} refuses this conversation: {error}."
        ) from error


class ChatTemplate:
    """A model's own Jinja template, rendered as transformers renders it but without transformers.

    `special_tokens` maps the names that templates use to texts: `bos_token` to `<s>`. Templates
    come with the weights, from strangers, so they run in Jinja's sandbox. Raises `TemplateError`
    for a template that cannot be compiled.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, Any]) -> None:
        self._template = _environment().from_string(source)
        self._special_tokens = dict(special_tokens)

    def __call__(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the answer begins. Raises `TemplateError`."""
        return self._template.render(
            messages=[{"role": message.role, "content": message.content} for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self._special_tokens,
        )


def _environment() -> ImmutableSandboxedEnvironment:
    """What templates are written for: transformers/utils/chat_template_utils.py."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        raise_exception=_refuse, strftime_now=_now, dict=_Dict(), namespace=_Namespace
    )
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the assistant's text for training; its content is what counts."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """The block's statements, in a scope of their own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


class _Dict:
    """`dict` with what templates need of it; the class itself would hand them its attributes."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:  # noqa: ANN401 - as dict's
        return dict(*args, **items)

    def fromkeys(self, keys: Sequence[Any], value: object = None) -> dict[Any, Any]:
        """As `dict.fromkeys`."""
        return dict.fromkeys(keys, value)


class _Namespace(Namespace):
    """Jinja's namespace without names that begin with an underscore: Python's internals."""

    def __init__(self, /, *args: Any, **items: Any) -> None:  # noqa: ANN401 - as dict's
        values = dict(*args, **items)
        for name in values:
            _check_name(name)
        super().__init__(values)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes HTML characters, which models have never seen so.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: str) -> Never:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
