"""What the automaton asks of the world around it."""

from __future__ import annotations

from dataclasses import dataclass

from sessionha.peer.messages import Message
from sessionha.view import View


@dataclass(frozen=True, slots=True)
class Send:
    """Call a node, perhaps this one; tell the automaton its reply, or that there was none within
    `timeout` ms."""

    node: str
    message: Message
    timeout: int
    straight: bool = False
    """Take no detour; what comes of it tells whether there is a straight way."""


@dataclass(frozen=True, slots=True)
class Write:
    """Put the view, and the view set aside, into the store in one transaction.

    Only if the store still holds `base`; otherwise a sibling was first: drop the effects that
    follow and tell the automaton what the store holds.
    """

    base: View
    view: View
    kept: View | None = None


@dataclass(frozen=True, slots=True)
class Renew:
    """Give the store a new incarnation, close every stream, and tell the automaton."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Let the node serve until this instant (R9); one that lies back: not at all."""

    until: int


@dataclass(frozen=True, slots=True)
class Release:
    """A member serves no more, by proof: what it was granted is void."""

    node: str
    incarnation: str
    run: int | None
    """Which of its starts ended; None: the one that was granted something before `before`."""
    before: int = 0
    """An instant after which this node saw that no process of the member lives."""


@dataclass(frozen=True, slots=True)
class Log:
    """One line for the operator."""

    level: int
    text: str


Effect = Send | Write | Renew | Lease | Release | Log
