"""Programs of users are checked as strictly as they may want, without any help from a plugin."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

PROGRAMS = Path(__file__).parent / "programs"
MISTAKES = PROGRAMS / "mistakes.py"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reported() -> dict[str, set[int]]:
    """The lines in which one run of mypy found errors, by file name."""
    # The adapters are packages beside ours; installed, all of them are found.
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("MYPYPATH", str(ROOT / "adapters"))
    programs = sorted(str(path) for path in PROGRAMS.glob("*.py"))
    out, error, _ = api.run(
        [
            "--strict",
            "--config-file=",
            "--cache-dir",
            str(ROOT / ".mypy_cache" / "programs"),
            "--no-error-summary",
            "--scripts-are-modules",
            *programs,
        ]
    )
    monkeypatch.undo()
    assert error == ""
    found: dict[str, set[int]] = {}
    for line in out.splitlines():
        place = re.match(r"(?P<path>.+?):(?P<line>\d+): error:", line)
        if place is not None and Path(place["path"]).resolve().parent == PROGRAMS:
            found.setdefault(Path(place["path"]).name, set()).add(int(place["line"]))
            print(line)
    return found


@pytest.mark.parametrize(
    "program", sorted(path.name for path in PROGRAMS.glob("*.py") if path != MISTAKES)
)
def test_a_program_of_a_user_passes_strict_checking(
    reported: dict[str, set[int]], program: str
) -> None:
    assert reported.get(program, set()) == set()


def test_mistakes_of_a_user_are_found(reported: dict[str, set[int]]) -> None:
    lines = MISTAKES.read_text(encoding="utf-8").splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}

    assert reported.get(MISTAKES.name, set()) == wrong
