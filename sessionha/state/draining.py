"""Hands everything that would be missed to others before a node stops: they are asked to claim it.

That is what the node leads, and what nobody leads since its primary went: this node may have the
last copy. The asking decides nothing: what moves a group is the ordinary hand-over, so nothing is
lost where this fails half-way, and requests that bring a group back meanwhile are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import Epoch, GroupID, ViewID
from sessionha.peer.messages import TakeOver, TookOver
from sessionha.state import placement
from sessionha.state.manager import StateManager
from sessionha.state.records import GroupRecord, get_group, groups, read_session, rows
from sessionha.store.base import Reader
from sessionha.view import View

AT_ONCE: Final = 64
"""Groups in one question: they are claimed side by side, and each may take a store transaction of
20 µs at either end, so that requests wait for a few milliseconds at most."""

SLACK: Final = 1.0
"""Seconds beyond its own deadline that whoever is asked has to answer."""

AGAIN: Final = 0.05
"""Seconds between two looks at what is left, while requests go on."""


class Left(NamedTuple):
    """What a node could not hand over, or give away."""

    groups: int = 0
    sessions: int = 0
    """Those in these groups that have not ended."""
    alone: int = 0
    """Those of them that have no copy in sync on another member."""
    copies: int = 0
    """Groups that others lead, with a copy here that will be missed."""


class _Given(NamedTuple):
    """A group that another node says it serves, and what was known here when it said so."""

    taker: str
    view: ViewID
    promise: Epoch


class _Look(NamedTuple):
    """What was found in one look at every group."""

    found: int = 0
    """Groups that are still to be handed over."""
    asked: bool = False
    """Whether anybody could be asked for one of them."""
    copies: int = 0
    """Groups that others lead, with a copy here."""


class Draining:
    """The hand-over of one node, by one of its engines."""

    def __init__(self, state: StateManager, moved: int = 0) -> None:
        """`moved`: groups that another engine of the node has handed over before."""
        self._state = state
        self._node = state.node
        self._given: dict[GroupID, _Given] = {}
        """What others say they serve, though this node has yet to learn of it."""
        self._unwilling: set[str] = set()
        """Nodes that took nothing of what they were asked last."""
        self.moved = moved
        """Groups that others have taken over."""
        self.waiting = 0
        """Groups that are still to be handed over, or whose copies are still here."""

    async def hand_over(self, until: int) -> bool:
        """Ask others to take over every group that would be missed, again and again, until there
        is none left; False: when there was nobody to take them, or the clock said `until`."""
        node = self._node
        if node.peers is None:
            return False
        view, self.waiting = node.membership.view(), 0
        async for group, record in self._walk():
            self.waiting += self._is_mine(group, record, view)
        while True:
            look = await self._ask_for_all(until)
            if not look.found:
                return True
            if not look.asked or node.clock.now() >= until:
                return False
            await asyncio.sleep(AGAIN)

    async def give_copies_away(self, until: int) -> bool:
        """Wait until the others have made copies elsewhere of what this node holds, and hand over
        what requests bring back meanwhile; False: the clock said `until`, or there are too few of
        them."""
        node = self._node
        while True:
            look = await self._ask_for_all(until)
            self.waiting = look.found + look.copies
            if not self.waiting:
                return True
            waits = look.copies and self._are_enough(node.membership.view())
            if not (look.asked or waits) or node.clock.now() >= until:
                return False
            await asyncio.sleep(AGAIN)

    async def left(self, *, for_good: bool = False) -> Left:
        """What would be missed if the node went now; `for_good`: and would not be back."""
        node, count, sessions, alone, copies = self._node, 0, 0, 0, 0
        view, now = node.membership.view(), node.clock.now()
        async for group, record in self._walk():
            if not self._is_mine(group, record, view):
                copies += for_good and node.is_in_sync(record, view)
                continue
            with node.store.read() as reader:
                living = _living(reader, group, now)
            count += 1
            sessions += living
            alone += 0 if node.valid_backups(record, view) else living
        return Left(count, sessions, alone, copies)

    def _are_enough(self, view: View) -> bool:
        """Whether as many copies as are wanted can be elsewhere."""
        others = [m for m in view.servers if m.node != self._node.me and not m.drains]
        return len(others) > self._node.options.backups

    # --- asking ---------------------------------------------------------------------------------

    async def _ask_for_all(self, until: int) -> _Look:
        """One look at every group, asking others for those that are to be handed over."""
        node, found, asked, copies = self._node, 0, False, 0
        unwilling: set[str] = set()
        todo: dict[str, list[GroupID]] = {}
        asking: dict[str, asyncio.Task[None]] = {}
        view = node.membership.view()
        async for group, record in self._walk():
            if not self._is_mine(group, record, view):
                copies += node.is_in_sync(record, view)
                continue
            found += 1
            target = self._target(group, record, view)
            if not target:
                continue
            asked = True
            todo.setdefault(target, []).append(group)
            if len(todo[target]) == AT_ONCE:
                if target in asking:
                    await asking[target]  # the others go on meanwhile
                asking[target] = node.spawn(self._ask(target, todo.pop(target), unwilling))
                if node.clock.now() >= until:
                    break
                view = node.membership.view()
        await asyncio.gather(*asking.values())
        await asyncio.gather(*(self._ask(name, some, unwilling) for name, some in todo.items()))
        self._unwilling = unwilling
        return _Look(found, asked, copies)

    async def _ask(self, target: str, some: list[GroupID], unwilling: set[str]) -> None:
        node = self._node
        assert node.peers is not None, "somebody is asked"
        await self._inherit(some)
        patience = node.options.acquire_timeout + node.options.commit_timeout + SLACK
        try:
            reply = await node.peers.call(target, TakeOver(tuple(some)), patience)
        except PeerUnavailable as error:
            if error.sent or error.refused:
                node.membership.suspect(target)
            reply = None
        taken = reply.groups if isinstance(reply, TookOver) else ()
        if not taken:
            unwilling.add(target)
        self._note_given(target, taken)
        self.moved += len(taken)
        self.waiting = max(self.waiting - len(taken), 0)

    async def _inherit(self, some: Sequence[GroupID]) -> None:
        """Lead those of these groups that nobody leads: all with one question, and what is handed
        over then is handed over by a primary. For what is not plain there is whoever is asked."""
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            found = [(group, get_group(reader, group)) for group in some]
        orphans = [
            group
            for group, record in found
            if record is not None
            and node.is_in_sync(record, view)
            and record.epoch.node != node.me
            and _is_without_primary(record, view)
        ]
        if not orphans:
            return
        try:
            if await self._state.ownership.inherit(orphans):
                await self._state.bulk.settle(orphans, widen=False)
        except StoreFull:
            return

    def _note_given(self, taker: str, some: Sequence[GroupID]) -> None:
        with self._node.store.read() as reader:
            view = self._node.view_in(reader).id
            for group in some:
                record = get_group(reader, group)
                if record is not None:
                    self._given[group] = _Given(taker, view, record.promise)

    def _target(self, group: GroupID, record: GroupRecord, view: View) -> str:
        """Who should take the group: who was promised it, who has a copy, who would get one.
        Nobody can while a newer copy may be on a server that is away."""
        node = self._node
        if not node.is_in_sync(record, view) and node.membership.unproven():
            return ""
        first = (record.promise.node, *node.valid_backups(record, view))
        others = placement.backups(group, view, node.me, len(view.members))
        willing = [name for name in dict.fromkeys((*first, *others)) if _takes(view, name, node.me)]
        return next((n for n in willing if n not in self._unwilling), next(iter(willing), ""))

    def _is_mine(self, group: GroupID, record: GroupRecord, view: View) -> bool:
        """Whether the group would be missed: this node leads it, led it last and does not know yet
        of another, or nobody leads it and no other copy is better than this one."""
        node = self._node
        if node.leads(record, view):
            self._given.pop(group, None)  # a request may have brought it back
            return True
        if self._is_given(group, record, view):
            return False
        if record.epoch.node != node.me and not _is_without_primary(record, view):
            return False
        return node.is_in_sync(record, view) or not node.valid_backups(record, view)

    def _is_given(self, group: GroupID, record: GroupRecord, view: View) -> bool:
        """Whether another node serves it by its own word, and nothing has happened since."""
        given = self._given.get(group)
        if given is None:
            return False
        return given.promise == record.promise and view.holds(given.taker, given.view)

    async def _walk(self) -> AsyncIterator[tuple[GroupID, GroupRecord]]:
        """Every copy of this node, while others have their turn."""
        after: GroupID | None = None
        while True:
            with self._node.store.read() as reader:
                batch = list(islice(groups(reader, after), AT_ONCE))
            if not batch:
                return
            for group, record in batch:
                if record.held:
                    yield group, record
            after = batch[-1][0]
            await asyncio.sleep(0)


def _is_without_primary(record: GroupRecord, view: View) -> bool:
    """Whether the group's primary, as this copy knows it, went: whoever needs it promotes."""
    return not view.holds(record.epoch.node, record.formed)


def _takes(view: View, name: str, me: str) -> bool:
    member = view.member(name)
    return name != me and member is not None and member.ready and member.role != "witness"


def _living(reader: Reader, group: GroupID, now: int) -> int:
    found = (row.value for row in rows(reader, group) if row.element is None)
    return sum(not read_session(value).ended(now) for value in found)
