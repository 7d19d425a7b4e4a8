"""Which nodes have another description of the cluster, and what differs: pure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sessionha.peer.messages import Describe
from sessionha.topology.description import Description, differences
from sessionha.topology.effects import Effect, Log, Send

PATIENCE = 10_000
"""Milliseconds for which descriptions may differ unreported: a reload goes from node to node."""
ASK_EVERY = 1_000
"""Milliseconds between two questions to one node for its description."""
ASK_UNTIL = 3_000
"""Milliseconds of asking after which a node that does not tell is reported all the same."""
MOST = 8
"""Differing nodes that are looked at: of more the description of this one is at fault."""


@dataclass(slots=True)
class _Difference:
    theirs: str
    since: int
    asked: int
    what: str = ""
    """For people; empty until it is reported."""


class Comparison:
    """Compares descriptions by their hashes, which come with heartbeats.

    A difference that lasts is reported once, with what differs, and again when it changed.
    """

    def __init__(self, description: Description, counts: Counter[str]) -> None:
        self._mine = description
        self._counts = counts
        self._found: dict[str, _Difference] = {}

    @property
    def reported(self) -> Mapping[str, str]:
        """Nodes that have had another description for a while, each with what differs."""
        return {node: each.what for node, each in self._found.items() if each.what}

    def describe(self, description: Description) -> None:
        """This node has another description than before: whoever differs gets time to follow."""
        self._mine = description
        self._found.clear()

    def heard(self, now: int, node: str, theirs: str, timeout: int) -> list[Effect]:
        """A node's hash; `timeout` in ms is for the question that may follow."""
        found = self._found.get(node)
        if theirs in ("", self._mine.hash):
            if found is not None:
                del self._found[node]
            if found is not None and found.what:
                return [Log(logging.INFO, f"{node} has the same description of the cluster again")]
        elif found is None or found.theirs != theirs:
            if found is not None or len(self._found) < MOST:
                self._found[node] = _Difference(theirs, now, now)
        elif not found.what:
            return self._look(now, node, found, timeout)
        return []

    def _look(self, now: int, node: str, found: _Difference, timeout: int) -> list[Effect]:
        lasted = now - found.since
        if lasted >= PATIENCE + ASK_UNTIL:
            return self._report(node, found, f"it does not tell in what ({found.theirs})")
        if lasted >= PATIENCE and now - found.asked >= ASK_EVERY:
            found.asked = now
            return [Send(node, Describe(), timeout)]
        return []

    def told(self, node: str, theirs: Description) -> list[Effect]:
        """What a node that was asked is described by."""
        found = self._found.get(node)
        if found is None or found.what or theirs.hash != found.theirs:
            return []
        return self._report(node, found, "; ".join(differences(self._mine, theirs)))

    def _report(self, node: str, found: _Difference, what: str) -> list[Effect]:
        found.what = what
        self._counts["differing_descriptions"] += 1
        words = f"{node} has another description of the cluster: {what}"
        advice = "give every node the same file and `sessionha reload`, or the same `nodes`"
        return [Log(logging.WARNING, f"{words}; {advice}")]
