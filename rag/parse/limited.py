"""What runs in a child of `rag.parse.child`: it gives up its rights, then parses what it is sent.

    python -m rag.parse.limited MEMORY_MB CPU_SECONDS

Requests come on standard input, answers go to standard output.
"""

import errno
import math
import os
import re
import resource
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from rag.errors import RagError
from rag.parse import parse_document
from rag.parse.messages import receive, send
from rag.parse.options import Options
from rag.parse.rights import give_up_rights, within

OUT_OF_MEMORY = errno.ENOMEM  # the exit code that says so

_USED_UP = 0.95
_STATUS = Path("/proc/self/status")
_PEAK = re.compile(r"^VmPeak:\s*(\d+) kB", re.MULTILINE)


def main() -> None:
    """Say what rights are given up, then answer until there are no more requests."""
    memory_mb, cpu_seconds = map(int, sys.argv[1:3])
    requests, answers = _take_pipes()
    try:
        send(answers, give_up_rights(memory_mb))
        while (request := receive(requests)) is not None:
            options, content = request
            number = options.pop("number")
            _allow_cpu(cpu_seconds)
            fields, text = _answer(options, content)
            if _memory_is_used_up():
                raise MemoryError
            send(answers, {**fields, "number": number}, text)
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes for messages alone; what a parser prints goes to standard error."""
    requests, answers = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # Left open until the process ends: then whoever reads its end can tell the exit code.
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb", closefd=False)


def _answer(options: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        asked = Options(**options.pop("options"))
        fields = asdict(parse_document(content, options=asked, **options))
        attached = fields["attachments"]
        body = [fields.pop("text").encode(), *(one["content"] for one in attached)]
        fields["attachments"] = [
            [one["name"], one["media_type"], len(one["content"])] for one in attached
        ]
        return fields, b"".join(body)
    except RagError as error:
        kind = type(error).__name__
        return {"error": kind, "message": error.message, "hint": error.hint}, b""
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the program's fault; its parent raises it
        traceback.print_exc()
        message = f"Parsing failed: {type(error).__name__}: {error}"
        return {"error": "RagError", "message": message, "hint": "The log says where."}, b""


def _memory_is_used_up() -> bool:
    """Whether allocations are likely to have failed: libraries hide it, and lose text.

    Never on macOS, which limits no memory.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATUS.exists():
        return False
    peak = _PEAK.search(_STATUS.read_text())
    return peak is not None and int(peak[1]) * 1024 > _USED_UP * limit


def _allow_cpu(seconds: int) -> None:
    """Let the kernel end this process after so many more seconds of CPU time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = within(math.ceil(time.process_time()) + seconds, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


if __name__ == "__main__":
    main()
