"""The state of a node, derived in one place from the view and from what else is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from sessionha.view import Departure, View


class Readiness(NamedTuple):
    """What a node answers a balancer that asks, with words that tell a stranger no more."""

    status: int
    words: str


class NodeState(StrEnum):
    """How a node stands, for probes, people, metrics and routers."""

    STARTING = "starting"
    """In no view that holds: it looks for its cluster, or asks whether its last view still holds
    after a restart or a pause."""
    JOINING = "joining"
    """Has asked the members of a view to admit it."""
    WAITING = "waiting"
    """Hears too few others to serve (R9): of a majority where views are decided by one."""
    CATCHING_UP = "catching-up"
    """A member that serves, and has yet to get copies that the others made without it; only the
    node itself knows."""
    READY = "ready"
    """A member that serves and takes new clients."""
    DRAINING = "draining"
    """A member that takes no new clients, or has said goodbye."""
    SUSPECT = "suspect"
    """A member that does not answer; others are asked whether it answers them."""
    FAILED = "failed"
    """Was a member, and is silent."""
    ABSENT = "absent"
    """Was a member, and is gone by proof: its host refused (R2a)."""
    RETURNING = "returning"
    """Was a member, and said that it will come back."""
    LEFT = "left"
    """Was a member, and said goodbye for good."""
    MISSING = "missing"
    """Configured, and not met yet."""

    @property
    def takes_clients(self) -> bool:
        """Whether a balancer may send it clients that are nobody's yet."""
        return self in (NodeState.READY, NodeState.SUSPECT)

    @property
    def readiness(self) -> Readiness:
        """200; 404 while it drains, which takes it out without an alarm; 503 while it cannot
        serve."""
        return _READINESS.get(self, _NOT_READY)


_READINESS: Final[Mapping[NodeState, Readiness]] = {
    NodeState.READY: Readiness(200, "ready"),
    NodeState.CATCHING_UP: Readiness(503, "catching up"),
    NodeState.DRAINING: Readiness(404, "draining"),
}
_NOT_READY: Final = Readiness(503, "not ready")

_GONE: Final[Mapping[Departure | None, NodeState]] = {
    "left": NodeState.LEFT,
    "returning": NodeState.RETURNING,
    "failed": NodeState.FAILED,
    None: NodeState.MISSING,
}


class Signs(NamedTuple):
    """What is known of a node besides the view; of most nodes nothing."""

    automaton: str = ""
    """The state of its automaton, as it told it; empty while it does not answer."""
    incarnation: str = ""
    """The incarnation in which it answers; empty while it does not."""
    waits: bool = False
    """It hears too few others: only the node itself knows."""
    suspected: bool = False


NO_SIGNS: Final = Signs()


def state_of(node: str, view: View, signs: Signs = NO_SIGNS) -> NodeState:
    """The state of a node, in the eyes of one that holds this view and sees these signs.

    What a node says of its own end comes first, then whether it is in the view, in the incarnation
    in which it answers. Outside the view a sign of life comes before what it was.
    """
    if signs.automaton == "leaving":
        return NodeState.DRAINING
    if signs.automaton == "stopped":
        return NodeState.LEFT
    member = view.member(node)
    if member is None or signs.incarnation not in ("", member.incarnation):
        return _outside(node, view, signs)
    if signs.waits:
        return NodeState.WAITING
    if signs.suspected:
        return NodeState.SUSPECT
    return NodeState.READY if member.ready else NodeState.DRAINING


def _outside(node: str, view: View, signs: Signs) -> NodeState:
    match signs.automaton:
        case "joined":  # of a view that this node is not in
            return NodeState.READY
        case "joining":
            return NodeState.JOINING
        case "":
            how = dict(view.departed).get(node)
            by_proof = node in view.absent and how in ("failed", None)
            return NodeState.ABSENT if by_proof else _GONE[how]
        case _:
            return NodeState.WAITING if signs.waits else NodeState.STARTING
