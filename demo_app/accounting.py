"""The books of the check: what was acknowledged, what was seen, what is lost. Pure.

Times are nanoseconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field


class Ledger:
    """What one client knows of one of its sessions.

    A token is *kept* once it was acknowledged or seen: from then on every answer must have it.
    `lost` are kept tokens that an answer did not have. `phantom` are tokens that were never sent
    to this session, or appear twice, or changed their place.
    """

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.phantom: set[str] = set()
        self._sent: set[str] = set()
        self._kept: set[str] = set()
        self._order: list[str] = []

    def send(self, token: str) -> None:
        """The token goes out: from now on it may be seen."""
        self._sent.add(token)

    def acknowledge(self, token: str) -> None:
        """The write was answered with success: from now on it must be seen."""
        self._kept.add(token)

    def observe(self, state: Sequence[str]) -> None:
        """An answer showed these tokens, in this order."""
        present = set(state)
        if len(present) != len(state):
            self.phantom.update(token for token in present if state.count(token) > 1)
        self.phantom |= present - self._sent
        self.lost |= self._kept - present
        if not _begins_with(state, self._order):
            self.phantom.update(_misplaced(state, self._order))
        self._kept |= present & self._sent
        self._order = list(state)


def _begins_with(state: Sequence[str], earlier: Sequence[str]) -> bool:
    return list(state[: len(earlier)]) == earlier


def _misplaced(state: Sequence[str], earlier: Sequence[str]) -> Iterable[str]:
    """What stands at another place than it did before, and what came in before older tokens."""
    here, there = set(state), set(earlier)
    before = [token for token in earlier if token in here]
    yield from (token for token in state[: len(before)] if token not in there)
    now = [token for token in state if token in there]
    yield from (token for token, old in zip(now, before, strict=False) if token != old)


@dataclass
class Death:
    """One kill: of a node, or of one worker of it."""

    node: str
    at: int
    """When the signal was sent."""
    worker: bool = False
    dead: int | None = None
    """When its processes were seen to be gone; None: not yet."""

    def explains(self, invoked: int, returned: int) -> bool:
        """Whether a request of this time may have been with the victim when it died."""
        return returned >= self.at and (self.dead is None or invoked <= self.dead)


@dataclass
class Failovers:
    """How long the death of a node kept its clients from writing.

    A client is affected when the victim was among the holders of its session, as primary or as
    backup, in the last answer before the signal (or when no answer told the holders). Its time
    ends with the first acknowledged write that it *began after* the signal: a request that was
    pending at the death delays that one, and is so included.
    """

    milliseconds: list[float] = field(default_factory=list)
    _at: int = 0
    _waiting: set[str] = field(default_factory=set)

    def begin(self, at: int, affected: Iterable[str]) -> None:
        """A node dies now."""
        self._at = at
        self._waiting = set(affected)

    def acknowledged(self, client: str, invoked: int, returned: int) -> None:
        """A client's write was acknowledged."""
        if client in self._waiting and invoked >= self._at:
            self._waiting.discard(client)
            self.milliseconds.append((returned - self._at) / 1e6)


def percentile(values: Collection[float], percent: float) -> float | None:
    """The smallest value that at least `percent` of all do not exceed; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    rank = -(-len(ordered) * percent // 100)  # rounded up
    return ordered[max(0, int(rank) - 1)]


@dataclass
class Report:
    """What the last line of a check says."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    phantom: int = 0
    errors: int = 0
    unknown: int = 0
    broken: int = 0
    failover_ms_p50: float | None = None
    failover_ms_p99: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing was lost, invented or refused."""
        return self.lost == self.phantom == self.errors == 0
