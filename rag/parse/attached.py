"""The parts of a message that are files: which are taken, which are left out and why."""

import mimetypes
from collections.abc import Iterator
from dataclasses import dataclass
from email import policy
from email.errors import HeaderParseError
from email.message import EmailMessage, MIMEPart
from pathlib import PureWindowsPath

from rag.errors import RagError, UnsupportedType
from rag.parse import detect, ocr
from rag.parse.clean import clean_inline
from rag.parse.draft import Draft

_MAX_NAME = 200
_MAX_NAMED = 20  # warnings about single attachments; the rest are counted
_SIGNATURES = frozenset(
    {"application/pgp-signature", "application/pkcs7-signature", "application/x-pkcs7-signature"}
)
# As it came: refolding would change what was sent, and trips over damaged headers.
_AS_SENT = policy.default.clone(refold_source="none")


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a message beside its body: more text, files, images that the text shows."""

    texts: tuple[MIMEPart, ...]
    files: tuple[MIMEPart, ...]
    images: tuple[MIMEPart, ...]


def parts_of(message: EmailMessage, body: MIMEPart | None) -> Parts:
    """Every part but the body and the other forms of it."""
    texts, files, images = [], [], []
    for part, within in _leaves(message, body):
        is_other_form = "alternative" in within
        if _is_shown(part, within):
            images.append(part)
        elif part.get_content_maintype() != "text" or part.is_attachment() or _filename(part):
            files.append(part)
        elif is_other_form:
            continue
        elif part.get_content_subtype() in ("plain", "html"):
            texts.append(part)
        else:
            files.append(part)
    return Parts(tuple(texts), tuple(files), tuple(images))


def take(parts: Parts, draft: Draft) -> list[str]:
    """Add the files to the draft as attachments, with a warning for each that is left out.

    Returns the names of those that a reader of the mail would see as attached.
    """
    seen = []
    left_out = [_left_out(_name(image), "it is an image within the text") for image in parts.images]
    room = draft.options.max_attachment_bytes
    for part in parts.files:
        name, content = _name(part), _content(part)
        reason = _reason_to_leave(part, name, content, draft)
        if not reason and len(content or b"") > room:
            reason = "RAG_MAX_ATTACHMENT_BYTES allow no more of this mail"
        if reason:
            left_out.append(_left_out(name, reason))
        elif content is not None:
            room -= len(content)
            draft.attach(name, _printable(part.get_content_type())[:_MAX_NAME], content)
        if part.get_content_type() not in _SIGNATURES:
            seen.append(name)
    for warning in left_out[:_MAX_NAMED]:
        draft.warn(warning)
    if len(left_out) > _MAX_NAMED:
        draft.warn(f"{len(left_out) - _MAX_NAMED} more attachments were left out")
    return seen


def _left_out(name: str, reason: str) -> str:
    return f"attachment {name} was left out: {reason}"


def _leaves(
    part: MIMEPart, body: MIMEPart | None, within: frozenset[str] = frozenset()
) -> Iterator[tuple[MIMEPart, frozenset[str]]]:
    """Parts that hold something, with the kinds of multipart that they stand in."""
    if part is body:
        return
    if part.get_content_maintype() == "multipart":
        for inner in part.iter_parts():
            yield from _leaves(inner, body, within | {part.get_content_subtype()})
    else:
        yield part, within


def _is_shown(part: MIMEPart, within: frozenset[str]) -> bool:
    """Whether the text shows an image, such as the logo of a signature."""
    if part.get_content_maintype() != "image":
        return False
    if "related" in within or part.get_content_disposition() == "inline":
        return True
    return part["Content-ID"] is not None and not part.is_attachment()


def _reason_to_leave(part: MIMEPart, name: str, content: bytes | None, draft: Draft) -> str:
    kind = part.get_content_type()
    if content is None:
        return f"no parser reads {kind}"
    if not content.strip():
        return "it is empty"
    if kind in _SIGNATURES:
        return "it is a signature"
    if len(draft.attachments) >= draft.options.max_attachments:
        return "RAG_MAX_ATTACHMENTS and RAG_MAX_ATTACHMENT_DEPTH allow no more"
    try:
        found = detect.detect(content, name=name, media_type=kind).media_type
    except UnsupportedType:
        return f"no parser reads {kind}"
    except RagError:
        return ""  # what is wrong with it, its own report says
    is_unread = found in detect.IMAGES and ocr.obstacle(draft.options)
    return f"no parser reads {kind}" if is_unread else ""


def _content(part: MIMEPart) -> bytes | None:
    """The bytes of a part, None for reports on other messages, and for what is beyond repair."""
    try:
        if part.get_content_type() == "message/rfc822" and part.is_multipart():
            inner = part.get_payload(0)
            return inner.as_bytes(policy=_AS_SENT) if isinstance(inner, EmailMessage) else None
        payload = part.get_payload(decode=True)
    except (HeaderParseError, LookupError, ValueError, TypeError, AttributeError):
        return None  # the standard library trips over some damaged messages
    return payload if isinstance(payload, bytes) else None


def _name(part: MIMEPart) -> str:
    """The file's name without folders, or one made from its subject or type."""
    kind = part.get_content_type()
    name = _filename(part)
    if not name and kind == "message/rfc822" and part.is_multipart():
        name = f"{_subject(part) or 'message'}.eml"
    if not name:
        name = f"attachment{mimetypes.guess_extension(kind) or ''}"
    stem, dot, extension = name.rpartition(".")
    if len(name) > _MAX_NAME and dot and len(extension) < _MAX_NAME // 2:
        return f"{stem[: _MAX_NAME - len(extension) - 1]}.{extension}"
    return name[:_MAX_NAME]


def _filename(part: MIMEPart) -> str:
    try:
        given = part.get_filename() or ""
    except (HeaderParseError, LookupError, ValueError, TypeError):
        return ""
    return _printable(PureWindowsPath(given).name)


def _subject(part: MIMEPart) -> str:
    inner = part.get_payload(0)
    try:
        subject = str(inner.get("Subject", "")) if isinstance(inner, EmailMessage) else ""
    except (HeaderParseError, LookupError, ValueError):
        return ""
    return _printable(subject.replace("/", " ").replace("\\", " "))


def _printable(name: str) -> str:
    """One line without marks that turn a name around or hide its end."""
    return "".join(c for c in clean_inline(name) if c.isprintable())
