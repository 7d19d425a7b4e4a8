"""Medians, spread, tables, and the facts of the machine that measured."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

QUIET = 0.1
"""Cores: what a machine's own daemons may use without being seen in the figures."""

RESULTS = Path(__file__).resolve().parent / "results"

_PACKAGES = (
    *("starlette", "uvicorn", "uvloop", "httptools", "itsdangerous", "starsessions", "redis"),
    *("hiredis", "lmdb", "msgspec", "picows"),
)


class Spread(NamedTuple):
    """What several rounds found."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.low)}–{short(self.high)})"

    def rounded(self) -> dict[str, float]:
        """For JSON: four significant digits are more than any round repeats."""
        return {name: significant(value) for name, value in self._asdict().items()}


def spread(values: Iterable[float]) -> Spread:
    """Median, least and greatest of at least one value."""
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def significant(value: float, digits: int = 4) -> float:
    """The value with that many significant digits."""
    return float(f"{value:.{digits}g}")


def short(value: float) -> str:
    """A number as the tables print it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned columns; the first to the left, the others to the right."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def machine() -> dict[str, Any]:
    """What a reader needs to compare figures; no names of hosts or places."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "redis-server": _program_version("redis-server", "--version"),
        "wrk": _program_version("wrk", "-v"),
    }


def disturbed(others: float) -> str:
    """A line to print when other work took part; empty on a quiet machine."""
    if others < QUIET:
        return ""
    return (
        f"\nOther work kept {others:.1f} cores busy meanwhile: only the CPU figures and, with care,"
        " the ratios mean something."
    )


def keep(name: str, report: Mapping[str, Any]) -> Path:
    """Write a report into the results, named by benchmark and minute; its file."""
    stamp = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    file = RESULTS / f"{name}-{stamp}.json"
    RESULTS.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    return file


def publish(name: str, report: Mapping[str, Any], text: str, *, quiet: bool, save: bool) -> None:
    """Print the table and, as the last line, the JSON; `quiet`: only the JSON."""
    if not quiet:
        print(text + "\n")
    print(json.dumps(report))
    if save:
        print(f"kept as {keep(name, report).name}", file=sys.stderr)


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _program_version(program: str, option: str) -> str | None:
    try:
        result = subprocess.run([program, option], capture_output=True, text=True, check=False)
    except OSError:
        return None
    found = re.search(r"\d+\.\d+(\.\d+)?", result.stdout)
    return found[0] if found else None
