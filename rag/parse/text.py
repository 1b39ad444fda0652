"""Plain text: bytes -> the same characters, decoded."""

from rag.parse.decode import decode
from rag.parse.draft import Draft


def parse_text(data: bytes, draft: Draft) -> None:
    """Take the text as it is: line breaks and spaces stay where the author put them."""
    decoded = decode(data)
    draft.warnings.extend(decoded.warnings)
    draft.verbatim(decoded.text)
