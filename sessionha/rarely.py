"""What is said rarely: of each kind the first, then one in a while, with how many were not."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")


class Due(NamedTuple):
    """Something that may be said now."""

    withheld: int
    """How many of its kind were not said since the last one that was."""
    since: float
    """Seconds since that one; infinity for the first."""


class Rarely(Generic[K]):
    """Lets one of each kind pass in `every` seconds; there must be few kinds."""

    def __init__(self, every: float) -> None:
        self._every = every
        self._said: dict[K, float] = {}
        self._held: dict[K, int] = {}

    def due(self, kind: K, now: float) -> Due | None:
        """Whether one of this kind may be said at the instant `now`, seconds; None: count it."""
        since = now - self._said.get(kind, float("-inf"))
        if since < self._every:
            self._held[kind] = self._held.get(kind, 0) + 1
            return None
        self._said[kind] = now
        return Due(self._held.pop(kind, 0), since)
