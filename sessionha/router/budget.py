"""How many requests may be sent again: when everything fails, repeats must not double the load."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.2
"""Repeats that each request earns: a fifth more load is what servers can be asked to bear."""

EVERY_SECOND: Final = 10.0
"""Repeats earned each second: a site with few requests may repeat them all."""

RESERVE: Final = 1000.0
"""Most repeats saved up: as many as are in flight at a server that dies, and some rounds more."""


class Budget:
    """Earned by requests, spent by repeats. `now` is monotonic seconds."""

    def __init__(
        self, now: float, share: float = SHARE, every_second: float = EVERY_SECOND,
        reserve: float = RESERVE,
    ) -> None:  # fmt: skip
        """It begins full."""
        self._share = share
        self._every_second = every_second
        self._reserve = reserve
        self._saved = reserve
        self._at = now

    def earn(self) -> None:
        """A request came."""
        if self._saved < self._reserve:
            self._saved += self._share

    def spend(self, now: float) -> bool:
        """Whether one may be sent again; it has paid for it then."""
        earned = (now - self._at) * self._every_second
        self._at = now
        self._saved = min(self._reserve, self._saved + earned)
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
