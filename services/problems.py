"""Errors as RFC 9457 problems: one table from the classes of `rag.errors` to HTTP statuses."""

import errno
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rag import errors as e
from services import logs

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
ROUTES_HINT = "GET /docs lists every route."


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
        return _object(kind, error.message, error.hint, instance)
    detail = "The request was fine, its handling was not."
    return _object(kind, detail, "The log of the service says what happened.", instance)


class Problem(JSONResponse):
    """A problem object as a response; its status is the object's own."""

    media_type = MEDIA_TYPE

    def __init__(
        self, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(content, int(content["status"]), headers)

    def render(self, content: object) -> bytes:
        """Half surrogates, which a request may hold, become JSON's own escapes."""
        return json.dumps(content, ensure_ascii=False).encode("utf8", "backslashreplace")


def respond(error: Exception, instance: str) -> Problem:
    """The response that an error becomes."""
    headers = None
    if isinstance(error, e.Overloaded):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, e.Unauthenticated):
        headers = {"WWW-Authenticate": "Bearer"}
    return Problem(problem(error, instance), headers)


def refuse(scope: Mapping[str, Any], error: e.RagError) -> Response:
    """What a caller is told who gets no further."""
    return respond(error, scope["path"])


def install(app: FastAPI) -> None:
    """Make every error response of the application a problem."""
    app.add_exception_handler(e.RagError, _rag_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(Exception, _any_error)


SCHEMA: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "hint", "instance"],
    "properties": {
        "type": {"type": "string", "examples": ["/problems/not-found"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "examples": [404]},
        "detail": {"type": "string", "description": "What is wrong."},
        "hint": {"type": "string", "description": "What to do about it."},
        "instance": {"type": "string", "description": "The path that was asked for."},
        "request_id": {
            "type": "string",
            "description": "Names the request in the log; also the header X-Request-ID.",
        },
        "errors": {
            "type": "array",
            "description": "What is wrong with which field.",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
_DOCUMENTED = {"description": "A problem", "content": {MEDIA_TYPE: {"schema": SCHEMA}}}
RESPONSES: dict[int | str, dict[str, Any]] = {"default": _DOCUMENTED, 422: _DOCUMENTED}


async def _rag_error(request: Request, error: Exception) -> Response:
    return respond(error, request.url.path)


async def _os_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, OSError)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    full = e.StorageFull("The disk has no room for the upload.", hint="Free some space.")
    return respond(full, request.url.path)


async def _any_error(request: Request, error: Exception) -> Response:
    return respond(error, request.url.path)  # starlette raises it again, the server logs it


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        why = found[0].get("ctx", {}).get("error", found[0]["msg"])
        return respond(_not_json(f"{why} at character {found[0]['loc'][-1]}"), request.url.path)
    if [one["loc"] for one in found] == [("body",)] and not _is_json(request):
        return respond_http(415, "This route reads application/json.", request.url.path)
    listed = _by_field(found, error.body)
    detail = "; ".join(f"{one['field']}: {one['message']}" for one in listed[:5])
    content = _object(
        KINDS[e.InvalidInput],
        detail + ("; ..." if len(listed) > 5 else ""),
        "GET /docs shows each request with its fields and examples.",
        request.url.path,
    )
    return Problem({**content, "errors": listed})


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # Bytes that are no UTF-8, brackets a thousand deep, a broken multipart body.
        return respond(MalformedBody(str(error.detail)), request.url.path)
    if isinstance(error.__cause__, e.RagError):
        return respond(error.__cause__, request.url.path)
    detail = {
        404: f"There is no route {request.url.path!r:.200}.",
        405: f"This route does not take {request.method}.",
    }.get(error.status_code, str(error.detail))
    return respond_http(error.status_code, detail, request.url.path, error.headers)


def respond_http(
    status: int,
    detail: str,
    instance: str,
    headers: Mapping[str, str] | None = None,
    **more: object,
) -> Problem:
    """A problem that HTTP itself names; its title is that of the status."""
    kind = Kind(status, "about:blank", HTTPStatus(status).phrase)
    hint = ROUTES_HINT if status in (404, 405) else ""
    return Problem({**_object(kind, detail, hint, instance), **more}, headers)


def _object(kind: Kind, detail: str, hint: str, instance: str) -> dict[str, Any]:
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


def _not_json(why: str) -> MalformedBody:
    return MalformedBody(f"The body is not JSON: {why}.", hint="Check quotes and commas.")


def _is_json(request: Request) -> bool:
    return is_json(request.headers.get("content-type", ""))


def is_json(content_type: str) -> bool:
    """Whether a Content-Type announces JSON."""
    kind = content_type.partition(";")[0].strip().casefold()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


def _by_field(found: Sequence[Mapping[str, Any]], body: object) -> list[dict[str, str]]:
    """Each wrong field once: one that may be of several types is wrong in a way for each."""
    messages: dict[str, list[str]] = {}
    for one in found:
        messages.setdefault(_field(one, body), []).append(_message(one))
    return [
        {"field": field, "message": "; or ".join(dict.fromkeys(said))}
        for field, said in messages.items()
    ]


def _field(found: Mapping[str, Any], body: object) -> str:
    """`("body", "documents", 0, "text")` as `documents.0.text`.

    pydantic's places also name types that were tried, such as `list[str]`; what is not in the body
    is none of its fields, unless it is the field that is missing.
    """
    place, *parts = found["loc"]
    path, at = [], body
    for number, part in enumerate(parts, 1):
        inside = isinstance(at, list) and isinstance(part, int) and part < len(at)
        if inside or (isinstance(at, dict) and part in at):
            at = at[part]  # type: ignore[index] # a list or a dict, checked above
        elif place == "body" and not (found["type"] == "missing" and number == len(parts)):
            continue
        path.append(str(part))
    return ".".join(path) or str(place)


def _message(found: Mapping[str, Any]) -> str:
    if found["type"] == "extra_forbidden":
        return "there is no such field"
    return str(found["msg"]).removeprefix("Value error, ")
