"""Which server has a data folder open: it says so in a file there, as long as it listens."""

import json
import logging
import os
import ssl
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx

log = logging.getLogger(__name__)

FILE = "server.json"
PROBE_SECONDS = 2.0
EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # listened on, but nothing to connect to


@dataclass(frozen=True, slots=True)
class Running:
    """A server. `nonce` tells it from a later one on the same port; `certificate` is a file, empty
    for one that does not speak TLS.
    """

    url: str
    pid: int
    started: str
    nonce: str
    certificate: str = ""


def announce(data: Path, host: str, port: int, nonce: str, certificate: Path | None = None) -> None:
    """Say that this process serves a data folder, at an address that it listens on.

    Where that cannot be written the server serves all the same, only nobody finds it.
    """
    reachable = EVERYWHERE.get(host, host)
    where = f"[{reachable}]" if ":" in reachable else reachable
    now = datetime.now(UTC).isoformat(timespec="seconds")
    scheme, file = ("https", str(certificate.resolve())) if certificate else ("http", "")
    made = Running(f"{scheme}://{where}:{port}", os.getpid(), now, nonce, file)
    # Renamed into place: whoever reads it finds all of it or nothing.
    aside = data / f"{FILE}.{nonce}"
    try:
        aside.write_text(json.dumps(asdict(made)), "utf8")
        aside.replace(data / FILE)
    except OSError as error:
        log.warning("commands will not find this server: %s", error)


def withdraw(data: Path, nonce: str) -> None:
    """Take back what this server said, and leave alone what another says."""
    found = _read(data)
    if found is not None and found.nonce == nonce:
        with suppress(OSError):  # nobody will answer there
            (data / FILE).unlink()


def find(data: Path) -> str | None:
    """The base URL of the server that has a data folder open; None when none answers.

    A file that a killed server left is recognised: nobody answers there, or somebody else does.
    """
    found = _read(data)
    if found is None:
        return None
    with suppress(httpx.HTTPError, OSError, ValueError, AttributeError):
        verify = trusted(data, found.url)
        answer = httpx.get(
            f"{found.url}/healthz", timeout=PROBE_SECONDS, trust_env=False, verify=verify
        )
        if answer.json().get("nonce") == found.nonce:
            return found.url
    return None


def trusted(data: Path, url: str) -> ssl.SSLContext | bool:
    """What proves the server at a URL: its own certificate for the one that has the data folder
    open, whatever name that is for, since it is asked by its address; else one that is trusted.
    """
    found = _read(data)
    if found is None or not found.certificate or url.rstrip("/") != found.url:
        return True
    context = ssl.create_default_context(cafile=found.certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the end of a chain will do
    return context


def _read(data: Path) -> Running | None:
    try:
        return Running(**json.loads((data / FILE).read_text("utf8")))
    except (OSError, ValueError, TypeError):  # none, or what some other program wrote
        return None
