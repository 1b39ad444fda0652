"""The log: a line per event, each with the id of the request that it belongs to.

As text for people, or as JSON for whoever collects it. Only the program's own loggers and uvicorn's
speak at `RAG_LOG_LEVEL`; libraries, some of which log URLs and headers, from warnings on.
"""

import json
import logging
import re
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from rag.settings import Settings

OWN_LOGGERS = ("rag", "services", "eval", "uvicorn")
ACCEPTED = re.compile(r"[\x21-\x7e]{1,128}")  # visible characters: a line of the log stays a line
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Current:
    """The request that is being answered; `trace_id` is empty where none is traced."""

    id: str
    trace_id: str = ""


_current: ContextVar[Current | None] = ContextVar("request", default=None)


def begin(given: str, trace_id: str) -> Current:
    """The request of this task from now on, and of whatever it starts, threads included.

    It has the id that its client gave, if that is one, else a new one.
    """
    request_id = given if ACCEPTED.fullmatch(given) else uuid4().hex
    request = Current(request_id, trace_id)
    _current.set(request)
    return request


def request_id() -> str:
    """The id of the request that is being answered; empty outside of one."""
    request = _current.get()
    return request.id if request else ""


def configure(settings: Settings) -> None:
    """Log to standard error in the form that the settings want."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]  # without closing the others: they may not be ours to close
    root.setLevel(logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(settings.log_level.upper())


class TextLines(logging.Formatter):
    """`LEVEL logger [request id]: message`."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        request = request_id()
        where = f"{record.name} [{request}]" if request else record.name
        message = shown(record.message)
        return f"{record.levelname} {where}: {message}"


class JsonLines(logging.Formatter):
    """An object per line; `fields` of a record become fields of it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := _current.get():
            line["request_id"] = request.id
            if request.trace_id:
                line["trace_id"] = request.trace_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def shown(text: str) -> str:
    """A text on one line, without what a terminal would obey."""
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
