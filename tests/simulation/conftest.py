"""Seeds that nobody has tried: in CI new ones every time, told at the end of the run."""

from __future__ import annotations

import os
import random

import pytest

FRESH = 30 if "CI" in os.environ else 0
"""Worlds: about 15 seconds on one core."""

FIRST = int(os.environ.get("SIMULATION_SEED", "0")) or random.SystemRandom().randrange(10**6, 10**9)


@pytest.fixture
def fresh_seeds() -> range:
    """Empty outside CI, where a failure should be of what was changed."""
    return range(FIRST, FIRST + FRESH)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FRESH:
        terminalreporter.write_line(
            f"simulated worlds: seeds {FIRST} to {FIRST + FRESH - 1}"
            f" (again: SIMULATION_SEED={FIRST})"
        )
