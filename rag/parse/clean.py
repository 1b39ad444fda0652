"""Characters: what may stand in parsed text, and in which form."""

import re
import unicodedata

# C0 controls but tab and line feed, DEL, the C1 controls, lone surrogates (no encoder takes them),
# and the non-characters U+FFFE and U+FFFF that PDF fonts map unknown glyphs to.
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
# Soft hyphen, zero-width space, word joiner, byte order mark: layout hints without meaning.
# The zero-width joiners stay: Persian words and emoji need them.
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_LINE_ENDS = re.compile(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# A stand-alone surrogate or NUL cannot be stored; one character replaces one, so offsets hold.
_UNSTORABLE = re.compile(r"[\x00\ud800-\udfff]")


def clean_lines(text: str) -> str:
    r"""The text in NFC with `\n` line ends, without byte order marks and control characters."""
    text = _LINE_ENDS.sub("\n", text.removeprefix("\ufeff"))
    return unicodedata.normalize("NFC", _FORBIDDEN.sub("", text))


def clean_inline(text: str) -> str:
    """One line: every run of white space, line breaks included, becomes one space."""
    if text.isascii() and text.isprintable():
        return " ".join(text.split())
    text = _INVISIBLE.sub("", _FORBIDDEN.sub("", _LINE_ENDS.sub(" ", text)))
    return unicodedata.normalize("NFC", " ".join(text.split()))


def clean_paragraph(text: str) -> str:
    r"""A paragraph: `\n` is a break that its author made and stays, other runs of white space fold.

    Parsers hand in wrapped lines already joined. Empty lines go.
    """
    lines = (clean_inline(line) for line in _LINE_ENDS.sub("\n", text).split("\n"))
    return "\n".join(line for line in lines if line)


def clean_code(text: str) -> str:
    """Preformatted text: indentation stays, blank lines around it and trailing spaces go."""
    lines = (line.rstrip() for line in clean_lines(text).split("\n"))
    return "\n".join(lines).strip("\n")


def replace_unstorable(text: str) -> tuple[str, int]:
    """The text with NULs and lone surrogates as U+FFFD, and how many there were.

    The length stays, so that offsets into the original hold.
    """
    return _UNSTORABLE.subn("\ufffd", text)
