"""Texts to token ids and token ids to batches: what every encoder does before its forward pass.

Works on `tokenizers.Tokenizer` alone, with truncation and padding done here: those are mutable
state inside a tokenizer, and one tokenizer serves many threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, normalizers

from rag.errors import ModelUnavailable

# A question may take this share of a pair's length at most, so that some passage is always read.
_QUESTION_SHARE = (3, 4)


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """The contextual vectors of one text's tokens, special tokens left out.

    `ids` int32 (t,), `vectors` float32 (t, dim) of unit length, `offsets` int32 (t, 2): token i was
    made of `text[offsets[i, 0]:offsets[i, 1]]`.
    """

    ids: NDArray[np.int32]
    vectors: NDArray[np.float32]
    offsets: NDArray[np.int32]


def load_tokenizer(folder: Path, *, lower_case: bool = False) -> Tokenizer:
    """The model's fast tokenizer, neither truncating nor padding.

    `lower_case` lower-cases texts first where the tokenizer does not. Raises `ModelUnavailable`.
    """
    tokenizer = _read_tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if lower_case:
        own = tokenizer.normalizer
        steps = [normalizers.Lowercase(), *([own] if own is not None else [])]
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def special_marks(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The strings that a tokenizer reads as special tokens wherever they stand."""
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(token.content for token in added if token.special)


def _read_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        # Only vocabulary files: transformers knows how to build the fast tokenizer from them.
        from rag.models.torch import convert_tokenizer

        return convert_tokenizer(folder)
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises this very class, nothing narrower
        raise ModelUnavailable(f"{path} cannot be read: {error}.") from error


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[Encoding]:
    """Encode each text with its special tokens, the text cut so that all fits `max_tokens`."""
    room = max_tokens - tokenizer.num_special_tokens_to_add(False)
    encodings = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    for encoding in encodings:
        encoding.truncate(room)
    return [tokenizer.post_process(encoding) for encoding in encodings]


def tokenize_pairs(
    tokenizer: Tokenizer, question: str, passages: Sequence[str], max_tokens: int
) -> list[Encoding]:
    """Encode (question, passage) pairs; only the passage is cut to fit `max_tokens`.

    A question of more than three quarters of `max_tokens` is cut to that first.
    """
    share, of = _QUESTION_SHARE
    first = tokenizer.encode(question, add_special_tokens=False)
    first.truncate(max_tokens * share // of)
    room = max_tokens - tokenizer.num_special_tokens_to_add(True) - len(first)
    seconds = tokenizer.encode_batch(list(passages), add_special_tokens=False)
    for second in seconds:
        second.truncate(room)
    return [tokenizer.post_process(first, second) for second in seconds]


def plan_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Positions of `lengths` in batches of at most `budget` padded tokens, longest first.

    Neighbours in length share a batch, so little is padded. A row longer than the budget is a batch
    of its own. The longest come first because then a machine short of memory fails at once.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


def pad(rows: Sequence[Sequence[int]], value: int) -> NDArray[np.int64]:
    """Rows of ids as one array int64 (rows, longest), filled with `value` on the right."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded
