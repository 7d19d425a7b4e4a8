"""What all tests share: which worker runs them, nothing from outside, programs that some drive."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from random import SystemRandom
from typing import Any

import pytest

from tests.simulation import fresh

LIVE = Path(__file__).with_name("live")

LESS = 5
"""How much nicer than live clusters the other tests are beside them."""

HASHES = "PYTHONHASHSEED"

_NICE = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    fresh.choose()
    if hasattr(config, "workerinput"):
        os.setpgid(0, 0)  # else engines under test would take the workers for those of a server
    elif config.getoption("numprocesses", None):  # parameters out of a set: all in one order
        os.environ.setdefault(HASHES, str(SystemRandom().randrange(1, 2**32)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if fresh.FRESH:
        terminalreporter.write_line(fresh.told())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, because who drives servers mostly waits for them; and no more
    than there is work for."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The live tests first, as they take longest, and the others with servers last, when most of
    what computes is done."""
    items.sort(key=lambda item: (not _is_live(item), _starts_servers(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """How several workers share the tests (`make check`): in this order, a module at a time, for
    the sake of its fixtures; and all live clusters on one worker, because beside each other they
    would be too busy to keep their deadlines."""
    from xdist.scheduler import LoadFileScheduling

    class Shared(LoadFileScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            live = nodeid.startswith("tests/live/")
            return "live" if live else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return Shared(config, log)


def _is_live(item: pytest.Item) -> bool:
    return item.path.is_relative_to(LIVE)


def _starts_servers(item: pytest.Item) -> bool:
    return item.get_closest_marker("processes") is not None


@pytest.fixture(autouse=True, scope="session")
def _no_settings_from_outside() -> None:
    """Tests say what they set; a developer's own SESSIONHA_* variables would mix in, and what a
    worker is told of the terminal and of hashes, which are different ones in each server."""
    names = [name for name in os.environ if name.startswith("SESSIONHA_")]
    for name in (*names, "COLUMNS", "LINES", HASHES):
        os.environ.pop(name, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.needs("wrk")`: skipped where the program is absent, but never in CI."""
    config = item.config
    if hasattr(config, "workerinput") and _NICE not in config.stash and not _is_live(item):
        config.stash[_NICE] = True
        os.nice(LESS)
    for mark in item.iter_markers("needs"):
        absent = [program for program in mark.args if shutil.which(program) is None]
        if absent and os.environ.get("CI") == "true":
            pytest.fail(f"{', '.join(absent)} must be installed in CI", pytrace=False)
        elif absent:
            pytest.skip(f"{', '.join(absent)} is not installed")
