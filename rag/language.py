"""Which language a text is written in, to warn when the embedder does not know it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

SAMPLE_CHARS = 4000
MIN_CHARS = 200  # shorter texts, and tables of names, are guessed wrong too often
MIN_PROBABILITY = 0.95

MULTILINGUAL = "multilingual"


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the text's language, None when that is not sure."""
    sample = text[:SAMPLE_CHARS]
    if len(sample) < MIN_CHARS:
        return None
    language, probability = _identifier().classify(sample)
    return str(language) if probability >= MIN_PROBABILITY else None


def language_warning(text: str, known: Sequence[str], model: str) -> str | None:
    """What to tell the owner of a text that the embedder was not made for; None when all is well.

    `known` holds language codes, or `multilingual`; empty means that nothing is known.
    """
    if not known or MULTILINGUAL in known:
        return None
    language = language_of(text)
    if language is None or language in known:
        return None
    return (
        f"the text seems to be in language {language!r}, and {model} knows {', '.join(known)}:"
        " it will be found badly; a collection with a multilingual embedder would find it"
    )


@lru_cache(maxsize=1)
def _identifier() -> Any:  # noqa: ANN401 - py3langid has no types
    from py3langid.langid import (
        MODEL_FILE,
        LanguageIdentifier,
    )

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
