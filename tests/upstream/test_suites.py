"""Frameworks' own suites have the same outcomes with our sessions as with theirs, test by test."""

from __future__ import annotations

import pytest

from tests.upstream.suite import compare, passed, suites

LEAST = {"starlette": 29, "flask": 480, "flask-login": 110, "flask-wtf": 80, "django": 1050}
"""How many tests there are at least: fewer would mean that some did not run."""


@pytest.mark.network
@pytest.mark.slow
def test_the_frameworks_own_suites_know_no_difference() -> None:
    for name, compared in compare(suites(LEAST)).items():
        assert compared.wrong == [], name
        assert passed(compared.ours) >= LEAST[name]
