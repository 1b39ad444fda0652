"""Converted models on disk: made once, checked on every use, shared by all processes.

One folder per key: the converted files and `manifest.json` (the key, size and hash of each file,
what was measured after the conversion). The manifest is written last and the folder appears in one
rename, so there is a whole one or none. What is torn, tampered with or made from another key is
made again.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rag.disk import sync
from rag.errors import ModelUnavailable
from rag.models.load import blocks

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class NotConvertible(Exception):
    """A model cannot run on this engine; the message says why. Another engine takes it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified folder, and what its build returned."""

    path: Path
    record: dict[str, Any]


def default_cache() -> Path:
    """Where this user's caches belong."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ragstone"
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ragstone"


def library_versions(*names: str) -> str:
    """`torch 2.13.0, openvino 2026.4.1`: part of a key, so that an upgrade converts again."""
    return ", ".join(f"{name} {version(name)}" for name in names)


def open_or_build(
    cache: Path, key: Mapping[str, str], build: Callable[[Path], dict[str, Any]]
) -> Entry:
    """The folder of a key, built when it is not there whole.

    `build` writes files into an empty folder and returns what to remember with them, as JSON. One
    process builds, others wait for it. Raises `ModelUnavailable` when the cache cannot be written.
    """
    folder = _folder(cache, key)
    if (entry := find(cache, key)) is not None:
        return entry
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_name(folder.name + ".lock")):
            # Another process may have built it while this one waited.
            return find(cache, key) or _build(folder, key, build)
    except OSError as error:
        raise ModelUnavailable(
            f"The converted model cannot be kept in {cache}: {error}.",
            hint="Free some space there, or set RAG_CACHE to another folder.",
        ) from error


def find(cache: Path, key: Mapping[str, str]) -> Entry | None:
    """The folder of a key if it is there and whole; None, and a warning, when it is not whole."""
    folder = _folder(cache, key)
    if not folder.exists():
        return None
    if (problem := _problem(folder, key)) is not None:
        log.warning("the converted model in %s is not used: %s", folder, problem)
        return None
    return Entry(folder, _manifest(folder)["record"])


def entries(cache: Path) -> Iterator[tuple[Mapping[str, str], Entry]]:
    """What a cache holds: keys and folders, those that are not whole left out."""
    for manifest in sorted(cache.glob(f"*/{MANIFEST}")):
        try:
            key = _manifest(manifest.parent)["key"]
        except (OSError, ValueError, KeyError):
            continue  # `find` says so to whoever wants to use it
        if _folder(cache, key) == manifest.parent and (entry := find(cache, key)) is not None:
            yield key, entry


def _build(folder: Path, key: Mapping[str, str], build: Callable[[Path], dict[str, Any]]) -> Entry:
    # Nobody else holds the lock, so what is left of an earlier attempt is nobody's.
    for rest in folder.parent.glob(f"{folder.name}.part*"):
        shutil.rmtree(rest, ignore_errors=True)
    part = folder.with_name(f"{folder.name}.part{os.getpid()}")
    part.mkdir()
    try:
        record = build(part)
        _write_manifest(part, key, record)
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Entry(folder, record)


def _folder(cache: Path, key: Mapping[str, str]) -> Path:
    canonical = json.dumps(dict(key), sort_keys=True).encode()
    name = Path(key.get("model", "model")).name or "model"
    return cache / f"{name}-{hashlib.sha256(canonical).hexdigest()[:16]}"


def _problem(folder: Path, key: Mapping[str, str]) -> str | None:
    """Why a folder cannot be used, None when it can."""
    try:
        manifest = _manifest(folder)
        if manifest["key"] != dict(key):
            return "it was made for something else"
        for name, expected in manifest["files"].items():
            if _describe(folder / name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it is not complete ({error})"
    return None


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError(f"{MANIFEST} holds no object")
    return manifest


def _write_manifest(folder: Path, key: Mapping[str, str], record: dict[str, Any]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    manifest = {"key": dict(key), "files": files, "record": record}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), "utf-8")
    for path in (*paths, folder / MANIFEST, folder):
        sync(path)


def _describe(path: Path) -> dict[str, object]:
    """Size and hash; of a file above 256 MiB the hash of 64 blocks, evenly spread."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    for block in blocks(path, size):
        digest.update(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock across processes; the system lets it go when its holder dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process is converting this model; waiting for it")
            started = time.monotonic()
            fcntl.flock(file, fcntl.LOCK_EX)
            log.info("waited %.0f s for another process's conversion", time.monotonic() - started)
        yield
