"""Durations and sizes as people write them: `250ms`, `30 min`, `256MiB`; and back."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

SECONDS: Final = {
    "ms": 0.001,
    "s": 1.0,
    "sec": 1.0,
    "m": 60.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
BYTES: Final = {
    "b": 1,
    "kb": 1000,
    "kib": 1024,
    "mb": 1000**2,
    "mib": 1024**2,
    "gb": 1000**3,
    "gib": 1024**3,
}
NEVER: Final = math.inf

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)\s*([A-Za-z]*)", re.ASCII)


def read_duration(value: object) -> float:
    """Seconds, from a number of seconds, a timedelta, text with a unit, or `never`.

    Raises:
        ValueError: anything else; the message completes "must be …".
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, str):
        if value.strip().lower() == "never":
            return NEVER
        value = _scaled(value, SECONDS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise ValueError('must be a duration such as 0.25, "250ms", "30s", "5min", "12h" or "14d"')
    return float(value)


def read_size(value: object) -> int:
    """Bytes, from a whole number of bytes or text with a unit.

    Raises:
        ValueError: anything else; the message completes "must be …".
    """
    size = _scaled(value, BYTES) if isinstance(value, str) else value
    if isinstance(size, float) and size.is_integer():
        size = int(size)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError('must be a size such as 65536, "64KiB", "256MiB" or "1GiB"')
    return size


def show_duration(seconds: float) -> str:
    """The shortest text that `read_duration` reads back."""
    if seconds == NEVER:
        return "never"
    for unit in ("d", "h", "min"):
        if seconds and seconds % SECONDS[unit] == 0:
            return f"{seconds / SECONDS[unit]:g} {unit}"
    return f"{seconds:g} s"


def show_size(size: int) -> str:
    """The shortest text that `read_size` reads back."""
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % BYTES[unit.lower()] == 0:
            return f"{size // BYTES[unit.lower()]} {unit}"
    return f"{size} B"


def _scaled(text: str, units: dict[str, float] | dict[str, int]) -> float | None:
    """The quantity in the base unit, which text without a unit is in; None when malformed."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    number, unit = match.groups()
    factor = units.get(unit.lower()) if unit else 1
    return None if factor is None else float(number) * factor
