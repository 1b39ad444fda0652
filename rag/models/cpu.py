"""How models run on the CPU: what the settings decide, in one value."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rag.models.cache import default_cache
from rag.models.parity import Thresholds

log = logging.getLogger(__name__)

Precision = Literal["f32", "bf16", "int8"]
PrecisionChoice = Literal["auto", "f32", "bf16", "int8"]
OnProgress = Callable[[str], None]


def say(message: str) -> None:
    """Progress that goes to the log."""
    log.info("%s", message)


@dataclass(frozen=True, slots=True)
class Cpu:
    """Precision, threads (0: one per core), and where converted models are kept and how trusted."""

    cache: Path = field(default_factory=default_cache)
    precision: PrecisionChoice = "auto"
    threads: int = 0
    thresholds: Thresholds = field(default_factory=Thresholds)
    on_progress: OnProgress = say
