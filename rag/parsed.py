"""A parsed document as it is kept beside its text: what parsing found, without parsing again."""

import json
from dataclasses import asdict

from rag.parse import PARSER
from rag.split import SPLITTER
from rag.types import Attachment, Document, Heading

MADE_BY = [PARSER, SPLITTER]


def pack(document: Document) -> bytes:
    """Everything of a document but its text and the content of its attachments."""
    fields = asdict(document)
    del fields["text"]
    for attachment in fields["attachments"]:
        del attachment["content"]
    fields["made_by"] = MADE_BY
    return json.dumps(fields, ensure_ascii=False, sort_keys=True).encode("utf8")


def is_current(packed: bytes) -> bool:
    """Whether the parser and splitter of today made it: then it would be cut in the same places."""
    return bool(json.loads(packed).get("made_by") == MADE_BY)


def unpack(text: bytes, packed: bytes) -> Document:
    """The document of a text and what was packed beside it."""
    fields = json.loads(packed)
    return Document(
        text=text.decode("utf8"),
        title=fields["title"],
        media_type=fields["media_type"],
        pages=tuple(fields["pages"]),
        headings=tuple(Heading(**heading) for heading in fields["headings"]),
        metadata=fields["metadata"],
        warnings=tuple(fields["warnings"]),
        attachments=tuple(Attachment(**one) for one in fields.get("attachments", ())),
    )
