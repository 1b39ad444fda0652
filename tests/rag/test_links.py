"""What an answer may lead to: the sources of its passages, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.links import GONE, LONGEST, Links
from rag.types import Context
from tests.rag.passages import passage

SOURCE = "https://example.org/manual.html"
EVIL = "https://evil.example/?q=secret"
TEXT = "The form is at https://example.org/form?id=3, and costs nothing."


def links() -> Links:
    return Links(Context((replace(passage(1, TEXT), source=SOURCE),), 10))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("Plain [1] text (really) <b>.", "Plain [1] text (really) <b>."),
        (f"See ![x]({EVIL}) there.", "See  there."),
        (f"See ![x]({SOURCE}).", "See ."),  # a picture is loaded by itself, whatever it shows
        (f"See [the manual]({SOURCE}).", f"See [the manual]({SOURCE})."),
        (f"See [the manual]({EVIL} 'title').", "See the manual."),
        (f"See [the manual](<{EVIL}>).", "See the manual."),
        ("See [part 2](#two).", "See [part 2](#two)."),
        ("See [me](javascript:alert(1)).", "See me)."),
        (f"See {SOURCE}.", f"See {SOURCE}."),
        (f"See {EVIL}.", f"See {GONE}."),
        (f"See <{EVIL}> now", f"See {GONE} now"),
        ("See www.evil.example/x!", f"See {GONE}!"),
        ("At https://example.org/form?id=3, free", "At `https://example.org/form?id=3`, free"),
        ("At `https://example.org/form?id=3` free", "At `https://example.org/form?id=3` free"),
        (f'<img src="{EVIL}" /> <a href=x>y</a>', " y"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("if a < b and c > d", "if a < b and c > d"),
        (f"[x]: {EVIL}", f"[x]: {GONE}"),
    ],
)
def test_what_is_shown(written, shown):
    found = links()
    assert found.inert(written) == shown
    assert bool(found.cuts) == (shown != written and "`" not in shown)


def test_what_was_taken_out_is_said():
    found = links()
    found.inert(f"![x]({EVIL})")
    (cut,) = found.cuts
    assert cut.what == "an image"
    assert cut.why == f"it would be loaded from {EVIL!r}"


PARTS = [
    "![x](",
    "[1]",
    "[a](",
    EVIL,
    SOURCE,
    ")",
    " ",
    "\n",
    "word",
    "<",
    "img src=x>",
    "!",
    "http",
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join), st.integers(1, 7))
def test_in_pieces_it_is_shown_as_whole(written, size):
    pieces = [written[at : at + size] for at in range(0, len(written), size)]
    assert "".join(links().checked(iter(pieces))) == links().inert(written)


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_no_picture_and_no_strange_address_is_left(written):
    shown = links().inert(written)
    assert EVIL not in shown
    assert f"![x]({SOURCE})" not in shown


def test_pieces_come_as_soon_as_they_can():
    found = links().checked(iter(["The tower ", "of Bell ", "Rock"]))
    assert next(found) == "The tower "
    assert list(found) == ["of Bell ", "Rock"]


def test_a_less_than_sign_holds_nothing_back():
    found = links().checked(iter(["if a < ", "b and ", "c"]))
    assert next(found) == "if a "
    assert next(found) == "< b and "


def test_a_script_without_spaces_is_not_held_back():
    found = links().checked(iter(["灯台は", "1811年に", "完成"]))
    assert next(found) == "灯台は"
    assert next(found) == "1811年に"


def test_a_bracket_that_never_ends_holds_nothing_back_for_ever():
    found = list(links().checked(iter(["[", "x" * LONGEST, "y", " end"])))
    assert "".join(found) == "[" + "x" * LONGEST + "y end"
    assert len(found) > 1
