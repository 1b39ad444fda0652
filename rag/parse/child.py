"""Parsing in child processes: a file that crashes its parser, or keeps it busy for ever, costs a
child and not the process that holds stores and models.

`rag.parse.limited` runs in the child. What it answers is checked like any input: it has parsed
untrusted bytes.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from rag import errors
from rag.errors import Cancelled, InvalidInput, MalformedDocument, NotFound, ParseLimit, RagError
from rag.objects import digest
from rag.parse.limited import OUT_OF_MEMORY
from rag.parse.messages import SIZES, exchange, read_rest
from rag.parse.options import Options
from rag.sources import file_size, too_large
from rag.types import Attachment, Document
from rag.work import current_work

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-B", "-P", "-m", "rag.parse.limited")

_START_SECONDS = 60.0
_START_BYTES = 2**16
_FILE_PIECE = 2**20  # bytes of a file that are in memory at once
_KEPT_OUTPUT = 4096  # last bytes of a child's standard error
_MAX_MESSAGE = 2000  # characters of a message in an error
_MAX_NAME = 255  # characters of an attachment's name, or its media type
_File = tuple[str, str, Annotated[int, Field(ge=0)]]  # an attachment's name, media type and size
_FILES = TypeAdapter(list[_File])
_DOCUMENT = TypeAdapter(Document)
_ERRORS = {"RagError": RagError} | {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, InvalidInput)
}

Answer = Document | RagError


@dataclass(frozen=True, slots=True)
class Limits:
    """What parsing one document may take. Whoever takes more is killed."""

    file_bytes: int
    memory_mb: int  # address space of a child
    cpu_seconds: int
    wall_seconds: float
    output_mb: int  # of the text with its headings
    reuse: int  # documents that a child parses before a new one takes its place


class ParserPool:
    """Up to `processes` children, each parsing one document at a time. Thread-safe.

    They start when they are needed and stay for the documents after.
    """

    def __init__(
        self, limits: Limits, *, processes: int = 1, command: Sequence[str] = COMMAND
    ) -> None:
        self._limits = limits
        self._command = (*command, str(limits.memory_mb), str(limits.cpu_seconds))
        self._processes = processes
        self._turns = threading.Semaphore(processes)
        self._guard = threading.Lock()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closed = False
        # Linux kills a child when the thread that started it ends: this one stays.
        self._starter = ThreadPoolExecutor(1, "parser-starter")

    def parse(
        self,
        content: bytes | Path,
        *,
        name: str,
        media_type: str | None = None,
        title: str | None = None,
        max_chars: int = 10_000_000,
        options: Options = Options(),  # noqa: B008 - frozen
    ) -> Document:
        """What `parse_document` makes of bytes or of a file, or the error that it raises.

        Raises ParseLimit above a limit, MalformedDocument when the parser crashed, TooLarge for a
        file that is too large, NotFound for one that cannot be read, Cancelled when the work of
        this thread was.
        """
        asked = _Asked(name, media_type, title, max_chars, options)
        size = _size(content, name, self._limits.file_bytes)
        with self._turns:
            child = self._take()
            if child.documents:
                with suppress(_Doubtful):
                    return self._parse_in(child, content, size, asked)
                child = self._start()
            try:
                return self._parse_in(child, content, size, asked)
            except _Doubtful as doubtful:
                raise doubtful.error from None

    def close(self) -> None:
        """Kill all children; whatever they were parsing raises Cancelled."""
        with self._guard:
            self._closed = True
            self._idle.clear()
            for child in self._children:
                child.kill()
        for _ in range(self._processes):  # until everybody has noticed
            self._turns.acquire()
        self._turns.release(self._processes)
        for child in tuple(self._children):
            self._drop(child)
        self._starter.shutdown()

    def _parse_in(
        self, child: "_Child", content: bytes | Path, size: int, asked: "_Asked"
    ) -> Document:
        cancelled = current_work().cancelled
        forget = cancelled.call(child.kill)
        try:
            answer = child.ask(content, size, asked, self._limits)
        except BaseException as error:
            self._drop(child)
            if self._closed or cancelled.is_set():
                raise Cancelled("Nobody waits for this document any more.") from None
            _log_failure(child, asked.name, error)
            raise
        finally:
            forget()
        if type(answer) is RagError:
            _log_failure(child, asked.name, answer)
        self._put_back(child)
        if isinstance(answer, RagError):
            raise answer
        return answer

    def _take(self) -> "_Child":
        """A child that waits, or a new one."""
        while True:
            with self._guard:
                if self._closed:
                    raise Cancelled("The parsers are closed.")
                child = self._idle.pop() if self._idle else None
            if child is None:
                return self._start()
            if child.is_quiet():
                return child
            self._drop(child)

    def _start(self) -> "_Child":
        child = self._starter.submit(_Child, self._command).result()
        with self._guard:
            self._children.add(child)
            if self._closed:
                child.kill()
        return child

    def _put_back(self, child: "_Child") -> None:
        with self._guard:
            if not self._closed and child.documents < self._limits.reuse:
                self._idle.append(child)
                return
        self._drop(child)

    def _drop(self, child: "_Child") -> None:
        child.close()
        with self._guard:
            self._children.discard(child)


@dataclass(frozen=True, slots=True)
class _Asked:
    """The arguments of `parse_document` but the bytes."""

    name: str
    media_type: str | None
    title: str | None
    max_chars: int
    options: Options


class _Doubtful(Exception):
    """The child crashed or ran out of memory: `error` says so.

    Where it had parsed others before, one of them may be to blame; a new child tells.
    """

    def __init__(self, error: RagError) -> None:
        super().__init__(str(error))
        self.error = error


class _Child:
    """A child process and the pipes to it. For one thread at a time, but for `kill`.

    Raises RagError when it does not start.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.documents = 0
        self._wrote = b""
        self._reaping = threading.Lock()
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is not for it, and `kill` reaches what it forks
            )
        except OSError as error:
            raise RagError(f"A parser cannot be started: {error}.") from error
        self.pid = self._process.pid
        requests, answers, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert requests is not None
        assert answers is not None
        assert stderr is not None
        self._pipes = requests, answers, stderr
        os.set_blocking(requests.fileno(), False)
        try:
            held, _ = self._exchange(iter(()), _START_BYTES, _START_SECONDS)
        except Exception as error:
            self.close()
            raise RagError("A parser did not start.", hint=self.last_words()) from error
        log.info("parser %d started, with %s", self.pid, ", ".join(json.loads(held)))

    def ask(self, content: bytes | Path, size: int, asked: _Asked, limits: Limits) -> Answer:
        """Have it parse a document. After any error that is raised, it is to be closed.

        Raises ParseLimit, InvalidInput and NotFound for a file that changed, _Doubtful.
        """
        self.documents += 1
        self._wrote = b""
        name = asked.name or "The file"
        header = json.dumps({**asdict(asked), "number": self.documents}).encode()
        request = chain((SIZES.pack(len(header), size), header), _pieces(content, size))
        output = limits.output_mb * 2**20
        try:
            most = output + asked.options.attachment_bytes
            answered = self._exchange(request, most, limits.wall_seconds)
            return _answer(*answered, self.documents, asked, output)
        except TimeoutError:
            took = f"{name} took more than {limits.wall_seconds:g} s to read."
            raise ParseLimit(took, hint="Split it, or raise RAG_PARSE_WALL_SECONDS.") from None
        except OverflowError:
            became = f"{name} became more than {limits.output_mb} MB of text."
            raise ParseLimit(became, hint="Split it, or raise RAG_PARSE_OUTPUT_MB.") from None
        except (EOFError, ValueError, TypeError, RecursionError) as error:
            raise self._cause_of_death(name, limits) from error

    def is_quiet(self) -> bool:
        """Whether it waits: one that died, or speaks out of turn, has something to be read."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipes[1], selectors.EVENT_READ)
            return not selector.select(0)

    def kill(self) -> None:
        """Kill it, from whichever thread."""
        with self._reaping:
            if self._process.returncode is None:
                with suppress(ProcessLookupError, PermissionError):  # it is dead already
                    os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> int:
        """Kill and reap it. Returns its exit code, negative for a signal."""
        self.kill()
        with self._reaping:
            code = self._process.wait()
        if not self._pipes[2].closed:
            self._keep(read_rest(self._pipes[2]))
        for pipe in self._pipes:
            pipe.close()
        return code

    def last_words(self) -> str:
        """The end of what it wrote about its last document, on one line of printable characters."""
        lines = self._wrote.decode(errors="replace").splitlines()
        return " | ".join(line if line.isprintable() else ascii(line) for line in lines)

    def _cause_of_death(self, name: str, limits: Limits) -> ParseLimit | _Doubtful:
        code = self.close()
        if code == -signal.SIGXCPU:
            took = f"{name} took more than {limits.cpu_seconds} s of CPU time to read."
            return ParseLimit(took, hint="Split it, or raise RAG_PARSE_CPU_SECONDS.")
        if code == OUT_OF_MEMORY:
            needed = f"{name} needed more than {limits.memory_mb} MB of memory to be read."
            hint = "Split it, or raise RAG_PARSE_MEMORY_MB."
            return _Doubtful(ParseLimit(needed, hint=hint))
        how = signal.strsignal(-code) if code < 0 else f"exit code {code}"
        crashed = f"The parser crashed on {name} ({how})."
        hint = "Open it in the program that made it and save it again."
        return _Doubtful(MalformedDocument(crashed, hint=hint))

    def _exchange(self, request: Iterator[bytes], most: int, seconds: float) -> tuple[bytes, bytes]:
        return exchange(*self._pipes, request=request, most=most, seconds=seconds, keep=self._keep)

    def _keep(self, written: bytes) -> None:
        self._wrote = (self._wrote + written)[-_KEPT_OUTPUT:]


def _log_failure(child: _Child, name: str, error: BaseException) -> None:
    log.warning("parser %d, with %r: %r %s", child.pid, name, str(error), child.last_words())


def _environment() -> dict[str, str]:
    """To import what this process would, with libraries that start no threads."""
    folders = (str(Path(folder).absolute()) for folder in sys.path)
    return {
        "PYTHONPATH": os.pathsep.join(folders),
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_THREAD_LIMIT": "1",
    }


def _size(content: bytes | Path, name: str, most: int) -> int:
    if isinstance(content, Path):
        return file_size(content, most)
    if len(content) > most:
        raise too_large(name, len(content), most)
    return len(content)


def _pieces(content: bytes | Path, size: int) -> Iterator[bytes]:
    """The content; a file is never in memory as a whole. Raises NotFound, InvalidInput."""
    if isinstance(content, bytes):
        yield content
        return
    try:
        with content.open("rb") as file:
            while size > 0:
                piece = file.read(min(size, _FILE_PIECE))
                if not piece:
                    raise InvalidInput(f"{content} became shorter while it was read.")
                size -= len(piece)
                yield piece
    except OSError as error:
        raise NotFound(f"{content} cannot be read: {error.strerror}.") from error


def _answer(header: bytes, body: bytes, number: int, asked: _Asked, output: int) -> Answer:
    """What a child answered.

    Raises ValueError, TypeError or RecursionError for nonsense, OverflowError for more text than
    `output` bytes.
    """
    fields = json.loads(header)
    if not isinstance(fields, dict) or fields.get("number") != number:
        raise ValueError("It answered something else.")
    if "error" in fields:
        kind = _ERRORS.get(fields["error"])
        if kind is None:
            raise ValueError("Parsers raise no such error.")
        message, hint = str(fields.get("message")), str(fields.get("hint"))
        return kind(message[:_MAX_MESSAGE], hint=hint[:_MAX_MESSAGE])
    files = _FILES.validate_python(fields.pop("attachments", []))
    end = len(body) - sum(size for _, _, size in files)
    _check_files(files, end, asked.options)
    if len(header) + end > output:
        raise OverflowError
    text = str(memoryview(body)[:end], "utf8")
    attachments = _attachments(files, body, end)
    document = _DOCUMENT.validate_python({**fields, "text": text, "attachments": attachments})
    offsets = (*document.pages, *(heading.start for heading in document.headings))
    if len(text) > asked.max_chars or any(not 0 <= offset <= len(text) for offset in offsets):
        raise ValueError("Offsets or text are too long.")
    return document


def _check_files(files: Sequence[_File], end: int, options: Options) -> None:
    """Raise ValueError for attachments that were not allowed."""
    if len(files) > options.max_attachments or sum(f[2] for f in files) > options.attachment_bytes:
        raise ValueError("There is more attached than was allowed.")
    if end < 0:
        raise ValueError("The attachments are longer than what came.")
    for name, media_type, _ in files:
        for word in (name, media_type):
            if not (0 < len(word) <= _MAX_NAME and word.isprintable()):
                raise ValueError("An attachment's name is none.")


def _attachments(files: Sequence[_File], body: bytes, at: int) -> tuple[Attachment, ...]:
    attachments = []
    for name, media_type, size in files:
        content = body[at : at + size]
        attachments.append(Attachment(name, media_type, digest(content), content))
        at += size
    return tuple(attachments)
