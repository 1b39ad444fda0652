"""How much of a conversation is read: its latest messages, as many as there is room for."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from rag.types import Cut, Message

CountTokens = Callable[[str], int]


def recent(
    history: Sequence[Message], tokens: int, count: CountTokens
) -> tuple[tuple[Message, ...], tuple[Cut, ...]]:
    """(the latest messages that hold so many tokens together, what was left out of it).

    Whole messages, the oldest left out first; of the latest one, where it alone is longer, its
    beginning.
    """
    kept: list[Message] = []
    left = tokens
    for message in reversed(history):
        spent = count(message.content)
        if spent > left:
            break
        kept.append(message)
        left -= spent
    cuts = []
    if not kept and history and tokens > 0:
        beginning = shortened(history[-1].content, tokens, count)
        kept = [replace(history[-1], content=beginning)]
        why = f"the history holds {tokens} tokens"
        cuts = [Cut("the end of the latest message of the history", why)]
    if older := len(history) - len(kept):
        what = f"the oldest {older} of {len(history)} messages of the history"
        cuts.append(Cut(what, f"the history holds {tokens} tokens"))
    return tuple(reversed(kept)), tuple(cuts)


def shortened(text: str, tokens: int, count: CountTokens) -> str:
    """The longest beginning of a text that holds so many tokens, to a word's end."""
    if count(text) <= tokens:
        return text
    ends = [at for at, sign in enumerate(text) if sign.isspace()] or list(range(len(text)))
    low, high = 0, len(ends)  # what ends at `ends[low - 1]` fits, at `ends[high]` it may not
    while low < high:
        middle = (low + high) // 2
        if count(text[: ends[middle]]) <= tokens:
            low = middle + 1
        else:
            high = middle
    return text[: ends[low - 1]] if low else ""
