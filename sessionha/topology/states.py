"""The states of a node in its cluster, and the table of everything that moves it between them.

`docs/architecture.md` shows this table; `make docs` writes it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from sessionha.peer.messages import Install, Join, Leave, Message, Ping, Report


class State(StrEnum):
    """Where a node stands in its cluster."""

    CONNECTING = "connecting"
    JOINING = "joining"
    JOINED = "joined"
    RECONNECTING = "reconnecting"
    LEAVING = "leaving"
    STOPPED = "stopped"


class Event(StrEnum):
    """What can move a node from one state to another."""

    FOUND = "found a view in force"
    VANISHED = "who was found is gone"
    ENTERED = "a view with this node"
    LEFT_OUT = "a view without this node"
    PAUSED = "this process stood still"
    GOODBYE = "asked to leave"
    ALONE = "nobody is left to say goodbye to"
    UNHEARD = "nobody acknowledged the goodbye"


class Move(NamedTuple):
    """Where an event leads, and why, for the log; `{view}` is the number of the view at hand."""

    to: State
    why: str


_S, _E = State, Event

MEANS: Mapping[State, str] = {
    _S.CONNECTING: "in no view; looks for somebody who is in one",
    _S.JOINING: "has asked to be admitted to a view; nodes that are in none are ignored",
    _S.JOINED: "a member",
    _S.RECONNECTING: "was a member before a restart or a pause; asks whether that view still holds",
    _S.LEAVING: "has said goodbye, and waits for a view without itself",
    _S.STOPPED: "takes no part any more",
}

_ENTERS = Move(_S.JOINED, "member of view {view}")
_IS_OUT = Move(_S.CONNECTING, "view {view} is without this node")
_STOPS = Move(_S.STOPPED, "asked to leave")

MOVES: Mapping[tuple[State, Event], Move] = {
    (_S.CONNECTING, _E.FOUND): Move(_S.JOINING, "found view {view}"),
    (_S.CONNECTING, _E.ENTERED): _ENTERS,
    (_S.CONNECTING, _E.GOODBYE): _STOPS,
    (_S.JOINING, _E.VANISHED): Move(_S.CONNECTING, "the members that were found are gone"),
    (_S.JOINING, _E.ENTERED): _ENTERS,
    (_S.JOINING, _E.GOODBYE): _STOPS,
    (_S.JOINED, _E.ENTERED): _ENTERS,
    (_S.JOINED, _E.LEFT_OUT): _IS_OUT,
    (_S.JOINED, _E.PAUSED): Move(_S.RECONNECTING, "was stopped; view {view} has to be checked"),
    (_S.JOINED, _E.GOODBYE): Move(_S.LEAVING, "asked to leave"),
    (_S.JOINED, _E.ALONE): Move(_S.STOPPED, "asked to leave, and alone"),
    (_S.RECONNECTING, _E.ENTERED): _ENTERS,
    (_S.RECONNECTING, _E.LEFT_OUT): _IS_OUT,
    (_S.RECONNECTING, _E.GOODBYE): _STOPS,
    (_S.LEAVING, _E.ENTERED): Move(_S.LEAVING, "member of view {view} for now"),
    (_S.LEAVING, _E.LEFT_OUT): Move(_S.STOPPED, "the others have view {view} without this node"),
    (_S.LEAVING, _E.ALONE): Move(_S.STOPPED, "nobody else is left"),
    (_S.LEAVING, _E.UNHEARD): Move(_S.STOPPED, "nobody acknowledged the goodbye"),
    (_S.LEAVING, _E.GOODBYE): _STOPS,
}
"""Every transition there is; an event that has no row in a state cannot happen in it."""

HEARS: Mapping[State, tuple[type[Message], ...]] = {
    _S.CONNECTING: (Ping, Install),
    _S.JOINING: (Ping, Install),
    _S.JOINED: (Ping, Install, Join, Report, Leave),
    _S.RECONNECTING: (Ping, Install),
    _S.LEAVING: (Ping, Install),
    _S.STOPPED: (),
}
"""The messages that a state listens to; any other is dropped and counted."""
