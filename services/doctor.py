"""`rag doctor`: what this machine can run, and why."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rag import __version__
from rag.errors import RagError
from rag.models.cache import entries
from rag.models.load import is_available
from rag.parts import open_parts
from rag.settings import LATE_INTERACTION, NO_RERANKER, PROFILES, QUOTE, Settings

WITHOUT_WEIGHTS = frozenset({LATE_INTERACTION, NO_RERANKER, QUOTE})


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at and found. `ok` None is neither good nor bad.

    Nothing runs without what is `needed`.
    """

    name: str
    ok: bool | None
    found: str
    needed: bool = False


def examine(settings: Settings) -> list[Check]:
    """Look at the machine, the models, the data folder and the store."""
    return [
        *_machine(),
        *_profiles(settings),
        *_converted(settings),
        _data(settings),
        _stores(settings),
    ]


def _machine() -> Iterator[Check]:
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    yield Check("ragstone", None, f"{__version__} on {system}")
    yield Check("processor", None, f"{_processor()}, {os.cpu_count()} cores, {_memory()}")
    yield Check("torch", True, _torch(), needed=True)
    yield Check("openvino", True, _openvino(), needed=True)
    packages = ("transformers", "qdrant-client", "qdrant-edge-py")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    yield Check("libraries", None, versions)


def _torch() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"{torch.__version__}, no CUDA device: models run on the CPU"
    gpu = torch.cuda.get_device_properties(0)
    return f"{torch.__version__}, {gpu.name} with {gpu.total_memory / 2**30:.0f} GiB"


def _openvino() -> str:
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    computes = [name for name in ("BF16", "FP16", "INT8") if name in able]
    return f"{importlib.metadata.version('openvino')}, beside f32 natively: {', '.join(computes)}"


def _profiles(settings: Settings) -> Iterator[Check]:
    for name, profile in PROFILES.items():
        models = (profile.embedder, profile.reranker, profile.generator)
        missing = [m for m in models if m not in WITHOUT_WEIGHTS and not is_available(m)]
        found = f"{', '.join(models)}"
        if missing:
            found += f"; not on this machine: {', '.join(missing)} (rag models pull ID)"
        if name == "gpu":
            found += "; made for a CUDA device"
        chosen = " (configured)" if name == settings.profile else ""
        yield Check(f"profile {name}", not missing, found + chosen)


def _converted(settings: Settings) -> Iterator[Check]:
    """The models that OpenVINO runs, and how far each was from torch after its conversion."""
    found = list(entries(settings.cache))
    if not found:
        yield Check("converted models", None, f"none in {settings.cache}: made on first use")
    for key, entry in found:
        if (refused := entry.record.get("refused")) is not None:
            yield Check(
                f"converted {key['model']}", None, f"{key['role']}, runs in torch: {refused}"
            )
            continue
        figures = ", ".join(f"{name} {value:g}" for name, value in entry.record["figures"].items())
        size = sum(path.stat().st_size for path in entry.path.rglob("*")) / 2**20
        precision = entry.record.get("precision", key["precision"])
        what = f"{key['role']} in {precision}, {size:.0f} MiB"
        yield Check(f"converted {key['model']}", None, f"{what}; against torch: {figures}")


def _data(settings: Settings) -> Check:
    folder = settings.data.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= settings.min_free_bytes
    state = "" if folder.exists() else ", made on first use"
    return Check("data folder", enough, f"{folder}{state}, {free / 2**30:.1f} GiB free", True)


def _stores(settings: Settings) -> Check:
    where = settings.qdrant_url or "Qdrant Edge in the process"
    if settings.qdrant_url is None and not settings.data.exists():
        return Check("store", None, f"{where}; nothing ingested yet", True)
    try:
        parts = open_parts(settings)
    except RagError as error:
        return Check("store", False, f"{where}: {error}", True)
    try:
        parts.store.ping()
        return Check("store", True, f"{where}; catalog {settings.catalog_url.split(':')[0]}", True)
    except RagError as error:
        return Check("store", False, f"{where}: {error}", True)
    finally:
        parts.close()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
