"""A document from a URL, into a file: bounded in size, time and redirects, from public hosts.

A URL comes from whoever may upload, and the connection is made from inside the operator's network:
without care it reads what only that network may. So a host name is resolved once, every address it
has is checked, and the connection goes to one of these very addresses; TLS still asks for the
host's own name. Redirects are followed here, each checked like the first. No proxy of the
environment is used: it would resolve the name again.
"""

import ipaddress
import re
import socket
import ssl
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import BinaryIO
from urllib.parse import unquote

import httpcore
import httpx

from rag.errors import Cancelled, FetchFailed, InvalidInput, RagError, TooLarge
from rag.work import current_work

SHOWN_CHARS = 200  # of a URL in a message
REDIRECTS = {301, 302, 303, 307, 308}
MAX_URL_CHARS = 8192
_PIECE = 2**16
_EITHER = zlib.MAX_WBITS | 32  # gzip or zlib, as its header says
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ALWAYS = (b"Accept", b"*/*"), (b"Accept-Encoding", b"identity"), (b"User-Agent", b"Ragstone")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What one document from a URL may take."""

    max_bytes: int  # unpacked
    seconds: float  # from the first look-up to the last byte
    redirects: int = 5
    private: bool = False  # whether hosts of the own network may be asked


@dataclass(frozen=True, slots=True)
class Fetched:
    """A document's bytes, in an open file that is deleted when it is closed."""

    file: BinaryIO
    size: int
    name: str
    media_type: str | None


def check_url(url: str) -> httpx.URL:
    """The URL, fit to be asked for. Raises InvalidInput."""
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, ValueError) as error:
        raise InvalidInput(f"{shown(url)} is no URL: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidInput(
            f"{shown(url)} cannot be fetched: only http:// and https:// URLs can.",
            hint="Upload the file itself instead.",
        )
    if parsed.userinfo:
        raise InvalidInput(
            "A URL with a user name or password in it is not fetched: it would be kept with the"
            " document and shown with its citations.",
            hint="Download the file and upload it.",
        )
    if len(url) > MAX_URL_CHARS:
        raise InvalidInput(f"A URL has at most {MAX_URL_CHARS} characters.")
    return parsed.copy_with(fragment=None)


def fetch(url: str, limits: FetchLimits, *, trust: ssl.SSLContext | None = None) -> Fetched:
    """What a URL leads to; the file is the caller's to close.

    Raises InvalidInput for a URL or an address that may not be asked, TooLarge, FetchFailed when
    the other side does not give what it should, Cancelled.
    """
    asked = check_url(url)
    deadline = time.monotonic() + limits.seconds
    network = _CheckedNetwork(limits.private, deadline)
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        with httpcore.ConnectionPool(
            ssl_context=trust or _trusted(), network_backend=network, keepalive_expiry=0
        ) as pool:
            for _ in range(limits.redirects + 1):
                onward = _ask(pool, asked, file, limits.max_bytes, deadline)
                if isinstance(onward, _Answer):
                    size = file.tell()
                    file.seek(0)
                    return Fetched(file, size, onward.name, onward.media_type)
                asked = onward
        raise FetchFailed(f"{shown(url)} redirects more than {limits.redirects} times.")
    except (httpcore.TimeoutException, TimeoutError):
        file.close()
        raise FetchFailed(
            f"{shown(url)} was not there within {limits.seconds:g} s.",
            hint="Try again, download the file and upload it, or raise RAG_FETCH_SECONDS.",
        ) from None
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        file.close()
        if isinstance(error, OSError):
            raise  # of the own disk: those of the network are httpcore's
        raise FetchFailed(f"{shown(str(asked))} cannot be fetched: {error}.") from error
    except BaseException:
        file.close()
        raise


def url_name(url: str) -> str:
    """The file name that a URL ends with, else its host."""
    parsed = httpx.URL(url)
    return _safe(unquote(parsed.path.rstrip("/").rpartition("/")[2])) or parsed.host


def shown(url: str) -> str:
    """A URL as a message shows it: without what it may carry of secrets, and not too long."""
    plain = re.sub(r"//[^/?#]*@", "//", url.partition("?")[0])
    return ascii(plain[:SHOWN_CHARS])


def refused_because(address: Address) -> str:
    """Why nothing at an address may be asked; empty for a public one."""
    inner = _inner(address)
    if inner is not None:
        return refused_because(inner)
    kinds = {
        "loopback": address.is_loopback,
        "link-local": address.is_link_local,
        "multicast": address.is_multicast,
        "unspecified": address.is_unspecified,
        "private": address.is_private,
        "reserved": address.is_reserved or not address.is_global,
    }
    return next((kind for kind, is_so in kinds.items() if is_so), "")


