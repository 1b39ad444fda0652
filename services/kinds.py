"""One table from the classes of `rag.errors` to RFC 9457 problems and their HTTP statuses.

It imports no web framework: the command line reads the table, too, and starts without one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rag import errors as e
from services import logs


@dataclass(frozen=True, slots=True)
class Kind:
    """What all problems of one type share. The type is stable: clients may compare it."""

    status: int
    type: str
    title: str


class MalformedBody(e.InvalidInput):
    """The body is not what its Content-Type says."""


KINDS: Mapping[type[Exception], Kind] = {
    MalformedBody: Kind(400, "/problems/malformed-body", "The body cannot be read"),
    e.TooLarge: Kind(413, "/problems/too-large", "A limit was crossed"),
    e.EmptyDocument: Kind(422, "/problems/empty-document", "The document holds no text"),
    e.EncryptedDocument: Kind(422, "/problems/encrypted-document", "The document has a password"),
    e.MalformedDocument: Kind(422, "/problems/malformed-document", "The document is damaged"),
    e.ParseLimit: Kind(422, "/problems/parse-limit", "The document takes too much to read"),
    e.UnsupportedType: Kind(415, "/problems/unsupported-type", "No parser reads this type"),
    e.NeedsOcr: Kind(422, "/problems/needs-ocr", "The document's pages are pictures"),
    e.InvalidInput: Kind(422, "/problems/invalid-input", "The request is wrong"),
    e.NotFound: Kind(404, "/problems/not-found", "There is no such thing"),
    e.Conflict: Kind(409, "/problems/conflict", "The request contradicts what is stored"),
    e.Unauthenticated: Kind(401, "/problems/unauthenticated", "Who asks is not known"),
    e.Forbidden: Kind(403, "/problems/forbidden", "This is not permitted"),
    e.ModelUnavailable: Kind(503, "/problems/model-unavailable", "A model cannot be loaded"),
    e.StoreUnreachable: Kind(503, "/problems/store-unreachable", "A store does not answer"),
    e.StorageFull: Kind(507, "/problems/storage-full", "The disk is full"),
    e.FetchFailed: Kind(422, "/problems/fetch-failed", "A URL does not give its document"),
    e.Overloaded: Kind(429, "/problems/overloaded", "There is too much to do already"),
    e.Cancelled: Kind(499, "/problems/cancelled", "Nobody waits for the answer any more"),
    e.MissingExtra: Kind(501, "/problems/missing-extra", "A dependency is not installed"),
    Exception: Kind(500, "/problems/internal-error", "Something went wrong inside"),
}


def kind_of(error: BaseException) -> Kind:
    """The row of the table that an error falls under: that of its nearest class."""
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def problem_type(error: Exception) -> str:
    """The type of the problem that an error becomes."""
    return kind_of(error).type


def class_of(type: str) -> type[e.RagError]:
    """The class of `rag.errors` whose problems have a type: what a client raises again."""
    found = (cls for cls, kind in KINDS.items() if kind.type == type)
    cls = next(found, e.RagError)
    return cls if issubclass(cls, e.RagError) else e.RagError


def problem(error: Exception, instance: str) -> dict[str, Any]:
    """The problem object of an error; what happened inside stays inside."""
    kind = kind_of(error)
    if isinstance(error, e.RagError):
        return of_kind(kind, error.message, error.hint, instance)
    detail = "The request was fine, its handling was not."
    return of_kind(kind, detail, "The log of the service says what happened.", instance)


def of_kind(kind: Kind, detail: str, hint: str, instance: str) -> dict[str, Any]:
    """The problem object of a kind, with the id of the request that is being answered."""
    request_id = logs.request_id()
    return {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "hint": hint,
        "instance": instance,
        **({"request_id": request_id} if request_id else {}),
    }
