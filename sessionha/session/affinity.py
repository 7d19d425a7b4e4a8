"""Whether a request reached the server that its cookie names first, and why not; pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from sessionha.topology.health import NodeState
from sessionha.view import Member

Reason = Literal[
    "kept",
    "stale_cookie",
    "other_engine",
    "server_gone",
    "draining",
    "not_ready",
    "lb_ignored",
    "no_route",
    "keys_differ",
    "refused",
    "foreign",
]

REASONS: Final[dict[Reason, str]] = {
    "kept": "It came to the server that its cookie names first, which has the sessions",
    "stale_cookie": "It came there, and that server had to fetch the sessions: they have moved",
    "other_engine": "It came to another process of that node, which has the sessions as well",
    "server_gone": "That server is no member any more: the next one takes over",
    "draining": "That server takes no clients any more",
    "not_ready": "That server does not answer its peers",
    "lb_ignored": "That server is ready: what stands in front passed it over",
    "no_route": "A session's cookie came, and no route cookie",
    "keys_differ": "The route cookie bears a key that this node does not have",
    "refused": "The route cookie is none, or several are valid",
    "foreign": "The route cookie is of another cluster, or of an earlier life of this one",
}
"""What each reason says of a request."""

PASSED_OVER: Final[tuple[Reason, ...]] = ("lb_ignored", "no_route", "keys_differ", "refused")
"""Reasons that are nobody's but those of a layer in front, or of the keys: while every node is well
they should be rare."""


def misrouted(
    named: Member | None, own: str, state_of: Callable[[str], NodeState]
) -> Literal["other_engine", "server_gone", "draining", "not_ready", "lb_ignored"]:
    """Why a request that is meant for `named` came to the node `own`.

    `named`: the member that the cookie names first; None: there is none of the name. `state_of`: of
    a node, in the eyes of `own`.
    """
    if named is None:
        return "server_gone"
    if named.node == own:
        return "other_engine"
    state = state_of(named.node)
    if state is NodeState.DRAINING:
        return "draining"
    return "lb_ignored" if state is NodeState.READY else "not_ready"
