"""Back-off against flapping: who keeps joining and falling silent is admitted ever later."""

from __future__ import annotations

from collections.abc import Container

from sessionha.topology.timing import Timing

BRIEF = 10
"""A membership that ends in silence within so many `suspect_after` (10 s) of its begin is brief:
long enough that an outage a minute costs nothing, and shorter than what anybody calls stable."""
FREE = 1
"""One brief membership after the other, so many of them, are forgiven: two outages may follow each
other by chance."""
DOUBLINGS = 4
"""The wait is `suspect_after` at first, and doubles so often: to 16 s. By then a node that flaps
costs the others less than two changes of the view in 20 s."""
MEMORY = 60
"""So many `suspect_after` (a minute) after its last brief membership a node begins anew."""


class Flapping:
    """Counts brief memberships of each node, by this node's clock and while it runs.

    Deaths by proof do not count: a process that crashes over and over is slowed down by whoever
    starts it, and its failover takes milliseconds.
    """

    def __init__(self, timing: Timing) -> None:
        self._unit = timing.suspect_after
        self._began: dict[str, int] = {}
        self._brief: dict[str, tuple[int, int]] = {}
        """How many in a row, and when the last one ended."""

    def joined(self, now: int, node: str) -> None:
        """A membership of the node begins."""
        self._began[node] = now

    def fell_silent(self, now: int, node: str) -> None:
        """It ends without proof of a death."""
        began = self._began.pop(node, None)
        if began is not None and now - began <= BRIEF * self._unit:
            self._brief[node] = (self._brief.get(node, (0, 0))[0] + 1, now)
        else:
            self._brief.pop(node, None)

    def keep(self, now: int, members: Container[str]) -> None:
        """Forget what is over: who is no member, and brief memberships of long ago."""
        self._began = {node: at for node, at in self._began.items() if node in members}
        oldest = now - MEMORY * self._unit
        self._brief = {node: held for node, held in self._brief.items() if held[1] >= oldest}

    def times(self, node: str) -> int:
        """Brief memberships in a row."""
        return self._brief.get(node, (0, 0))[0]

    def wait(self, now: int, node: str) -> int:
        """For how many milliseconds from now on the node is not admitted."""
        count, ended = self._brief.get(node, (0, 0))
        if count <= FREE:
            return 0
        delay = self._unit << min(count - FREE - 1, DOUBLINGS)
        return max(ended + delay - now, 0)
