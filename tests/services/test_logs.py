"""Lines of the log: one per event, in text or JSON, whatever an event's message holds."""

import json
import logging
import sys

import pytest

from rag.settings import Settings, load_settings
from services import logs
from services.service import Application
from tests.services.serving import logging_restored

EVIL = "one\nINFO forged: line\x1b[31m\u2028end"


def record(message, *args, **more):
    made = logging.LogRecord("rag.jobs", logging.WARNING, __file__, 1, message, args, None)
    vars(made).update(more)
    return made


@pytest.fixture
def outside():
    """Without a request, also when a test before this one left its own."""
    token = logs._current.set(None)
    yield
    logs._current.reset(token)


@pytest.mark.usefixtures("outside")
def test_text_is_one_line_with_the_request():
    line = logs.TextLines()
    assert line.format(record("document %r", "a")) == "WARNING rag.jobs: document 'a'"
    logs.begin("r-1", "")
    assert line.format(record("done")) == "WARNING rag.jobs [r-1]: done"
    said = line.format(record("%s", EVIL))
    assert said == (r"WARNING rag.jobs [r-1]: one\nINFO forged: line\x1b[31m\u2028end")


@pytest.mark.usefixtures("outside")
def test_json_is_one_object_with_all_that_is_known():
    line = logs.JsonLines()
    logs.begin("r-1", "4bf92f3577b34da6a3ce929d0e0e4736")
    said = line.format(record("%s", EVIL, fields={"status": 200}, created=1700000000.25))
    assert "\n" not in said
    assert json.loads(said) == {
        "time": "2023-11-14T22:13:20.250+00:00",
        "level": "warning",
        "logger": "rag.jobs",
        "message": EVIL,
        "request_id": "r-1",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "status": 200,
    }


@pytest.mark.usefixtures("outside")
def test_an_exception_is_within_its_line():
    try:
        raise ValueError("a bug")
    except ValueError:
        made = record("it failed", exc_info=sys.exc_info())
    said = logs.JsonLines().format(made)
    assert "\n" not in said
    found = json.loads(said)
    assert found["exception"].endswith("ValueError: a bug")
    assert "request_id" not in found


@pytest.fixture
def as_before():
    with logging_restored():
        yield


@pytest.mark.usefixtures("as_before", "outside")
def test_own_loggers_speak_at_the_level_and_others_from_warnings_on(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger("httpx"), "level", logging.NOTSET)
    logs.configure(Settings(log_level="debug"))
    logging.getLogger("rag.jobs").debug("ours")
    logging.getLogger("services").info("ours")
    logging.getLogger("httpx").info("GET https://example.org/?token=s3cret")
    logging.getLogger("httpcore").debug("Authorization: s3cret")
    logging.getLogger("httpx").warning("theirs")
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["DEBUG rag.jobs: ours", "INFO services: ours", "WARNING httpx: theirs"]
    logs.configure(Settings(log_level="error"))
    logging.getLogger("rag").warning("too little")
    assert capsys.readouterr().err == ""


def test_the_settings_are_checked():
    assert load_settings(log_format="json", log_level="debug").log_format == "json"
    with pytest.raises(Exception, match="log_format"):
        load_settings(log_format="xml")


@pytest.mark.usefixtures("as_before")
def test_serving_configures_the_log_and_no_second_access_line(monkeypatch):
    from services import chat
    from services import service as services

    seen = {}
    monkeypatch.setenv("RAG_LOG_FORMAT", "json")
    monkeypatch.setattr(services.Server, "run", lambda server: seen.update(vars(server.config)))
    with pytest.raises(SystemExit):
        services.run(chat.create_app)
    assert (seen["access_log"], seen["log_config"]) == (False, None)
    assert isinstance(logging.getLogger().handlers[0].formatter, logs.JsonLines)
    assert isinstance(seen["app"], Application)
