"""Which server a client without a route gets: a node by the policy, then one of its engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from sessionha.balancers.table import Target
from sessionha.kinds import DEFAULT_POLICY, PolicyWord
from sessionha.topology.health import NodeState

T = TypeVar("T")


class Standing(Protocol):
    """What a router knows of a target by itself."""

    @property
    def state(self) -> NodeState:
        """Ready, suspect or failed."""

    @property
    def in_flight(self) -> int: ...


class Preference(NamedTuple):
    """What a router asks of a server besides the route."""

    engine_type: str = ""
    """Only servers with this type; empty: any."""
    policy: tuple[PolicyWord, ...] = DEFAULT_POLICY
    """How a node is chosen for a client without a route: each word leaves the best of those that
    the words before it left."""
    zone: str = ""
    """What the word `zone` prefers; empty: nothing."""
    client: str = ""
    """What the word `hash` goes by: the client's address."""

    @property
    def wanted(self) -> str:
        """What a client is told that there is none of."""
        if self.engine_type:
            return f"server with engines of type {self.engine_type}"
        return "server for this request"


ANY: Final = Preference()


class Turns:
    """Whose turn it is, by weight: of a node with weight 2 twice as often, and not twice in a row.

    Each that could have the turn gains its weight, and who has it pays what all gained.
    """

    def __init__(self) -> None:
        self._gained: dict[str, int] = {}

    def next(self, weights: Mapping[str, int]) -> str:
        """One of these names."""
        if len(weights) == 1:  # it would pay what it gained
            return next(iter(weights))
        gained = self._gained
        for name, weight in weights.items():
            gained[name] = gained.get(name, 0) + weight
        found = max(weights, key=gained.__getitem__)
        gained[found] -= sum(weights.values())
        return found

    def keep(self, names: Collection[str]) -> None:
        """Forget all others."""
        self._gained = {name: self._gained[name] for name in self._gained if name in names}


class Balance:
    """Chooses, in two stages, where no route does: a node by the policy, then one of its engines.

    It knows the load that this router causes, and whose turn it is; nothing else.
    """

    def __init__(self, health: Mapping[str, Standing]) -> None:
        """`health`: what is known of each target, by name."""
        self._health = health
        self._nodes = Turns()
        self._engines = Turns()

    def know(self, health: Mapping[str, Standing], nodes: Collection[str]) -> None:
        """The view has changed: its targets, and its nodes."""
        self._health = health
        self._nodes.keep(nodes)
        self._engines.keep(health)

    def state(self, target: Target) -> NodeState:
        """What the view says of the target's node; of one that takes clients, what requests showed
        of the target itself."""
        standing = self._health.get(target.name)
        if standing is None or not target.state.takes_clients:
            return target.state
        return standing.state

    def load(self, target: Target) -> int:
        """What is in flight there."""
        standing = self._health.get(target.name)
        return 0 if standing is None else standing.in_flight

    def serves(self, target: Target) -> bool:
        """Whether it is worth a try before others were tried."""
        return self.state(target).takes_clients

    def inside(self, targets: Sequence[Target], engine: str = "") -> Iterator[Target]:
        """The targets of one node: the engine that is named, its siblings of the same type, the
        others; of equals the one with the least in flight, then by turns."""
        if len(targets) <= 1:
            yield from targets
            return
        types = next((each.types for each in targets if each.engine == engine), None)

        def rank(target: Target) -> tuple[bool, bool, bool, int]:
            suspect, load = self.state(target) is NodeState.SUSPECT, self.load(target)
            if not engine:
                return (False, False, suspect, load)
            return (target.engine != engine, target.types != types, suspect, load)

        left = {target.name: target for target in targets}
        while left:
            best = _least(left.values(), rank)
            yield left.pop(self._engines.next({target.name: 1 for target in best}))

    def among(self, nodes: Sequence[Sequence[Target]], prefer: Preference) -> Iterator[Target]:
        """The targets of several nodes, those of the best node first: servers before spares, the
        unsuspected before suspects, then by the policy."""
        left = {targets[0].node: targets for targets in nodes}
        while left:
            yield from self.inside(left.pop(self._node(left, prefer)))

    def _node(self, nodes: Mapping[str, Sequence[Target]], prefer: Preference) -> str:
        zone = prefer.zone if "zone" in prefer.policy else ""
        by_load = "least-load" in prefer.policy
        weighted = "round-robin" not in prefer.policy

        def rank(node: str) -> tuple[bool, bool, bool, float]:
            targets = nodes[node]
            spare, weight = targets[0].spare, targets[0].weight
            suspect = all(self.state(each) is NodeState.SUSPECT for each in targets)
            load = sum(map(self.load, targets)) / weight if by_load else 0.0
            return (spare, suspect, bool(zone) and targets[0].zone != zone, load)

        best = _least(nodes, rank)
        if "hash" in prefer.policy:
            return min(best, key=lambda node: _drawn(prefer.client, node, nodes[node][0].weight))
        return self._nodes.next({node: nodes[node][0].weight if weighted else 1 for node in best})


def _drawn(client: str, node: str, weight: int) -> float:
    """The client's lot for a node, the least wins: the same whoever else is there, and by weight
    among many clients (weighted rendezvous hashing)."""
    digest = blake2b(f"{client}\0{node}".encode(), digest_size=8).digest()
    return -math.log((int.from_bytes(digest) + 1) / 2**64) / weight


def _least(found: Iterable[T], rank: Callable[[T], Any]) -> list[T]:
    """Those that no other one is before."""
    found = list(found)
    if len(found) == 1:
        return found
    ranked = [(rank(each), each) for each in found]
    least = min(place for place, _ in ranked)
    return [each for place, each in ranked if place == least]
