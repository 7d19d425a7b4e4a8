"""Nodes that ask to be members: who waits for it, who was refused and why, and who flaps."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator

from sessionha.peer.messages import Join
from sessionha.topology.flapping import Flapping
from sessionha.topology.members import holds
from sessionha.topology.timing import Timing
from sessionha.view import View

JOIN_KEPT = 1_000
"""Milliseconds for which a request to join waits to be admitted; the joiner repeats it."""
REFUSALS = 64
"""Refused joiners that are remembered, to tell each once."""


class Joiners:
    """The requests that a member got, by node. What they are worth is the automaton's to judge."""

    def __init__(
        self, timing: Timing, counts: Counter[str], log: Callable[[int, str], None]
    ) -> None:
        self.flapping = Flapping(timing)
        self._counts = counts
        self._log = log
        self._held: dict[str, tuple[Join, int]] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self._waiting: dict[str, int] = {}
        """Who has to wait, and how often it had flapped when that was told."""

    def __iter__(self) -> Iterator[Join]:
        """By node ID."""
        return iter([join for _, (join, _) in sorted(self._held.items())])

    def get(self, node: str) -> Join | None:
        """The node's request."""
        held = self._held.get(node)
        return None if held is None else held[0]

    def take(self, now: int, join: Join) -> None:
        """Remember the request for a while; the last one of a node counts."""
        self._held[join.me.node] = (join, now)

    def settle(self, now: int, view: View) -> None:
        """Forget who is a member, and who has not asked again for a while."""
        self._held = {
            node: (join, at)
            for node, (join, at) in self._held.items()
            if now - at <= JOIN_KEPT and not holds(view, node, join.me.incarnation)
        }
        self._waiting = {n: times for n, times in self._waiting.items() if not view.member(n)}

    def clear(self) -> None:
        """Forget the requests."""
        self._held.clear()

    def refuse(self, node: str, incarnation: str, reason: str) -> None:
        """Warn of the first request of each that is refused."""
        held = self.get(node)
        if held is not None and held.me.incarnation == incarnation:
            del self._held[node]
        self._counts["refused_joins"] += 1
        if (node, incarnation) not in self._refused:
            self._log(logging.WARNING, f"join refused: {reason}")
            kept = list(self._refused.items())[1 - REFUSALS :]
            self._refused = {**dict(kept), (node, incarnation): reason}

    def refusal(self, join: Join) -> str:
        """Why this joiner was refused before; empty when it was not."""
        return self._refused.get((join.me.node, join.me.incarnation), "")

    def forgive(self) -> None:
        """Whoever was refused may ask again."""
        self._refused.clear()

    def is_held_back(self, now: int, node: str) -> bool:
        """Whether a node that flaps has to wait for its admission."""
        wait, times = self.flapping.wait(now, node), self.flapping.times(node)
        if not wait:
            return False
        if self._waiting.get(node) != times:
            self._waiting[node] = times
            self._counts["held_back"] += 1
            text = f"{node} fell silent {times} times shortly after it had joined: "
            remedy = "look at its load and at the network between"
            then = f"it is admitted again in {wait / 1000:g} s; {remedy}"
            self._log(logging.WARNING, text + then)
        return True
