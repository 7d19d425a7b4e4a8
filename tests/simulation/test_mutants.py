"""Rules switched off one by one: a simulator that stops catching one of them has become useless.

Every day another share of them; `python -m tests.simulation --mutants` tries all.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.simulation.mutants import RULES, hunt

DAY = int(os.environ.get("SIMULATION_DAY", time.time() // 86_400))
SLOW = ("R4-some-members",)
"""It takes a minute of a core: only in CI."""

SHARE = 8 if "CI" in os.environ else 4
NAMES = [name for name in sorted(RULES) if "CI" in os.environ or name not in SLOW]
TODAY = [NAMES[(DAY * SHARE + index) % len(NAMES)] for index in range(SHARE)]


@pytest.mark.parametrize("name", TODAY)
def test_a_missing_rule_is_caught(name: str) -> None:
    """Section 5: frequent ones by random worlds, rare ones by worlds that concentrate on them."""
    rule = RULES[name]
    tried, words = hunt(rule)
    assert words, f"{rule.text}: not one of {tried} histories shows it"
