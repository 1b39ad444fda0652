"""Conversations as one prompt string, for causal LMs that have no chat template.

The Alpaca form is that of Stanford Alpaca's `train.py`, the Dolly form that of Databricks'
`instruct_pipeline.py`; they differ in one line break. Earlier turns are written in the same form.
"""

from collections.abc import Sequence

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
