"""The servers of a view as whoever chooses among them sees them: by name, with addresses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sessionha.identity import server_name
from sessionha.topology.health import NodeState, state_of
from sessionha.view import Member, View


class Target(NamedTuple):
    """What can be connected to: a node, or one engine of it that has its own address."""

    name: str
    """Its server name, unique in the view."""
    node: str
    engine: str
    """The engine's slot; empty for the address that all engines of the node share."""
    types: frozenset[str]
    """Engine types that answer there; empty: the node published none, so any."""
    url: str
    zone: str
    weight: int
    state: NodeState
    """Of its node, by the view."""
    spare: bool


class Table:
    """The servers of one view, by name. Only what stands here is ever connected to (R16)."""

    def __init__(self, view: View) -> None:
        self._of_node = {
            member.node: tuple(_targets(member, state_of(member.node, view)))
            for member in view.members
            if member.role != "witness"
        }
        self._names = view.server_names
        self.nodes = tuple(filter(None, self._of_node.values()))
        """The targets of each node that has any."""
        self.targets = tuple(target for node in self.nodes for target in node)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that leads somewhere."""
        return tuple(self._names)

    def lead(self, name: str) -> tuple[tuple[Target, ...], str]:
        """Where a name from a cookie leads: to a node's targets, and there to which engine first.

        Empty for a name that the view does not have.
        """
        node, engine = self._names.get(name, ("", ""))
        return self._of_node.get(node, ()), engine


def _targets(member: Member, state: NodeState) -> Iterator[Target]:
    spare = member.role == "spare"
    common = (member.zone, max(1, member.weight), state, spare)
    if member.url:
        sharing = [engine for engine in member.engines if not engine.url] or member.engines
        types = frozenset(engine.type for engine in sharing)
        yield Target(server_name(member.node), member.node, "", types, member.url, *common)
    for engine in member.engines:
        if engine.url:
            name = server_name(member.node, engine.engine)
            types = frozenset((engine.type,))
            yield Target(name, member.node, engine.engine, types, engine.url, *common)
