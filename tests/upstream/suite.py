"""Runs frameworks' own test suites with their session back end and with ours, and compares.

    python -m tests.upstream.suite NAME…    names are those of versions.toml

Each suite comes from its sdist and runs in a fresh environment with what versions.toml pins; the
first run, with the framework's own back end, is what ours is compared with, test by test. No test
is edited: a plugin exchanges the back end before any is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = Path(__file__).resolve().parent
PATIENCE: Final = 600.0
"""Seconds that one run may take."""


@dataclass(frozen=True)
class Suite:
    """One row of versions.toml."""

    name: str
    sdist: str
    environment: str
    needs: Sequence[str]
    plugin: str
    tests: Sequence[str] = ("tests",)
    """What of the sdist is run."""
    python: str = ""
    """The least Python, such as "3.12", where that is newer than ours."""
    differ: Mapping[str, str] = field(default_factory=dict)

    def command(self, python: Path, whose: str) -> list[str]:
        """What runs the tests; Django has a runner of its own."""
        if self.plugin == "django":
            start = str(HERE / "django" / "start.py")
            options = ["--settings=django_settings", "--parallel=1", "--noinput"]
            return [str(python), start, *options, *self.tests]
        plugins = ["-p", "outcomes", *(["-p", self.plugin] if whose == "ours" else [])]
        return [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *self.tests]


@dataclass(frozen=True)
class Compared:
    """What two runs of a suite have shown."""

    theirs: Mapping[str, str]
    ours: Mapping[str, str]
    differ: Mapping[str, str]

    @property
    def wrong(self) -> list[str]:
        """Tests with another outcome that nobody explains, and explanations that explain none."""
        names = self.theirs.keys() | self.ours.keys()
        other = {name for name in names if self.theirs.get(name) != self.ours.get(name)}
        return sorted(other ^ self.differ.keys())

    def __str__(self) -> str:
        theirs, ours = passed(self.theirs), passed(self.ours)
        return f"{len(self.theirs)} tests: {theirs} pass with theirs, {ours} with ours"


def passed(outcomes: Mapping[str, str]) -> int:
    """How many tests of a run passed."""
    return sum(outcome == "passed" for outcome in outcomes.values())


def suites(names: Iterable[str] = ()) -> list[Suite]:
    """The rows with these names, in their order; all without names."""
    rows: dict[str, dict[str, Any]] = tomllib.loads((HERE / "versions.toml").read_text("utf-8"))
    return [Suite(name, **rows[name]) for name in names or rows]


def interpreter(least: str) -> Path | None:
    """A Python that is at least so new: ours, or the newest on the PATH; None without."""
    minor = int(least.partition(".")[2] or 0)
    if sys.version_info >= (3, minor):
        return Path(sys.executable)
    for name in (f"python3.{number}" for number in range(minor + 9, minor - 1, -1)):
        found = shutil.which(name)
        if found is not None and _runs(found):
            return Path(found)
    return None


def _runs(python: str) -> bool:
    """Version managers have commands of all versions, which only say that one is not chosen."""
    done = subprocess.run([python, "-c", ""], capture_output=True, check=False)
    return done.returncode == 0


def compare(asked: Sequence[Suite]) -> dict[str, Compared]:
    """Run each suite twice; as many things at a time as there are cores."""
    with (
        tempfile.TemporaryDirectory(prefix="sessionha-upstream-") as folder,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        place = Path(folder)
        pythons = {
            name: pool.submit(_environment, place, name)
            for name in dict.fromkeys(suite.environment for suite in asked)
        }
        sdists = {
            suite.sdist: pool.submit(_fetched, place, suite)
            for suite in {suite.sdist: suite for suite in asked}.values()
        }
        ready = [(s, pythons[s.environment].result(), sdists[s.sdist].result()) for s in asked]
        runs = {
            (suite.name, whose): pool.submit(_run, python, suite, sdist, place, whose)
            for suite, python, sdist in ready
            for whose in ("theirs", "ours")
        }
        return {
            suite.name: Compared(
                runs[suite.name, "theirs"].result(), runs[suite.name, "ours"].result(), suite.differ
            )
            for suite in asked
        }


def _environment(place: Path, name: str) -> Path:
    """What any of its suites needs, whichever are run: so the versions are the same each time."""
    sharing = [suite for suite in suites() if suite.environment == name]
    needs = [need for suite in sharing for need in (suite.sdist, *suite.needs)]
    subprocess.run([str(_needed(sharing[0].python)), "-m", "venv", str(place / name)], check=True)
    python = place / name / "bin" / "python"
    _pip(python, "install", "--quiet", *needs, str(ROOT))
    return python


def _needed(least: str) -> Path:
    found = interpreter(least)
    assert found is not None, f"Python {least} or newer must be on the PATH"
    return found


def _fetched(place: Path, suite: Suite) -> Path:
    """The unpacked sdist."""
    name = suite.sdist.partition("==")[0]
    target = place / f"{suite.sdist}-sdist"
    _pip(_needed(suite.python), "download", "--quiet", "--no-deps", "--no-binary", name,
         suite.sdist, "--dest", str(target))  # fmt: skip
    with tarfile.open(next(target.glob("*.tar.gz"))) as archive:
        archive.extractall(target, filter="data")
    return next(path for path in target.iterdir() if path.is_dir())


def _run(python: Path, suite: Suite, sdist: Path, place: Path, whose: str) -> dict[str, str]:
    outcomes = place / f"{suite.name}-{whose}.json"
    told = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE / "django")]),
        "UPSTREAM_OUTCOMES": str(outcomes),
        "UPSTREAM_WHOSE": whose,
        "SESSIONHA_STORE": "memory",
        "SESSIONHA_STATE_DIR": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = suite.command(python, whose)
    done = subprocess.run(
        command, cwd=sdist, env=told, capture_output=True, check=False, timeout=PATIENCE
    )
    if not outcomes.exists():
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise AssertionError(f"{suite.name} did not run: {said[-4000:]}")
    found: dict[str, str] = json.loads(outcomes.read_text())
    return found


def _pip(python: Path, *words: str) -> None:
    command = [str(python), "-m", "pip", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Run and report; 0 when every test has the outcome that it has with the framework's own."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.upstream.suite", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="all without")
    asked = suites(parser.parse_args().names)
    for suite in asked:
        if interpreter(suite.python) is None:
            print(f"{suite.name}: left out, Python {suite.python} or newer must be on the PATH")
    found = compare([suite for suite in asked if interpreter(suite.python) is not None])
    for name, compared in found.items():
        print(f"{name}: {compared}")
        for test in compared.wrong:
            theirs, ours = compared.theirs.get(test), compared.ours.get(test)
            print(f"  {test}: {theirs} with theirs, {ours} with ours")
    return 1 if any(compared.wrong for compared in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
