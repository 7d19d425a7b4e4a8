"""The membership that a cluster has agreed on: wire type, stored row and pure questions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Final, Literal

import msgspec

from sessionha.identity import NO_VIEW, ViewID, server_name

Role = Literal["server", "spare", "witness"]
Departure = Literal["left", "returning", "failed"]
"""How a member went: for good, saying that it will come back, or without a word."""
SLOTS: Final = 64
"""Engine slots whose names are known for a node although no such engine is published now: after
an engine's death its name in a cookie still leads to the node, where a sibling serves."""
Drains = Literal["", "returning", "leaving"]
"""How a member that drains will go: it comes back soon, or goes for good."""


class EngineAddress(msgspec.Struct, frozen=True, array_like=True):
    """An engine that a node publishes; `url` is empty where engines share the node's address."""

    engine: str
    """Its ID among the node's engines; empty: any that shares the node's address."""
    type: str = "web"
    url: str = ""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One node of a view; identified by (node, incarnation), ordered by `joined`."""

    node: str
    incarnation: str
    joined: ViewID
    peer: str
    """`host:port` of its peer listener."""
    url: str = ""
    """Where routers reach its application; empty when it serves none."""
    role: Role = "server"
    zone: str = ""
    host: str = ""
    weight: int = 1
    ready: bool = True
    """Takes new clients: false while it starts or drains."""
    kept: bool = False
    """When it joined its store held data from before."""
    engines: tuple[EngineAddress, ...] = ()
    """Its engine types, and the engines that have an address of their own."""
    keys: tuple[bytes, ...] = ()
    """Fingerprints of its application's keys (`sessionha.agreement`): nodes without a common one
    lose each other's sessions."""
    settings: tuple[tuple[str, str], ...] = ()
    """Name and shown value of each setting that every node must have alike."""
    drains: Drains = ""
    """It gives away what it leads, and is not ready, before it stops. One that is `returning` keeps
    its seats and copies; those of one that is `leaving` are made elsewhere at once."""

    def draining(self, how: Drains) -> Member:
        """The member as it drains in this way; empty: it takes clients and copies again."""
        return msgspec.structs.replace(self, drains=how, ready=not how)


class Node(msgspec.Struct, frozen=True, array_like=True):
    """One configured node."""

    node: str
    peer: str
    """`host:port` of its peer listener."""
    url: str = ""
    """Where routers reach its application; empty when it serves none."""
    zone: str = ""
    host: str = ""
    """The machine, for placement; the host of `peer` when it is not told."""
    weight: int = 1
    role: Role = "server"
    engines: tuple[EngineAddress, ...] = ()
    """What it publishes of its engines; none: one type, which its processes are told."""

    def member(self, incarnation: str, *, ready: bool = True) -> Member:
        """The node as it offers itself to a view."""
        return Member(
            node=self.node,
            incarnation=incarnation,
            joined=NO_VIEW,
            peer=self.peer,
            url=self.url,
            role=self.role,
            zone=self.zone,
            host=self.host or self.peer.rpartition(":")[0].strip("[]"),
            weight=self.weight,
            ready=ready,
            engines=self.engines,
        )


class View(msgspec.Struct, frozen=True, array_like=True, dict=True):
    """The numbered membership. Two views with one ID are the same view (of one cluster)."""

    id: ViewID = NO_VIEW
    members: tuple[Member, ...] = ()
    """Ordered by (joined, node)."""
    barrier: ViewID = NO_VIEW
    """The latest view that joined two sides which could both have served: a primary whose epoch
    is older must promote afresh before it serves (contract, available mode)."""
    absent: tuple[str, ...] = ()
    """Nodes known to be gone by proof: they said goodbye, or their host refused (R2a)."""
    departed: tuple[tuple[str, Departure], ...] = ()
    """Nodes that were members and are not now, each with how it went, earliest first."""
    cluster: str = ""
    """Quorum mode: the random identity that the cluster got with its first view (R7a)."""
    electors: tuple[str, ...] = ()
    """Quorum mode: the nodes that decide the next view; empty in available mode."""
    sworn: tuple[tuple[str, str], ...] = ()
    """Electors that had lost their votes, each with the token of its loss: from this view on they
    vote again."""

    @property
    def voters(self) -> tuple[str, ...]:
        """The electors that count: those that are absent by proof do not (R2a)."""
        return tuple(node for node in self.electors if node not in self.absent)

    @property
    def majority(self) -> int:
        """How many of the voters decide."""
        return len(self.voters) // 2 + 1

    def member(self, node: str) -> Member | None:
        """The member with this node ID, if there is one."""
        return self._by_node.get(node)

    @cached_property
    def _by_node(self) -> dict[str, Member]:
        return {member.node: member for member in self.members}

    def served_as(self, server: str) -> Member | None:
        """The member that a route cookie names so, itself or one of its engines."""
        node, _ = self.server_names.get(server, ("", ""))
        return self.member(node)

    @cached_property
    def server_names(self) -> Mapping[str, tuple[str, str]]:
        """Node and engine slot by the names that route cookies carry; the slot is empty for the
        address that all engines of the node share."""
        names: dict[str, tuple[str, str]] = {}
        for member in self.members:
            apart = any(engine.url for engine in member.engines)
            slots = [*map(str, range(SLOTS if apart else 0)), *(e.engine for e in member.engines)]
            names |= {server_name(member.node, slot): (member.node, slot) for slot in slots}
        for member in self.members:  # last: a node's own name wins over a name of an engine
            names[server_name(member.node)] = (member.node, "")
        return names

    @cached_property
    def by_name(self) -> tuple[str, ...]:
        """The members' node IDs, the lowest first."""
        return tuple(sorted(self._by_node))

    def holds(self, node: str, since: ViewID) -> bool:
        """Whether `node` has been a member without a break since the view `since`."""
        member = self.member(node)
        return member is not None and member.joined <= since

    @cached_property
    def leaving(self) -> frozenset[str]:
        """The members that drain to go for good: nobody counts on their copies any more."""
        return frozenset(member.node for member in self.members if member.drains == "leaving")

    @property
    def servers(self) -> tuple[Member, ...]:
        """The members that hold sessions: all but witnesses."""
        return tuple(member for member in self.members if member.role != "witness")

    @property
    def nodes(self) -> tuple[str, ...]:
        """The members' node IDs, in the view's order."""
        return tuple(member.node for member in self.members)

    def supersedes(self, other: View) -> bool:
        """Whether a node that holds `other` installs this view instead."""
        return self.id > other.id


NO_MEMBERS = View()
