"""What any engine answers by itself, from the store alone."""

from __future__ import annotations

from sessionha.peer.messages import (
    Done,
    Install,
    Installed,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Report,
)
from sessionha.topology.members import holds
from sessionha.topology.rows import Rows
from sessionha.view import Member, View


def standing(view: View, kept: View | None, me: Member) -> str:
    """The automaton's state as far as others need it: `joined` says that the view is in force."""
    if holds(view, me.node, me.incarnation):
        return "joined"
    return "connecting" if kept is None else "reconnecting"


def pong(ping: Ping, me: Member, view: View, kept: View | None, description: str) -> Pong:
    """The answer to a heartbeat."""
    shown = view if kept is None else kept
    return Pong(
        me=me,
        view=shown.id,
        newer=shown if shown.id != tuple(ping.view) and shown.members else None,
        description=description,
        state=standing(view, kept, me),
    )


FOR_THE_LEADER = (Ping, Join, Report, Leave, Install)
"""Messages that the automaton hears of as well."""


def answer(message: Message, me: Member, rows: Rows, now: int, description: str) -> Message | None:
    """The reply to a membership message; None for what is none, or needs a look at the network."""
    match message:
        case Ping():
            return pong(message, me, *rows.held(), description)
        case Install():
            return Installed(rows.install(me, message.view, now))
        case Join() | Report() | Leave():
            return Done()
        case _:
            return None
