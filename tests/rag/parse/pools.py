"""Pools of parsers for tests, and what must hold after each."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from rag.parse.child import Limits, ParserPool

HOSTILE = (sys.executable, str(Path(__file__).with_name("hostile_parser.py")))
LIMITS = Limits(
    file_bytes=200 * 2**20,
    memory_mb=1024,
    cpu_seconds=60,
    wall_seconds=120,
    output_mb=64,
    reuse=100,
)


def hostile_pool(*, processes=1, **limits):
    """A pool whose text parser does what a text says: `do segfault`."""
    return ParserPool(replace(LIMITS, **limits), processes=processes, command=HOSTILE)


def do(pool, *words):
    """The text that comes out."""
    return pool.parse(" ".join(("do", *words)).encode(), name="hostile.txt").text


def assert_works(pool):
    """A good document is parsed, and no child waits to be reaped."""
    assert pool.parse(b"good", name="good.txt").text == "good"
    assert not has_zombies()


def has_zombies():
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return found is not None


def is_gone(pid):
    """Whether there is no such process, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
