"""What all tests share: which worker runs them, nothing from outside, programs that some drive."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.simulation import fresh


def pytest_configure(config: pytest.Config) -> None:
    fresh.choose()
    if hasattr(config, "workerinput"):
        os.setpgid(0, 0)  # else engines under test would take the workers for those of a server


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fresh.FRESH:
        terminalreporter.write_line(fresh.told())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several workers run the tests (`make check`), one of them has all that start servers,
    because clusters beside each other would be too busy to keep their deadlines; these come first,
    as they take longest. Of the others a module stays whole, for the sake of its fixtures."""
    items.sort(key=lambda item: not _starts_servers(item))
    for item in items:
        group = "processes" if _starts_servers(item) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


def _starts_servers(item: pytest.Item) -> bool:
    return item.get_closest_marker("processes") is not None


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> None:
    """Tests say what they set; a developer's own SESSIONHA_* variables would mix in, and what a
    worker is told of the terminal."""
    names = [name for name in os.environ if name.startswith("SESSIONHA_")]
    for name in (*names, "COLUMNS", "LINES"):
        os.environ.pop(name, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("wrk")`: skipped where the program is absent, but never in CI."""
    for mark in item.iter_markers("needs"):
        absent = [program for program in mark.args if shutil.which(program) is None]
        if absent and os.environ.get("CI") == "true":
            pytest.fail(f"{', '.join(absent)} must be installed in CI", pytrace=False)
        elif absent:
            pytest.skip(f"{', '.join(absent)} is not installed")
