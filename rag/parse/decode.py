"""Bytes -> characters: byte order marks, UTF-8, UTF-16 and UTF-32 without a mark, legacy pages."""

import codecs
import re
from dataclasses import dataclass

_SAMPLE = 65_536
_MARKS = (
    # UTF-32's mark begins with UTF-16's, so it is tried first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MARKLESS = ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be")
# Encodings still met in the wild. Where several decode the bytes equally well, the first of them
# wins: charset-normalizer's own order prefers rarer code pages.
_LEGACY = (
    "cp1252",
    "gb18030",
    "big5",
    "cp932",
    "euc_jp",
    "cp949",
    "cp1251",
    "cp1250",
    "koi8_r",
    "iso2022_jp",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp1257",
    "cp1258",
    "cp874",
)
# What the web means by these labels (https://encoding.spec.whatwg.org/#names-and-labels).
_WEB_LABELS = {
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "iso-8859-9": "cp1254",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "x-gbk": "gb18030",
    "unicode": "utf-16",
}
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_MULTIBYTE = re.compile(rb"[\xc2-\xf4][\x80-\xbf]+")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text and the name of the encoding it was in; warnings tell what was guessed or lost."""

    text: str
    encoding: str
    warnings: tuple[str, ...] = ()


def decode(data: bytes, *, declared: str | None = None) -> Decoded:
    """Decode text in an unknown encoding; never fails, bytes without meaning become U+FFFD.

    A byte order mark wins, then valid UTF-8, then `declared` (a charset the document names), then
    the most likely legacy encoding.
    """
    for decoded in (_marked(data), _markless(data), _utf8(data), _declared(data, declared)):
        if decoded is not None:
            return decoded
    return _damaged_utf8(data) or _legacy(data)


def is_binary(data: bytes) -> bool:
    """Whether the bytes are no text in any encoding, judged by their control characters."""
    head = data[:_SAMPLE]
    if _marked(head[: len(head) // 4 * 4]) is not None or _markless(head) is not None:
        return False
    controls = len(_CONTROLS.findall(head.decode("latin-1")))
    return b"\x00" in head or controls > len(head) * 0.02


def _marked(data: bytes) -> Decoded | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data.decode(encoding, errors="replace")
            return Decoded(text, encoding, _lost(text, encoding))
    return None


def _markless(data: bytes) -> Decoded | None:
    """UTF-16 or UTF-32 without a mark, told by the NULs that Latin letters and spaces leave."""
    head = data[:_SAMPLE]
    if b"\x00" not in head:
        return None
    for encoding in _MARKLESS:
        unit = 4 if "32" in encoding else 2
        sample = head[: len(head) // unit * unit].decode(encoding, errors="replace")
        if _is_plausible(sample):
            text = data.decode(encoding, errors="replace")
            return Decoded(text, encoding, _lost(text, encoding))
    return None


def _is_plausible(text: str) -> bool:
    """Whether decoded text reads like text: hardly a control or broken character, spaces in it."""
    if not text:
        return False
    strange = len(_CONTROLS.findall(text)) + text.count("\ufffd")
    common = sum(text.count(mark) for mark in " \n\t,")
    return strange <= len(text) * 0.01 and common >= len(text) * 0.02


def _utf8(data: bytes) -> Decoded | None:
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        return None


def _declared(data: bytes, charset: str | None) -> Decoded | None:
    if not charset:
        return None
    label = charset.strip().strip("\"'").lower()
    try:
        encoding = codecs.lookup(_WEB_LABELS.get(label, label)).name
        text = data.decode(encoding, errors="replace")
    except (LookupError, UnicodeError):
        # An unknown label, or one such as `idna` or `hex` that names no character set.
        return None
    if text.count("\ufffd") > len(text) * 0.01:
        return None
    return Decoded(text, encoding, _lost(text, encoding))


def _damaged_utf8(data: bytes) -> Decoded | None:
    """UTF-8 with stray bytes: guessing another encoding would garble all that is right."""
    text = data.decode("utf-8", errors="replace")
    valid = len(_MULTIBYTE.findall(data))
    broken = text.count("\ufffd")
    if broken * 5 > valid:
        return None
    return Decoded(text, "utf-8", _lost(text, "utf-8"))


def _legacy(data: bytes) -> Decoded:
    """The most likely legacy encoding, with a warning: it is a guess."""
    encoding = _guess(_telling_sample(data))
    text = data.decode(encoding, errors="replace")
    guessed = f"The encoding was guessed to be {encoding}."
    return Decoded(text, encoding, (guessed, *_lost(text, encoding)))


def _guess(sample: bytes) -> str:
    # Its tables cost 50 ms to load and plain UTF-8 never needs them.
    from charset_normalizer import from_bytes

    matches = list(from_bytes(sample, cp_isolation=list(_LEGACY)))
    if not matches:
        return "cp1252"
    mess = min(match.chaos for match in matches)
    tied = {
        encoding
        for match in matches
        if match.chaos <= mess + 0.005
        for encoding in match.could_be_from_charset
    }
    return next((encoding for encoding in _LEGACY if encoding in tied), matches[0].encoding)


def _telling_sample(data: bytes) -> bytes:
    """The lines that are not plain ASCII, which alone tell encodings apart."""
    lines = [line for line in data[: 64 * _SAMPLE].splitlines(keepends=True) if not line.isascii()]
    return b"".join(lines)[:_SAMPLE] or data[:_SAMPLE]


def _lost(text: str, encoding: str) -> tuple[str, ...]:
    count = text.count("\ufffd")
    if not count:
        return ()
    return (f"{count} characters could not be decoded as {encoding}.",)
