"""Where the next page begins, in a form that clients hand back and do not read."""

import base64
import binascii
import json
from typing import Any

from rag.errors import InvalidInput


def encoded(**place: str | int) -> str:
    """A cursor that says this."""
    written = json.dumps(place, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(written).decode().rstrip("=")


def decoded(cursor: str, **kinds: type) -> dict[str, Any]:
    """What a cursor says: exactly these fields, of these kinds. Raises InvalidInput."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        place = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        raise _wrong() from None
    if not isinstance(place, dict) or {k: type(v) for k, v in place.items()} != kinds:
        raise _wrong()
    if any(isinstance(value, int) and value < 0 for value in place.values()):
        raise _wrong()
    return place


def _wrong() -> InvalidInput:
    return InvalidInput(
        "This cursor is none of this list.",
        hint="Take the `next` of the page before as it is; without a cursor a list begins anew.",
    )
