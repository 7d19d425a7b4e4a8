"""What a node sees around it, and whom it watches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sessionha.topology.description import Description
from sessionha.topology.members import ring_of
from sessionha.view import Member, View

WATCH_ALL = 8
"""Up to so many nodes everybody watches everybody."""
WATCHED = 3
"""In a larger cluster, each watches so many members after itself in the description's order."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a node sees around it: with many members it is too much to count at every heartbeat."""

    view: View
    kept: View | None
    description: Description
    others: Mapping[str, str]
    """The other members' incarnations."""
    after: tuple[str, ...]
    """The other members in the order of `ring_of`, from this node on."""
    place: Mapping[str, int]
    """Of each node in the description's order."""
    outside: tuple[str, ...]
    """Described nodes that are no members."""
    described: Mapping[str, str]
    """Where the others listen by the description."""
    complete: bool
    """Whether it describes every member."""

    @classmethod
    def of(cls, me: Member, view: View, kept: View | None, description: Description) -> Around:
        described = {n: address for n, address in description.addresses.items() if n != me.node}
        ring = ring_of(view.nodes, description.order)
        at = ring.index(me.node) if me.node in ring else 0
        return cls(
            view=view,
            kept=kept,
            description=description,
            others={m.node: m.incarnation for m in view.members if m.node != me.node},
            after=ring[at + 1 :] + ring[:at],
            place={node: index for index, node in enumerate(description.order)},
            outside=tuple(node for node in described if view.member(node) is None),
            described=described,
            complete={*description.order} >= {*(kept or view).nodes},
        )


def watches(view: View, order: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Each member of the view with those that it watches."""
    ring = ring_of(view.nodes, order)
    count = len(ring) - 1 if len(ring) <= WATCH_ALL else WATCHED
    on = ring + ring
    return {node: on[at : at + count] for at, node in enumerate(ring, 1)}
