"""Random worlds: whatever fails, nothing acknowledged is lost and nothing destroyed returns."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.histories import EVERYTHING, Plan, history
from tests.simulation.loop import run
from tests.simulation.seeds import kept_seeds

TRACE = """
import hashlib
from tests.simulation.histories import EVERYTHING, Plan, history
from tests.simulation.loop import run
world = run(history(7, Plan(engines=2, width=2, troubles=EVERYTHING, upkeep=True)))
print(hashlib.sha256("\\n".join(world.lines).encode()).hexdigest())
"""


@pytest.mark.parametrize(("seed", "plan"), kept_seeds())
def test_a_world_that_failed_once_passes(seed: int, plan: Plan) -> None:
    run(history(seed, plan))


@pytest.mark.parametrize("seed", range(8))
def test_crashes_lose_nothing_acknowledged(seed: int) -> None:
    """G1, G2, G4, G5, G6 with one crash at a time: every read is current."""
    run(history(1000 + seed, Plan(engines=1 + seed % 2, width=1 + seed % 3, lossy=0.1)))


@pytest.mark.parametrize("seed", range(8))
def test_no_kind_of_trouble_loses_anything_acknowledged(seed: int) -> None:
    """G1 to G7 with pauses, exclusions, cuts, dead engines, restarts and lost responses."""
    run(
        history(
            2000 + seed,
            Plan(engines=2, width=1 + seed % 3, troubles=EVERYTHING, lossy=0.1, upkeep=True),
        )
    )


@pytest.mark.parametrize("seed", range(4))
def test_two_backups_survive_two_crashes_at_once(seed: int) -> None:
    """G1 with k = 2 on five nodes."""
    run(history(3000 + seed, Plan(nodes=5, backups=2, width=2)))


def test_one_seed_is_one_world() -> None:
    """The same seed gives the same trace, also where Python's hashes differ."""
    digests = {_trace(str(seed)) for seed in (1, 2)}
    plan = Plan(engines=2, width=2, troubles=EVERYTHING, upkeep=True)
    lines = run(history(7, plan)).lines
    assert digests == {hashlib.sha256("\n".join(lines).encode()).hexdigest()}


def _trace(hashes: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", TRACE],
        env={**os.environ, "PYTHONHASHSEED": hashes},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
