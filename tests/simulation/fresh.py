"""Seeds that nobody has tried: in CI new ones every time, told at the end of the run."""

from __future__ import annotations

import os
import random

FRESH = 30 if "CI" in os.environ else 0
"""Worlds: about 15 seconds on one core. None outside CI, where a failure should be of what was
changed."""

_FIRST = "SIMULATION_SEED"


def choose() -> None:
    """Before the workers of a test run start: what one of them tries, another process tells."""
    os.environ.setdefault(_FIRST, str(random.SystemRandom().randrange(10**6, 10**9)))


def seeds() -> range:
    """Those of this run."""
    first = int(os.environ[_FIRST])
    return range(first, first + FRESH)


def told() -> str:
    """Which they are, and how they can be tried again."""
    first = seeds()[0]
    return f"simulated worlds: seeds {first} to {seeds()[-1]} (again: {_FIRST}={first})"
