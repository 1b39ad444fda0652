"""What a process that parses untrusted files can do without, given up for good.

Memory, file writes and core dumps are limited by resource limits. Against the network, new
processes and other processes' memory stand, from the outside in: a network namespace, where users
may make one; a system call filter, on Linux for x86-64 and ARM; and an audit hook, which stops
Python code only and is all there is elsewhere. Files can still be read.
"""

import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from contextlib import suppress

_CLONE_THREAD, _CLONE_NEWUSER, _CLONE_NEWNET = 0x10000, 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522

# Numbers of <linux/audit.h> and <asm/unistd.h>: the architecture, `clone`, and what is refused:
# socket, execve, execveat, ptrace, process_vm_readv, process_vm_writev, and fork and vfork.
_ARCHITECTURES = {
    "x86_64": (0xC000003E, 56, (41, 59, 322, 101, 310, 311, 57, 58)),
    "aarch64": (0xC00000B7, 220, (198, 221, 281, 117, 270, 271)),
}
# The same everywhere. Both open sockets in ways of their own.
_IO_URING_SETUP, _PIDFD_GETFD = 425, 438
_CLONE3 = 435
_X32 = 0x40000000  # numbers from here on belong to another ABI of x86-64

_REFUSED_EVENTS = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
)


class _Program(ctypes.Structure):
    """`struct sock_fprog` of <linux/filter.h>."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def give_up_rights(memory_mb: int) -> list[str]:
    """Take them from this process; returns the names of what holds now."""
    held = ["file size limit"]
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    with suppress(ValueError, OSError):  # macOS refuses
        _limit(resource.RLIMIT_AS, memory_mb * 2**20)
        held.append("memory limit")
    if sys.platform == "linux":
        held += _give_up_linux_rights()
    sys.addaudithook(_refuse)
    return [*held, "audit hook"]


def within(limit: int, hard: int) -> int:
    """The limit, or a lower one that was set from outside and cannot be raised."""
    return limit if hard == resource.RLIM_INFINITY else min(limit, hard)


def _limit(kind: int, most: int) -> None:
    most = within(most, resource.getrlimit(kind)[1])
    resource.setrlimit(kind, (most, most))


def _refuse(event: str, _: tuple[object, ...]) -> None:
    if event.startswith(_REFUSED_EVENTS):
        raise PermissionError(f"{event} is not for a parser")


def _give_up_linux_rights() -> list[str]:
    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    held = []
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) == 0:
        held.append("network namespace")
    # A new namespace comes with every capability in it, and root may have some anyway.
    libc.capset(struct.pack("II", _CAPABILITY_VERSION, 0), bytes(24))
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    steps = _filter(os.uname().machine)
    program = _Program(len(steps) // 8, steps)
    address = ctypes.addressof(program)
    if steps and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, address, 0, 0) == 0:
        held.append("system call filter")
    return held


def _filter(machine: str) -> bytes:
    """The steps of a seccomp filter for this machine, none for one that is not known.

    Threads may start: `clone` passes with CLONE_THREAD. A filter cannot see the flags of `clone3`,
    so that is said not to exist, and the C library falls back on `clone`.
    """
    if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
        return b""
    audit, clone, refused = _ARCHITECTURES[machine]
    load, equal, at_least, any_bit, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    number, architecture, flags = 0, 4, 16  # offsets in struct seccomp_data
    kill, refuse, allow = 0x80000000, 0x50000, 0x7FFF0000

    def step(code: int, value: int, skip_if: int = 0, skip_else: int = 0) -> bytes:
        return struct.pack("HBBI", code, skip_if, skip_else, value)

    steps = [step(load, architecture), step(equal, audit, 1, 0), step(leave, kill)]
    steps += [step(load, number), step(at_least, _X32, 0, 1), step(leave, refuse | errno.EPERM)]
    for call in (*refused, _IO_URING_SETUP, _PIDFD_GETFD):
        steps += [step(equal, call, 0, 1), step(leave, refuse | errno.EPERM)]
    steps += [step(equal, _CLONE3, 0, 1), step(leave, refuse | errno.ENOSYS)]
    steps += [step(equal, clone, 0, 3), step(load, flags), step(any_bit, _CLONE_THREAD, 1, 0)]
    steps += [step(leave, refuse | errno.EPERM), step(leave, allow)]
    return b"".join(steps)