def _inner(address: Address) -> Address | None:
    """The IPv4 address that an IPv6 one stands for, by whichever way to write or reach it."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]


@dataclass(frozen=True, slots=True)
class _Answer:
    name: str
    media_type: str | None


def _ask(
    pool: httpcore.ConnectionPool, url: httpx.URL, file: BinaryIO, most: int, deadline: float
) -> _Answer | httpx.URL:
    """The document, its bytes in the file, or where it has moved to."""
    port = b"" if url.port is None else f":{url.port}".encode()
    host = (b"Host", (b"[%s]" % url.raw_host if b":" in url.raw_host else url.raw_host) + port)
    target = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    with pool.stream("GET", target, headers=[host, *_ALWAYS]) as response:
        headers = httpx.Headers(response.headers)
        if response.status in REDIRECTS and "location" in headers:
            return check_url(str(_joined(url, headers["location"])))
        if response.status != 200:
            raise FetchFailed(
                f"{shown(str(url))} answered with status {response.status}.",
                hint="Ragstone asks without cookies or credentials; upload what needs them.",
            )
        announced = headers.get("content-length", "")
        if announced.isdigit() and int(announced[:20]) > most:
            raise _too_large(url, most)
        pieces = _unpacked(_timely(response.iter_stream(), deadline), headers, url)
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > most:
                raise _too_large(url, most)
            file.write(piece)
    media_type = headers.get("content-type") or None
    return _Answer(_disposition_name(headers) or url_name(str(url)), media_type)


def _joined(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return url.join(location)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchFailed(f"{shown(str(url))} redirects to no URL: {error}.") from None


def _timely(pieces: Iterable[bytes], deadline: float) -> Iterator[bytes]:
    """Pieces of a body while there is time and somebody waits for it."""
    cancelled = current_work().cancelled
    for piece in pieces:
        if cancelled.is_set():
            raise Cancelled("Nobody waits for this document any more.")
        if time.monotonic() > deadline:
            raise TimeoutError
        yield piece


def _unpacked(pieces: Iterable[bytes], headers: httpx.Headers, url: httpx.URL) -> Iterator[bytes]:
    """The body without its Content-Encoding, at most 64 KiB of it in memory."""
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding in ("", "identity"):
        yield from pieces
        return
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise FetchFailed(
            f"{shown(str(url))} comes in an encoding that was not asked for: {coding}."
        )
    unpacker = zlib.decompressobj(_EITHER)
    try:
        for packed in pieces:
            while packed:
                if unpacker.eof:  # what was packed in parts is unpacked in parts
                    unpacker = zlib.decompressobj(_EITHER)
                yield unpacker.decompress(packed, _PIECE)
                packed = unpacker.unconsumed_tail or unpacker.unused_data
        yield unpacker.flush()
    except zlib.error as error:
        raise FetchFailed(f"{shown(str(url))} comes damaged: {error}.") from None
    if not unpacker.eof:
        raise FetchFailed(f"{shown(str(url))} ends too early.")


def _disposition_name(headers: httpx.Headers) -> str:
    return disposition_name(headers.get("content-disposition", ""))


def disposition_name(disposition: str) -> str:
    """The file name of a Content-Disposition, empty where it has none that can be used."""
    extended = re.search(r"filename\*\s*=\s*utf-8''([^;\s]+)", disposition, re.IGNORECASE)
    if extended:
        return _safe(unquote(extended[1]))
    plain = re.search(r'filename\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))', disposition)
    if not plain:
        return ""
    return _safe(re.sub(r"\\(.)", r"\1", plain[1]) if plain[1] is not None else plain[2])


def _safe(name: str) -> str:
    """The last part of a name that a header or a URL gave, empty unless it is printable."""
    last = PurePosixPath(name.replace("\\", "/")).name
    return last if last.isprintable() else ""


def _too_large(url: httpx.URL, most: int) -> TooLarge:
    return TooLarge(
        f"{shown(str(url))} has more than {most / 2**20:.1f} MB.",
        hint="Split it, fetch less at once, or raise RAG_MAX_FILE_BYTES.",
    )


@cache
def _trusted() -> ssl.SSLContext:
    return httpx.create_ssl_context()


class _CheckedNetwork(httpcore.NetworkBackend):
    """Connects to addresses that were checked, and gives every call what is left of the time."""

    def __init__(self, private: bool, deadline: float) -> None:
        self._private = private
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the deadline is what counts
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the host once and connect to one of the addresses that it has.

        Raises InvalidInput when one of them may not be asked.
        """
        failed: Exception = httpcore.ConnectError("it has no address")
        for address in self._addresses(host, port):
            try:
                stream = self._plain.connect_tcp(
                    address, port, _left(self._deadline), local_address, socket_options
                )
                return _TimedStream(stream, self._deadline)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the host {host!r} is not known ({error})") from None
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        for address in addresses if not self._private else ():
            why = refused_because(ipaddress.ip_address(address))
            if why:
                raise InvalidInput(
                    f"Nothing is fetched from {host!r}: its address {address} is {why}.",
                    hint="Upload the file itself, or set RAG_FETCH_PRIVATE=true if everybody who"
                    " may upload may also read what the service's own network holds.",
                )
        return addresses


class _TimedStream(httpcore.NetworkStream):
    """A connection on which no single call takes longer than what is left of the time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        """As the stream does."""
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        """As the stream does."""
        self._stream.write(buffer, _left(self._deadline))

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        """The same connection with TLS, for the name that was asked for."""
        left = _left(self._deadline)
        secured = self._stream.start_tls(ssl_context, server_hostname, left)
        return _TimedStream(secured, self._deadline)

    def close(self) -> None:
        """As the stream does."""
        with suppress(OSError):
            self._stream.close()

    def get_extra_info(self, info: str) -> object:
        """As the stream does."""
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    """Seconds that are left. Raises the timeout that httpcore knows."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("no time is left")
    return left


def named(error: RagError, which: str) -> RagError:
    """The same error, its message saying which document it is about."""
    return type(error)(f"{which}: {error.message}", hint=error.hint)
