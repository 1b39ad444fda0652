"""Kill the process at any instant: every accepted document is whole, every other one absent."""

import os
import sys

import pytest

from tests.crash.harness import MIGRATION_POINTS, POINTS, Violation, kills

KILLS = int(os.environ.get("RAG_SOAK_KILLS", "12"))


def test_nothing_is_lost_doubled_or_half_visible(tmp_path, capsys):
    died = kills(tmp_path / "data", KILLS, seed=KILLS)
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(f"{n:4} {where}\n" for where, n in sorted(died.items())))
    assert died.total() == KILLS
    steps = POINTS + MIGRATION_POINTS
    if 3 * len(steps) <= 2 * KILLS:
        assert set(steps) <= set(died)  # no step without a kill


def test_a_migration_ends_wherever_it_is_killed(tmp_path):
    at = ["after make a copy live", "before exchange", "after exchange", "after drop vectors"]
    assert kills(tmp_path / "data", len(at), seed=3, at=at) == dict.fromkeys(at, 1)


def test_a_backup_that_was_killed_is_refused_and_stops_nothing(tmp_path):
    """Those that were not hold what was promised when they began: the last one is put back."""
    steps = ("after hold for a backup", "before back up points", "before name a backup")
    assert kills(tmp_path / "data", len(steps), seed=5, at=[*steps]).total() == len(steps)


@pytest.mark.parametrize("how", ["no catalog check", "purge before flip"])
def test_the_proof_notices_what_it_is_about(tmp_path, how):
    """Killed between upsert and flip, half a new version is there; only the catalog hides it."""
    with pytest.raises(Violation):
        kills(tmp_path / "data", 8, seed=1, sabotage=how, at=["before flip", "after upsert"])
