"""What is said of how far an ingestion is, reckoned by hand."""

from io import StringIO

import pytest
from rich.console import Console

from rag.types import DocumentReport
from services.destination import Standing
from services.progress import LINE_SECONDS, Progress, Tally, duration


def ingested(id: str, chunks: int, tokens: int) -> DocumentReport:
    return DocumentReport(id, "ingested", chunks=chunks, tokens=tokens)


def test_rates_count_what_was_worked_on():
    tally = Tally(files=4, size=1000, begun=100.0)
    assert tally.tokens_per_second(110.0) is None
    assert tally.seconds_left(110.0) is None
    tally.end(DocumentReport("a", "unchanged", chunks=50, tokens=9999), 400)
    tally.end(ingested("b", 10, 2000), 200)
    tally.running_chunks, tally.running_size = 5, 100.0
    # 2,000 tokens of 10 chunks, so 1,000 of the five; in ten seconds.
    assert tally.tokens_per_second(110.0) == 300
    # 300 bytes took ten seconds, and 1000 - 600 - 100 are left.
    assert tally.seconds_left(110.0) == pytest.approx(10.0)
    assert tally.line(110.0) == "2/4 files, 15 chunks, 300 tokens/s, 10 s left"


def test_failures_are_counted():
    tally = Tally(files=1, size=10)
    tally.end(DocumentReport("a", "failed"), 10)
    assert tally.line(1.0) == "1/1 files, 0 chunks, 1 failed"


def test_without_a_terminal_a_line_comes_now_and_then():
    now = 0.0
    shown = StringIO()
    with Progress(Console(file=shown, width=200), clock=lambda: now) as progress:
        progress.expect(3, 300)
        progress.working()
        now = LINE_SECONDS - 1
        progress.ended(ingested("a", 1, 100), 100)
        assert shown.getvalue() == ""
        now = LINE_SECONDS
        progress.moved([Standing("b", "b", done=1, total=2)], lambda _: 100)
        assert shown.getvalue() == "1/3 files, 2 chunks, 20 tokens/s, 10 s left\n"
        now = LINE_SECONDS + 1
        progress.ended(ingested("b", 2, 200), 100)
        assert shown.getvalue().count("\n") == 1


def test_in_a_terminal_there_is_a_bar():
    shown = StringIO()
    console = Console(file=shown, width=100, force_terminal=True)
    with Progress(console) as progress:
        progress.expect(2, 200)
        progress.working()
        progress.ended(ingested("a", 3, 100), 100)
        progress._bars.refresh()
        assert "1/2 files, 3 chunks" in shown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (120, "2 min"), (12_000, "3 h 20 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
