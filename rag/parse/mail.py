"""E-mail (RFC 822): subject, correspondents and date, then the body; its files apart."""

from email import policy
from email.errors import HeaderParseError
from email.headerregistry import DateHeader
from email.message import EmailMessage, MIMEPart
from email.parser import BytesParser

from rag.errors import EncryptedDocument
from rag.parse.attached import parts_of, take
from rag.parse.clean import clean_inline
from rag.parse.decode import decode
from rag.parse.draft import Draft
from rag.parse.html import write_html

_CORRESPONDENTS = ("From", "To", "Cc")
_ENCRYPTED_TYPES = frozenset({"multipart/encrypted", "application/pkcs7-mime"})


def parse_mail(data: bytes, draft: Draft) -> None:
    """Read a message: the plain body is preferred to the HTML one.

    Attached files are added to the draft, to be documents of their own, and named in the text.

    Raises EncryptedDocument for PGP/MIME and S/MIME encryption.
    """
    message = BytesParser(_class=EmailMessage, policy=policy.default).parsebytes(data)
    if _is_encrypted(message):
        raise EncryptedDocument(
            "The message is encrypted.", hint="Decrypt it in the mail program and save it again."
        )
    draft.title = _header(message, "Subject")
    draft.heading(draft.title, 1)
    _write_envelope(message, draft)
    body = message.get_body(preferencelist=("plain", "html"))
    parts = parts_of(message, body)
    for part in (body, *parts.texts):
        if part is not None:
            _write_text(part, draft)
    if names := take(parts, draft):
        draft.lines([f"Attachments: {', '.join(names)}"])


def _is_encrypted(message: EmailMessage) -> bool:
    if message.get_content_type() not in _ENCRYPTED_TYPES:
        return False
    # S/MIME uses the same type for messages that are merely signed.
    return message.get_param("smime-type", "enveloped-data") != "signed-data"


def _write_envelope(message: EmailMessage, draft: Draft) -> None:
    fields = {name: _header(message, name) for name in _CORRESPONDENTS}
    fields["Date"] = _date(message)
    draft.lines([f"{name}: {value}" for name, value in fields.items() if value])
    draft.metadata["subject"] = draft.title
    draft.metadata.update({name.lower(): value for name, value in fields.items()})


def _write_text(part: MIMEPart, draft: Draft) -> None:
    text = _content(part, draft)
    if part.get_content_subtype() == "html":
        write_html(text, draft)
    else:
        draft.verbatim(text.strip())


def _content(part: MIMEPart, draft: Draft) -> str:
    """The decoded text of a part; senders misname the charset often enough to check it."""
    payload = part.get_payload(decode=True)
    decoded = decode(payload if isinstance(payload, bytes) else b"", declared=_charset(part))
    draft.warnings.extend(decoded.warnings)
    return decoded.text


def _charset(part: MIMEPart) -> str | None:
    charset = part.get_content_charset()
    return None if charset in ("us-ascii", "utf-8") else charset


def _header(message: EmailMessage, name: str) -> str:
    """A header with its encoded words decoded, "" when missing or beyond repair."""
    try:
        return clean_inline(str(message.get(name, "")))
    except (HeaderParseError, IndexError, ValueError):
        # The header parser of the standard library trips over some damaged headers.
        return ""


def _date(message: EmailMessage) -> str:
    header = message.get("Date")
    # A header object made by the policy knows its date; anything else is text.
    stamp = header.datetime if isinstance(header, DateHeader) else None
    return stamp.isoformat(sep=" ") if stamp else _header(message, "Date")
