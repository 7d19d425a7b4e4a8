"""The affinity rule: a verified route, the view and health give the upstreams to try, in order.

Pure. The router uses it at run time; configuration for other balancers is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

from sessionha.identity import server_name
from sessionha.view import Member, View

State = Literal["up", "suspect", "down"]

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that may run twice (RFC 9110, 9.2.2)."""

SLOTS: Final = 64
"""Engine slots whose names are known for a node although no such engine is published now: after
an engine's death its name in a cookie still leads to the node, where a sibling serves."""


class Target(NamedTuple):
    """Something a router can connect to: a node, or one engine of it that has its own address."""

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
    ready: bool
    spare: bool


class Standing(Protocol):
    """What a router knows of a target by itself."""

    @property
    def state(self) -> State: ...

    @property
    def in_flight(self) -> int: ...


class Preference(NamedTuple):
    """What a router asks of a server besides the route."""

    engine_type: str = ""
    """Only servers with this type; empty: any."""
    zone: str = ""
    """New clients go to this zone while it has a ready server; empty: no preference."""


ANY: Final = Preference()


class Table:
    """The servers of one view, by name. Only what stands here is ever connected to (R16)."""

    def __init__(self, view: View) -> None:
        self._of_node = {
            member.node: tuple(_targets(member))
            for member in view.members
            if member.role != "witness"
        }
        self._names: dict[str, tuple[str, str]] = {}
        for member in view.members:
            for slot in map(str, range(SLOTS if member.engines else 0)):
                self._names[server_name(member.node, slot)] = (member.node, slot)
            for engine in member.engines:
                name = server_name(member.node, engine.engine)
                self._names[name] = (member.node, engine.engine)
        for member in view.members:  # last: a node's own name wins over a name of an engine
            self._names[server_name(member.node)] = (member.node, "")
        self.targets = tuple(target for node in self._of_node.values() for target in node)

    def lead(self, name: str) -> tuple[Target, ...]:
        """Where a name from a cookie leads: the engine named, its siblings, the node's address.

        Empty for a name that the view does not have.
        """
        node, engine = self._names.get(name, ("", ""))
        targets = self._of_node.get(node, ())
        if not engine or len(targets) <= 1:
            return targets
        types = next((target.types for target in targets if target.engine == engine), frozenset())
        return tuple(
            sorted(targets, key=lambda target: (target.engine != engine, target.types != types))
        )


def _targets(member: Member) -> Iterator[Target]:
    spare = member.role == "spare"
    common = (member.zone, max(1, member.weight), member.ready, spare)
    if member.url:
        types = frozenset(engine.type for engine in member.engines)
        yield Target(server_name(member.node), member.node, "", types, member.url, *common)
    for engine in member.engines:
        if engine.url:
            name = server_name(member.node, engine.engine)
            types = frozenset((engine.type,))
            yield Target(name, member.node, engine.engine, types, engine.url, *common)


def in_order(
    table: Table,
    servers: Sequence[str],
    health: Mapping[str, Standing],
    prefer: Preference = ANY,
    turn: int = 0,
) -> Iterator[Target]:
    """The targets to try for a request, the best first, each at most once.

    First the servers of the route in its order, then every other ready server (any node serves
    any session): servers before spares, unsuspected before suspect, the preferred zone, least
    in flight by weight, then by turns. Last what is starting, draining or down, because trying
    is better than giving up. `servers` is empty for a client without a (valid) route.
    """
    seen: set[str] = set()
    wanted = prefer.engine_type
    for name in servers:
        for target in table.lead(name):
            if target.name not in seen and _suits(target, wanted) and _serves(target, health):
                seen.add(target.name)
                yield target  # nearly always the only one that is asked for
    named = [target for name in servers for target in table.lead(name)]
    targets = [target for target in table.targets if _suits(target, wanted)]
    yield from _balanced(
        [
            target
            for target in _turned(targets, turn)
            if target.name not in seen and _serves(target, health)
        ],
        health,
        prefer.zone,
        seen,
    )
    for target in (*named, *targets):
        if target.name not in seen and _suits(target, wanted):
            seen.add(target.name)
            yield target


def _balanced(
    targets: list[Target], health: Mapping[str, Standing], zone: str, seen: set[str]
) -> Iterator[Target]:
    def rank(target: Target) -> tuple[bool, bool, bool, float]:
        standing = health.get(target.name)
        load = standing.in_flight / target.weight if standing is not None else 0.0
        suspect = standing is not None and standing.state == "suspect"
        return (target.spare, suspect, bool(zone) and target.zone != zone, load)

    while targets:
        best = min(targets, key=rank)
        targets.remove(best)
        seen.add(best.name)
        yield best


def _turned(targets: list[Target], turn: int) -> list[Target]:
    start = turn % len(targets) if targets else 0
    return targets[start:] + targets[:start]


def _suits(target: Target, engine_type: str) -> bool:
    return not engine_type or not target.types or engine_type in target.types


def _serves(target: Target, health: Mapping[str, Standing]) -> bool:
    standing = health.get(target.name)
    return target.ready and (standing is None or standing.state != "down")


def may_repeat(*, accepted: bool, idempotent: bool, replayable: bool) -> bool:
    """Whether a failed request may go to another server (R14).

    `accepted`: a byte of it was written to a connection. `replayable`: what was read of its body
    is still at hand.
    """
    return replayable and (idempotent or not accepted)
