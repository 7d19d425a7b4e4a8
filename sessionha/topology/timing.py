"""How long the topology manager waits for what; milliseconds inside, seconds in settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sessionha.errors import InvalidSettings

Admission = Literal["static-only", "dynamic"]

LEASE_MARGIN = 50
"""Milliseconds that a lease counts longer where it was given than where it is held: clocks differ
by less than a thousandth in their rates, and tell whole milliseconds."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds."""

    heartbeat: int = 250
    suspect_after: int = 1_000
    """Silence after which a member is suspected."""
    confirm_after: int = 500
    """How long a suspect may still clear itself; others are asked meanwhile."""
    discovery_time: int = 2_000
    """How long a node looks for others before it forms a view without them."""
    forget_after: int = 30_000
    """How long a node that is gone may hold data that nobody else has (R18)."""

    @classmethod
    def of(
        cls,
        *,
        heartbeat: float = 0.25,
        suspect_after: float = 1.0,
        confirm_after: float = 0.5,
        discovery_time: float = 2.0,
        forget_after: float = 30.0,
    ) -> Timing:
        """The same, from seconds.

        Raises:
            InvalidSettings: every value that does not fit the others.
        """
        problems = [
            f"`{name}` must be more than 0 seconds, not {value}"
            for name, value in (
                ("heartbeat", heartbeat),
                ("suspect_after", suspect_after),
                ("confirm_after", confirm_after),
                ("discovery_time", discovery_time),
            )
            if value <= 0
        ]
        if forget_after < 0:
            problems.append(f"`forget_after` must not be negative, it is {forget_after}")
        if suspect_after < 3 * heartbeat:
            problems.append(
                f"`suspect_after` ({suspect_after}) must be at least three heartbeats"
                f" ({3 * heartbeat}): one lost heartbeat is not a death"
            )
        if problems:
            raise InvalidSettings(problems)
        return cls(
            *(
                # A forget_after of infinity means: never.
                round(min(seconds, 1e9) * 1000)
                for seconds in (
                    heartbeat,
                    suspect_after,
                    confirm_after,
                    discovery_time,
                    forget_after,
                )
            )
        )

    @property
    def pause(self) -> int:
        """Without a tick for so long this process was stopped, and judges nobody for it. Others
        need at least `confirm_after` to exclude a node, so a shorter pause cannot have."""
        return min(self.suspect_after // 2, self.confirm_after)

    @property
    def lease(self) -> int:
        """For how long an answer lets the asker serve (R9). Shorter than the detection of a silent
        member (`suspect_after` + `confirm_after`) by more than `LEASE_MARGIN`, so that nobody has
        to wait for the end of its lease; long enough to outlast several lost heartbeats."""
        return self.suspect_after + self.confirm_after // 2

    @property
    def probe(self) -> int:
        """How long a third member tries, so that its answer arrives within `confirm_after`."""
        return self.confirm_after * 4 // 5
