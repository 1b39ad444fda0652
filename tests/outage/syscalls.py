"""System calls of a process, as strace writes them down (-f -y -o)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendfile")
SENDS = (*WRITES, "sendto", "sendmsg")
SYNCS = ("fsync", "fdatasync")
TRACED = ",".join((*SENDS, *SYNCS, "mkdir", "mkdirat", "rename", "renameat", "renameat2"))
_WHOLE = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+|\?)(.*)")
_BEGUN = re.compile(r"(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"<\.\.\. (\w+) resumed>(.*)\)\s+= (-?\d+|\?)(.*)")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call. It ran from line `begun` of the trace to line `ended`."""

    name: str
    arguments: str
    result: int
    begun: int
    ended: int

    @property
    def path(self) -> str:
        """The file or folder that its first descriptor stands for."""
        found = re.match(r"\d+<([^>]*)>", self.arguments)
        return found[1] if found else ""


def calls_of(trace: Iterable[str]) -> list[Call]:
    """In the order in which they began. What never ended is left out: nothing may rest on it."""
    found, begun = [], dict[str, tuple[str, str, int]]()
    for number, line in enumerate(trace):
        process, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if whole := _WHOLE.fullmatch(rest):
            found.append(Call(whole[1], whole[2], _result(whole[3]), number, number))
        elif part := _BEGUN.fullmatch(rest):
            begun[process] = (part[1], part[2], number)
        elif (end := _ENDED.fullmatch(rest)) and process in begun:
            name, arguments, first = begun.pop(process)
            assert name == end[1], line
            found.append(Call(name, arguments + end[2], _result(end[3]), first, number))
        elif not rest.startswith(("+++", "---")):
            raise ValueError(f"not a line of strace: {line!r}")
    return sorted(found, key=lambda call: call.begun)


def _result(said: str) -> int:
    return -1 if said == "?" else int(said)
