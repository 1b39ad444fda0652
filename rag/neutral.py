"""Text of others before it goes into a prompt: what no reader sees, or a model takes for structure.

A document, a title or a question is data. Left out are control characters, and characters that
show nothing: bidirectional overrides, zero-width characters, tags, in which an instruction can hide
from whoever reads the document. Marks by which chat templates tell turns apart are rewritten with
other brackets, so that they still can be read and end no turn.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

# Of the chat templates that are in use.
CHAT_MARKS = (
    r"<\|[^<>|\n]{1,60}\|>",  # ChatML, Llama 3, Phi, GLM, GPT-OSS
    r"<\uFF5C[^<>\n]{1,60}\uFF5C>",  # DeepSeek writes them with full-width bars
    # Llama 2, Mistral
    r"<</?SYS>>|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]",
    r"</?(?:start_of_turn|end_of_turn|bos|eos|pad|unk|s)>",  # Gemma, Llama, T5
    r"</?(?:tool_call|tool_response|tools|think)>",  # Qwen, Hermes
    r"</?passage\b[^<>\n]{0,200}>?",  # our own
    r"^[ \t]*#{3} (?:Instruction|Response|Input|End)\b",  # Alpaca, Dolly
    r"\[(?:gMASK|CLS|SEP|MASK|PAD|UNK)\]",
)

_KEPT = frozenset("\n\t")
_JOINERS = frozenset("\u200c\u200d")  # Persian, Indic scripts and emoji need them
_BRACKETS = str.maketrans("<>[]|", "‹›⟦⟧¦")


def neutral(text: str, marks: Sequence[str] = ()) -> str:
    """The text without what is hidden in it, and with chat marks rewritten.

    `marks` are further strings that the model's tokenizer reads as special tokens. The same again
    changes nothing.
    """
    shown = "".join(sign for at, sign in enumerate(text) if _is_shown(text, at, sign))
    return _pattern(tuple(marks)).sub(lambda found: _rewritten(found[0]), shown)


def _is_shown(text: str, at: int, sign: str) -> bool:
    if sign in _KEPT or (" " <= sign <= "~"):
        return True
    if sign in _JOINERS:
        beside = (text[at - 1 : at], text[at + 1 : at + 2])
        return all(one and ord(one) > 0x2FF for one in beside)
    # Cc: controls, Cf: formats such as overrides, zero widths, tags; Co: private use.
    return unicodedata.category(sign) not in {"Cc", "Cf", "Co", "Cs"} and not (
        0xE0100 <= ord(sign) <= 0xE01EF  # variation selectors that nothing varies by
    )


def _rewritten(mark: str) -> str:
    """The mark in other brackets; one without brackets with a dot in it."""
    changed = mark.translate(_BRACKETS)
    return changed if changed != mark else f"{mark[:1]}·{mark[1:]}"


@lru_cache(maxsize=16)
def _pattern(marks: tuple[str, ...]) -> re.Pattern[str]:
    # White space is no mark, though some tokenizers call it a special token.
    own = [re.escape(mark) for mark in sorted(marks, key=len, reverse=True) if mark.strip()]
    return re.compile("|".join([*own, *CHAT_MARKS]), re.IGNORECASE | re.MULTILINE)
