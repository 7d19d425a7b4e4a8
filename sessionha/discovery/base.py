"""What the packages above ask of a discovery, and what they learn from it."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Proof(NamedTuple):
    """Who lives at an address; a handshake with the cluster's secret proved it."""

    node: str
    incarnation: str


class Found(NamedTuple):
    """Where a node was found, and in which incarnation."""

    address: str
    incarnation: str


class Discovery(Protocol):
    """Knows addresses where nodes may listen, and nothing else that is believed.

    Construction does nothing. Every method may wait a few seconds and raise DiscoveryFailed.
    """

    async def find(self) -> frozenset[str]:
        """The `host:port` of every peer listener that is known now, this node's own included."""
        ...

    async def announce(self, node: str, address: str) -> None:
        """Let others find this node; forgotten LEASE seconds later unless it is repeated."""
        ...

    async def withdraw(self, node: str) -> None:
        """This node stops: let nobody find it any more."""
        ...

    async def close(self) -> None:
        """Close what was opened."""
        ...


LEASE = 30.0
"""Seconds: six rounds of a node that lives, so that no pause of one makes it unknown."""
