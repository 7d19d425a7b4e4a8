"""What any engine answers by itself, from the store alone."""

from __future__ import annotations

import msgspec

from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Accept,
    Done,
    Failed,
    Install,
    Installed,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Prepare,
    Report,
)
from sessionha.topology.members import holds
from sessionha.topology.rows import Rows, Voting
from sessionha.topology.timing import LEASE_MARGIN
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
        cluster=shown.cluster,
    )


FOR_THE_LEADER = (Ping, Join, Report, Leave, Install)
"""Messages that the automaton hears of as well."""


def answer(
    sender: Sender,
    message: Message,
    me: Member,
    rows: Rows,
    now: int,
    description: str,
    voting: Voting | None = None,
) -> Message | None:
    """The reply to a membership message; None for what is none, or needs a look at the network.

    `voting`: of an elector, in quorum mode.
    """
    match message:
        case Ping():
            reply = pong(message, me, *rows.held(), description)
            # One with slower settings would serve for longer than this elector waits.
            fits = voting is None or message.lease + LEASE_MARGIN <= voting.lease
            if message.asked and fits and rows.grant(sender, message, now):
                reply = msgspec.structs.replace(reply, granted=True)
            return reply if voting is None else msgspec.structs.replace(reply, blank=rows.blank())
        case Install():
            return Installed(rows.install(me, message.view, now))
        case Join() | Report() | Leave():
            return Done()
        case Prepare() | Accept():
            return _vote(message, me, rows, now, voting)
        case _:
            return None


def _vote(
    message: Prepare | Accept, me: Member, rows: Rows, now: int, voting: Voting | None
) -> Message:
    """The answer of an elector; a stranger's question about views is no question to it."""
    if voting is None:
        return Failed("ForeignCluster", "this node agrees on views in available mode")
    base = message.base if isinstance(message, Prepare) else message.view
    held, kept = rows.held()
    cluster = (kept or held).cluster
    if cluster not in ("", base.cluster):
        return Failed("ForeignCluster", "this node belongs to a cluster of another beginning")
    first = not cluster and not (isinstance(message, Prepare) and base.members)
    if first and not {me.node} <= {*base.electors} <= {*voting.electors}:
        others = f"{me.node} is configured with the nodes {', '.join(voting.electors)} as electors"
        return Failed("InvalidSettings", others + ": give every node the same `nodes`")
    if isinstance(message, Accept):
        return rows.accept(message, me, voting.file, now, voting.lease)
    if base.members:
        rows.install(me, base, now)
    return rows.prepare(message, voting.file)
