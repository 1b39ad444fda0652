"""Arithmetic only: what holds in a process that gave its rights up is in `test_hostile.py`."""

import resource
import struct

import pytest

from rag.parse import rights


def test_a_limit_from_outside_stays():
    assert rights.within(10, resource.RLIM_INFINITY) == 10
    assert rights.within(10, 20) == 10
    assert rights.within(10, 5) == 5


@pytest.mark.parametrize(
    ("machine", "audit", "calls"),
    [
        ("x86_64", 0xC000003E, {41: 1, 59: 1, 57: 1, 425: 1, 435: 38, 0: None, 1: None, 231: None}),
        ("aarch64", 0xC00000B7, {198: 1, 221: 1, 425: 1, 435: 38, 63: None, 64: None, 94: None}),
    ],
)
def test_which_calls_the_filter_refuses_and_with_which_error(machine, audit, calls):
    program = rights._filter(machine)
    assert {call: run(program, audit, call) for call in calls} == calls
    clone = 56 if machine == "x86_64" else 220
    assert run(program, audit, clone, flags=0x10000 | 0x100) is None  # a thread
    assert run(program, audit, clone, flags=0x11) == 1  # a process
    assert run(program, 0x40000003, 0) == "killed"  # as a 32-bit process would call


def test_there_is_no_filter_for_other_machines():
    assert rights._filter("riscv64") == b""


def run(program, audit, call, flags=0):
    """What the filter says: None to let the call pass, or the number of the error."""
    data = {0: call, 4: audit, 16: flags}
    steps = list(struct.iter_unpack("HBBI", program))
    at = loaded = 0
    while True:
        code, skip_if, skip_else, value = steps[at]
        at += 1
        if code == 0x20:
            loaded = data[value]
        elif code == 0x06:
            return {0x7FFF0000: None, 0x80000000: "killed"}.get(value, value & 0xFFFF)
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}
            at += skip_if if holds[code] else skip_else
