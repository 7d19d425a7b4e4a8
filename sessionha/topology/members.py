"""How one view follows from another: pure functions on views, and what a change of view means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from sessionha.identity import ViewID
from sessionha.topology.base import Change
from sessionha.view import Departure, Member, View

DEPARTED_LIMIT = 256
"""Departed nodes that a view remembers; with dynamic admission the earliest are forgotten first."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A member that goes: how, and whether it is gone by proof (R2a)."""

    how: Departure
    proven: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next view changes. A node in both parts goes and comes back in one step."""

    removed: Mapping[str, Removal]
    added: tuple[Member, ...] = ()
    """Nodes that join; their `joined` is set to the new view's ID."""
    updated: tuple[Member, ...] = ()
    """Members that describe themselves anew; they keep their place."""
    barrier: bool = False
    """Somebody who joins could have served apart from the members."""

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.updated)


def next_view(base: View, plan: Plan, highest: int = 0) -> View:
    """The view after `base`, with a number above `highest` too.

    Its ID names its lowest member, which is the one that decides it, so no two nodes can make
    different views of one ID. With electors it is only a proposal: the next number, and no name.
    """
    updates = {member.node: member for member in plan.updated}
    staying = [
        msgspec.structs.replace(updates[member.node], joined=member.joined, kept=member.kept)
        if member.node in updates
        else member
        for member in base.members
        if member.node not in plan.removed
    ]
    nodes = {member.node for member in staying} | {member.node for member in plan.added}
    assert nodes, "a view has members"
    assert len(nodes) == len(staying) + len(plan.added), "a node joins that is a member"
    new_id = ViewID(max(base.id.number, highest) + 1, min(nodes))
    if base.electors:
        new_id = ViewID(base.id.number + 1, "")
    joining = [msgspec.structs.replace(member, joined=new_id) for member in plan.added]
    proven = [node for node, removal in plan.removed.items() if removal.proven]
    return View(
        id=new_id,
        members=ordered([*staying, *joining]),
        barrier=new_id if plan.barrier else base.barrier,
        absent=tuple(sorted({*base.absent, *proven} - nodes)),
        departed=_departed(base, plan.removed, nodes),
        cluster=base.cluster,
        electors=base.electors,
    )


def _departed(
    base: View, removed: Mapping[str, Removal], nodes: set[str]
) -> tuple[tuple[str, Departure], ...]:
    earlier = [(n, how) for n, how in base.departed if n not in nodes and n not in removed]
    now = [(n, removed[n].how) for n in sorted(removed) if n not in nodes]
    return tuple([*earlier, *now][-DEPARTED_LIMIT:])


def ordered(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members in the order of every view: who joined earlier first, then by node ID."""
    return tuple(sorted(members, key=lambda member: (member.joined, member.node)))


def merge(mine: View, theirs: View, live: Mapping[str, str], highest: int = 0) -> View:
    """The view that joins two sides which have met, with all members of both.

    The side with the higher ID keeps its members' places; those of the other side join anew and
    the view is a barrier, because both sides could have served. `live` names the incarnation in
    which a node answers now: it decides where the sides know a node in different ones.
    """
    base, other = (mine, theirs) if mine.id >= theirs.id else (theirs, mine)
    removed: dict[str, Removal] = {}
    added = []
    for member in other.members:
        known = base.member(member.node)
        if known is not None:
            if known.incarnation == member.incarnation:
                continue
            if live.get(member.node) != member.incarnation:
                continue
            removed[member.node] = Removal("failed", proven=False)
        added.append(msgspec.structs.replace(member, kept=True))
    gone = {node for view in (base, other) for node, _ in view.departed}
    joined = next_view(
        base, Plan(removed, tuple(added), barrier=True), max(highest, other.id.number)
    )
    missing = gone - set(joined.nodes) - {node for node, _ in joined.departed}
    extra = tuple((node, how) for node, how in other.departed if node in missing)
    absent = tuple(sorted({*joined.absent, *other.absent} - set(joined.nodes)))
    return msgspec.structs.replace(
        joined, departed=(extra + joined.departed)[-DEPARTED_LIMIT:], absent=absent
    )


def ring_of(nodes: Iterable[str], order: Iterable[str]) -> tuple[str, ...]:
    """The nodes in the order of the description; those that are not described come last, by ID."""
    place = {name: index for index, name in enumerate(order)}
    return tuple(sorted(nodes, key=lambda name: (place.get(name, len(place)), name)))


def holds(view: View, node: str, incarnation: str) -> bool:
    """Whether the view has this node in this incarnation."""
    member = view.member(node)
    return member is not None and member.incarnation == incarnation


def forked(mine: View, theirs: View) -> bool:
    """Whether two views have no membership in common, so that both sides could have served apart.

    A common one (node, incarnation, joined) went from one of the views to the other by itself: the
    view with the lower number is only out of date.
    """
    known = {(member.node, member.incarnation, member.joined) for member in mine.members}
    return all((m.node, m.incarnation, m.joined) not in known for m in theirs.members)


def accepts(held: View, offered: View, me: Member) -> bool:
    """Whether a node that holds `held` installs `offered` at once, in whichever engine it arrives.

    A view with the node itself: whenever it is newer. One without it: only when it was a member of
    the view before, and so was excluded; it must stop serving now. Where electors decide there is
    one chain of views, and any newer one is installed.
    """
    if not offered.supersedes(held):
        return False
    if offered.electors or held.electors:
        return bool(offered.electors) and held.cluster in ("", offered.cluster)
    if holds(offered, me.node, me.incarnation):
        return True
    return holds(held, me.node, me.incarnation) and not forked(held, offered)


def changes(old: View, new: View) -> tuple[Change, ...]:
    """What `new` changed for each node, departures first: the only place that judges it.

    Precedence: another incarnation is a failure and a return, whatever the views say of the node
    besides; the same incarnation with a later `joined` is a return; a node that was known before is
    returned, an unknown one joined.
    """
    before = {member.node: member for member in old.members}
    after = {member.node: member for member in new.members}
    how = dict(new.departed)
    went: list[Change] = []
    came: list[Change] = []
    for node, was in before.items():
        now = after.get(node)
        if now is None:
            went.append(_departure(node, how.get(node, "failed")))
        elif now.incarnation != was.incarnation:
            went.append(Change("failed", node))
    known = {node for node, _ in old.departed} | set(before)
    for node, now in after.items():
        earlier = before.get(node)
        if earlier is not None and earlier.incarnation == now.incarnation:
            if earlier.joined != now.joined:
                came.append(Change("returned", node, kept=True))
        elif node in known:
            came.append(Change("returned", node, kept=now.kept))
        else:
            came.append(Change("joined", node, kept=now.kept))
    return (*went, *came)


def _departure(node: str, how: Departure) -> Change:
    if how == "failed":
        return Change("failed", node)
    return Change("left", node, kept=how == "returning")
