"""What all tests share: no settings from outside, and programs that some tests drive."""

from __future__ import annotations

import os
import shutil

import pytest


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> None:
    """Tests say what they set; a developer's own SESSIONHA_* variables would mix in."""
    for name in [name for name in os.environ if name.startswith("SESSIONHA_")]:
        del os.environ[name]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("wrk")`: skipped where the program is absent, but never in CI."""
    for mark in item.iter_markers("needs"):
        absent = [program for program in mark.args if shutil.which(program) is None]
        if absent and os.environ.get("CI") == "true":
            pytest.fail(f"{', '.join(absent)} must be installed in CI", pytrace=False)
        elif absent:
            pytest.skip(f"{', '.join(absent)} is not installed")
