"""Errors as responses: whatever goes wrong in a request is answered with a problem (RFC 9457)."""

import errno
import json
import logging
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from rag import errors as e
from services.kinds import KINDS, Kind, MalformedBody, of_kind, problem

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
ROUTES_HINT = "GET /docs lists every route."


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
    note_inside(error)
    if isinstance(error, e.Overloaded):
        headers = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, e.Unauthenticated):
        headers = {"WWW-Authenticate": "Bearer"}
    return Problem(problem(error, instance), headers)


def note_inside(error: Exception) -> None:
    """Have the log say what a caller is not told."""
    if isinstance(error, e.StoreUnreachable) and error.inside:
        log.warning("%s %s", error.message, error.inside)


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
    content = of_kind(
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
    return Problem({**of_kind(kind, detail, hint, instance), **more}, headers)


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
