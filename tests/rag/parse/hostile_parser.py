"""The program of a parser's child with a text parser that does what the text says, `do ...`.

Run as a script, in place of `-m rag.parse.limited`.
"""

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from rag.errors import ParseError
from rag.parse import limited, text
from rag.parse.messages import SIZES, send

C = ctypes.CDLL(None)
kept = []
sending = [send]


def spin(_):
    while True:
        pass


def work(draft, seconds):
    end = time.process_time() + float(seconds)
    while time.process_time() < end:
        pass
    tell(draft, "pid")


def wait(_):
    threading.Event().wait()


def meet(draft, fifo):
    """Tell the pid through a FIFO and stay for ever; only its end closes the FIFO."""
    hold(draft, fifo)
    wait(draft)


def hold(draft, fifo):
    """As `meet`, but the document is done."""
    kept.append(os.open(fifo, os.O_WRONLY))
    os.write(kept[-1], b"%d\n" % os.getpid())
    draft.paragraph("held")


def allocate(_):
    while True:
        kept.append(bytearray(2**20))


def allocate_at_once(_):
    kept.append(bytearray(2**40))


def segfault(_):
    ctypes.string_at(0)


def complain_and_crash(draft):
    sys.stderr.write("it\nhurts \x1b[31m\n")
    sys.stderr.flush()
    segfault(draft)


def leave(_, code):
    os._exit(int(code))


def swell(draft):
    draft.paragraph("swollen")
    draft.metadata["swollen"] = "x" * 2 * 2**20


def attach(draft, count, size):
    """Attach more than a parser may: the draft does not count."""
    draft.paragraph("attached")
    for number in range(int(count)):
        draft.attach(f"{number}.bin", "application/octet-stream", bytes(int(size)))


def print_much(draft):
    for _ in range(100):
        sys.stdout.write("x" * 10_000)
    sys.stderr.write("y")
    draft.paragraph("printed")


def print_for_ever(_):
    while True:
        sys.stdout.write("x" * 10_000)


def dial(_):
    socket.create_connection(("127.0.0.1", 9))


def dial_natively(draft):
    draft.paragraph(f"socket {C.socket(socket.AF_INET, socket.SOCK_STREAM, 0)}")


def write(_, path):
    Path(path).write_bytes(bytes(10_000_000))


def fork(_):
    os.fork()


def fork_natively(draft):
    child = C.fork()
    if child == 0:
        wait(draft)
    draft.paragraph(f"fork {child}")


def run(_):
    subprocess.run(["/bin/true"], check=True)


def start_threads(draft):
    thread = threading.Thread(target=draft.paragraph, args=["from a thread"])
    thread.start()
    thread.join()


def crash_next(draft):
    """Do well, and leave behind what the next document trips over."""
    kept.append("trap")
    draft.paragraph("laid")


def leave_after(draft):
    limited.receive = lambda _: os._exit(1)
    draft.paragraph("left")


def answer_twice(draft):
    sending.append(lambda *message: [send(*message) for _ in range(2)])
    draft.paragraph("twice")


def answer_nonsense(_):
    sending.append(lambda stream, *_: send(stream, []))


def answer_endlessly(_):
    sending.append(lambda stream, *_: (stream.write(SIZES.pack(2**60, 0)), stream.flush()))


def raise_unknown_error(_):
    raise type("KeyringLeak", (ParseError,), {})("unknown")


def fail_inside(_):
    raise NameError("no such name")


def tell(draft, what):
    told = {
        "pid": os.getpid(),
        "environment": " ".join(sorted(os.environ)),
        "modules": " ".join(sorted(sys.modules)),
    }
    draft.paragraph(str(told[what]))


def parse_text(data, draft):
    if "trap" in kept:
        segfault(draft)
    first, *words = data.decode("utf8", "replace").split()
    if first == "do":
        globals()[words[0]](draft, *words[1:])
    else:
        plain(data, draft)


if __name__ == "__main__":
    plain, text.parse_text = text.parse_text, parse_text
    limited.send = lambda *message: sending[-1](*message)
    limited.main()
