"""How a parser's child and its parent talk: messages through pipes.

A message is the lengths of a JSON header and of a body, then these two. A request is a number, the
options of `parse_document`, and the file; an answer the same number, the fields of a Document and
as body its text and the files attached to it, one behind the other, or an error.
"""

import json
import os
import selectors
import struct
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, BinaryIO

SIZES = struct.Struct(">QQ")  # bytes of the header, bytes of the body
_PIECE = 2**16  # bytes that are read at once


def receive(stream: BinaryIO) -> tuple[Any, bytes] | None:
    """Header and body of the next message, None when there is none any more."""
    sizes = stream.read(SIZES.size)
    if len(sizes) < SIZES.size:
        return None
    header, body = SIZES.unpack(sizes)
    return json.loads(stream.read(header)), stream.read(body)


def send(stream: BinaryIO, fields: Any, body: bytes = b"") -> None:  # noqa: ANN401 - any JSON
    """Write a message."""
    header = json.dumps(fields).encode()
    for part in (SIZES.pack(len(header), len(body)), header, body):
        stream.write(part)
    stream.flush()


def exchange(
    requests: IO[bytes],
    answers: IO[bytes],
    stderr: IO[bytes],
    *,
    request: Iterator[bytes],
    most: int,
    seconds: float,
    keep: Callable[[bytes], None],
) -> tuple[bytes, bytes]:
    """Send a request while the answer comes in; returns the answer's header and body.

    `requests` does not block; what comes from `stderr` goes to `keep`. Raises TimeoutError after so
    many seconds, OverflowError for an answer of more than `most` bytes, EOFError when the other
    side is gone, ValueError for bytes that are no answer.
    """
    deadline = time.monotonic() + seconds
    unsent, received = memoryview(b""), bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_WRITE)
        selector.register(answers, selectors.EVENT_READ)
        selector.register(stderr, selectors.EVENT_READ)
        while len(received) < _length(received, most):
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                if key.fileobj is requests:
                    unsent = unsent or memoryview(next(request, b""))
                    if not unsent:
                        selector.unregister(requests)
                    unsent = unsent[_write(key.fd, unsent) :]
                elif piece := os.read(key.fd, _PIECE):
                    if key.fileobj is answers:
                        received += piece
                    else:
                        keep(piece)
                elif key.fileobj is answers:
                    raise EOFError
                else:
                    selector.unregister(stderr)
    if unsent or next(request, None) is not None:
        raise ValueError("It answered what was not asked yet.")
    return _parts(received)


def read_rest(stderr: IO[bytes]) -> bytes:
    """What a process that has ended left in its pipe."""
    os.set_blocking(stderr.fileno(), False)
    try:
        return os.read(stderr.fileno(), _PIECE)
    except BlockingIOError:
        return b""


def _write(fd: int, unsent: memoryview) -> int:
    try:
        return os.write(fd, unsent)
    except BrokenPipeError:
        raise EOFError from None


def _length(received: bytearray, most: int) -> int:
    """Bytes of the whole message, as far as it says yet."""
    if len(received) < SIZES.size:
        return SIZES.size
    header, body = SIZES.unpack_from(received)
    if header + body > most:
        raise OverflowError
    return SIZES.size + int(header) + int(body)


def _parts(message: bytearray) -> tuple[bytes, bytes]:
    header, body = SIZES.unpack_from(message)
    end = SIZES.size + header
    if len(message) > end + body:
        raise ValueError("There is more than the answer.")
    with memoryview(message) as view:
        return bytes(view[SIZES.size : end]), bytes(view[end:])
