"""Long collections happen once."""

import gc

import pytest

from services import pauses
from services.pauses import LONG_SECONDS, SurvivorsFrozen


@pytest.fixture(autouse=True)
def _thawed():
    yield
    gc.unfreeze()


def collected(seconds: float, generation: int) -> int:
    """Objects frozen by a collection that took so long."""
    gc.unfreeze()
    times = iter([10.0, 10.0 + seconds])
    hook = SurvivorsFrozen(clock=lambda: next(times))
    hook("start", {"generation": generation})
    hook("stop", {"generation": generation})
    return gc.get_freeze_count()


def test_what_survived_a_long_full_collection_is_not_looked_through_again():
    assert collected(2 * LONG_SECONDS, generation=2) > 1000  # modules, at the least


def test_a_short_one_freezes_nothing():
    assert collected(LONG_SECONDS / 2, generation=2) == 0


def test_a_young_generation_is_never_frozen():
    times = iter([10.0])  # its end is not even timed
    hook = SurvivorsFrozen(clock=lambda: next(times))
    hook("start", {"generation": 0})
    hook("stop", {"generation": 0})
    assert gc.get_freeze_count() == 0


def test_the_garbage_collector_calls_it(monkeypatch):
    monkeypatch.setattr(pauses, "LONG_SECONDS", -1.0)
    hook = SurvivorsFrozen()
    gc.callbacks.append(hook)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(hook)
    assert gc.get_freeze_count() > 1000
