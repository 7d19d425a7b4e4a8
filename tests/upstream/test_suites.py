"""Frameworks' own suites have the same outcomes with our sessions as with theirs, test by test.

Starlette's always, of the others one every day; `python -m tests.upstream.suite` runs any.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.upstream.suite import compare, passed, suites

DAY = int(os.environ.get("SUITES_DAY", time.time() // 86_400))

LEAST = {"starlette": 29, "flask": 480, "flask-login": 110, "flask-wtf": 80, "django": 1050}
"""How many tests there are at least: fewer would mean that some did not run."""

OTHERS = [name for name in LEAST if name != "starlette"]
TODAY = ["starlette", OTHERS[DAY % len(OTHERS)]]


@pytest.mark.network
@pytest.mark.slow
def test_the_frameworks_own_suites_know_no_difference() -> None:
    for name, compared in compare(suites(TODAY)).items():
        assert compared.wrong == [], name
        assert passed(compared.ours) >= LEAST[name]
