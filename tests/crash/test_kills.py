"""Kill the process at any instant: every accepted document is whole, every other one absent."""

import os
import sys

import pytest

from tests.crash.harness import MIGRATION_POINTS, POINTS, Violation, kills

KILLS = int(os.environ.get("RAG_SOAK_KILLS", "12"))
STEPS = POINTS + MIGRATION_POINTS
EVERY_STEP = 3 * len(STEPS) <= 2 * KILLS  # every third kill is at a random instant


def test_nothing_is_lost_doubled_or_half_visible(tmp_path, capsys):
    at = None if EVERY_STEP else STEPS[:: -(-len(STEPS) // KILLS)]
    died = kills(tmp_path / "data", KILLS, seed=KILLS, at=at)
    with capsys.disabled():
        sys.stdout.write("\n" + "".join(f"{n:4} {where}\n" for where, n in sorted(died.items())))
    assert died.total() == KILLS
    assert set(at or STEPS) <= set(died)  # no step without a kill


@pytest.mark.parametrize(
    ("how", "at"),
    [
        # Half a new version is there; only the catalog hides it.
        ("no catalog check", ["before flip", "after upsert"]),
        # Nothing of a document is there; a search must fall into it, so that flips have to happen.
        ("purge before flip", ["after flip", "after purge points"]),
    ],
)
def test_the_proof_notices_what_it_is_about(tmp_path, how, at):
    with pytest.raises(Violation):
        kills(tmp_path / "data", 8, seed=1, sabotage=how, at=at)
