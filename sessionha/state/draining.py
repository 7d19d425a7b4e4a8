"""Hands everything that a node leads to others before it stops: they are asked to claim it.

The asking decides nothing: what moves a group is the ordinary hand-over, so nothing is lost where
this fails half-way, and requests that bring a group back meanwhile are served.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import Final, NamedTuple

from sessionha.errors import PeerUnavailable
from sessionha.identity import GroupID
from sessionha.peer.messages import TakeOver, TookOver
from sessionha.state import placement
from sessionha.state.manager import StateManager
from sessionha.state.records import GroupRecord, groups, read_session, rows
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
    """What a node could not hand over."""

    groups: int = 0
    sessions: int = 0
    """Those in these groups that have not ended."""
    alone: int = 0
    """Those of them that have no copy in sync on another member."""


class Draining:
    """The hand-over of one node, by one of its engines."""

    def __init__(self, state: StateManager) -> None:
        self._node = state.node
        self._given: set[GroupID] = set()
        """What others say they serve, though this node has yet to learn of it."""
        self._unwilling: set[str] = set()
        """Nodes that took nothing of what they were asked last."""
        self.moved = 0
        """Groups that others have taken over."""
        self.waiting = 0
        """Groups that are still to be handed over, or whose copies are still here."""

    async def hand_over(self, until: int) -> bool:
        """Ask others to take over every group that this node leads, again and again, until there
        is none left; False: when there was nobody to take them, or the clock said `until`."""
        node = self._node
        if node.peers is None:
            return False
        view, self.waiting = node.membership.view(), 0
        async for group, record in self._walk():
            self.waiting += self._is_mine(group, record, view)
        while True:
            found, asked = await self._ask_for_all(until)
            if not found:
                return True
            if not asked or node.clock.now() >= until:
                return False
            await asyncio.sleep(AGAIN)

    async def give_copies_away(self, until: int) -> bool:
        """Wait until the others have made copies elsewhere of what this node holds; False: the
        clock said `until`, or there are too few of them."""
        node = self._node
        while True:
            view = node.membership.view()
            others = sum(member.ready for member in view.servers if member.node != node.me)
            self.waiting = 0
            if others <= node.options.backups:
                return False
            async for _, record in self._walk():
                self.waiting += node.is_in_sync(record, view)
            if not self.waiting:
                return True
            if node.clock.now() >= until:
                return False
            await asyncio.sleep(AGAIN)

    async def left(self) -> Left:
        """What this node leads still."""
        node, count, sessions, alone = self._node, 0, 0, 0
        view, now = node.membership.view(), node.clock.now()
        async for group, record in self._walk():
            if not self._is_mine(group, record, view):
                continue
            with node.store.read() as reader:
                living = _living(reader, group, now)
            count += 1
            sessions += living
            alone += 0 if node.valid_backups(record, view) else living
        return Left(count, sessions, alone)

    # --- asking ---------------------------------------------------------------------------------

    async def _ask_for_all(self, until: int) -> tuple[int, bool]:
        """One look at every group: how many are still here, and whether anybody could be asked."""
        node, found, asked = self._node, 0, False
        unwilling: set[str] = set()
        todo: dict[str, list[GroupID]] = {}
        asking: dict[str, asyncio.Task[None]] = {}
        view = node.membership.view()
        async for group, record in self._walk():
            if not self._is_mine(group, record, view):
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
        return found, asked

    async def _ask(self, target: str, some: list[GroupID], unwilling: set[str]) -> None:
        node = self._node
        assert node.peers is not None, "somebody is asked"
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
        self._given.update(taken)
        self.moved += len(taken)
        self.waiting = max(self.waiting - len(taken), 0)

    def _target(self, group: GroupID, record: GroupRecord, view: View) -> str:
        """Who should take the group: who was promised it, who has a copy, who would get one."""
        node = self._node
        first = (record.promise.node, *node.valid_backups(record, view))
        others = placement.backups(group, view, node.me, len(view.members))
        willing = [name for name in dict.fromkeys((*first, *others)) if _takes(view, name, node.me)]
        return next((n for n in willing if n not in self._unwilling), next(iter(willing), ""))

    def _is_mine(self, group: GroupID, record: GroupRecord, view: View) -> bool:
        """Whether this node leads the group, or led it last and does not know yet of another."""
        node = self._node
        if node.leads(record, view):
            self._given.discard(group)  # a request may have brought it back
            return True
        lets_go = record.epoch.node == node.me and node.is_in_sync(record, view)
        return lets_go and group not in self._given

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


def _takes(view: View, name: str, me: str) -> bool:
    member = view.member(name)
    return name != me and member is not None and member.ready and member.role != "witness"


def _living(reader: Reader, group: GroupID, now: int) -> int:
    found = (row.value for row in rows(reader, group) if row.element is None)
    return sum(not read_session(value).ended(now) for value in found)
