"""The walk of healing: copies for nodes that are to get them, without any lock.

What a walk brings is kept in quarantine: nobody counts on it before a step of the primary takes its
holder into C (R6, R10). It only makes that step small.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import msgspec

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import NO_POSITION, NO_VIEW, GroupID, Position, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    CannotHold,
    Compare,
    Compared,
    FindOld,
    Message,
    OldFound,
    Push,
    Pushes,
    Walk,
    Walked,
)
from sessionha.state import copies
from sessionha.state.bulk import BATCH, in_batches, size_of
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.pace import Pace
from sessionha.state.records import GroupRecord, get_group, group_key, groups, write_record
from sessionha.state.replication import Replication
from sessionha.store.base import Writer
from sessionha.view import View

TRY: Final = 2.0
"""Seconds a batch may take: no request waits for it."""

LOOKED: Final = 32
"""Groups read in one transaction: with their content about 1 ms."""

SEARCHED: Final = 1024
"""Groups looked through for one question after old copies: 32 ms of the receiver's time. All of a
node that has few are told in one answer."""

FIRST: Final = b""
"""Before every group."""

COMPARED: Final = 16_384
"""Positions in one answer, about 700 KB; copies beyond travel whole."""

LEFT_OVER: Final = 600_000
"""Milliseconds after which a copy that no step followed is dropped: the step of a domain comes
within seconds of its walk, and at the lowest rate within minutes."""

_encode = msgspec.msgpack.Encoder().encode


class Interrupted(Exception):
    """The target does not answer, or takes nothing: there may be another in the next view."""


class Walking:
    """Both sides of the walk."""

    def __init__(self, node: Node, replication: Replication) -> None:
        self._node = node
        self._replication = replication

    async def walk(
        self,
        domain: int,
        target: str,
        some: Mapping[GroupID, Position],
        pace: Pace,
        note: Callable[[int], None],
    ) -> dict[GroupID, Position]:
        """Bring copies of these groups, which are at these positions here, in order, to the target;
        where its copies are then. `note` is told the bytes of every batch.

        What is being committed to is left to the step: only what all of C has may go beyond C.

        Raises:
            Interrupted: the target did not answer, or has no room.
        """
        known = await self._compare(domain, target, some)
        wanting = [group for group, position in some.items() if known.get(group) != position]
        for start in range(0, len(wanting), LOOKED):
            todo = wanting[start : start + LOOKED]
            while todo:
                pushes, size = self._read(todo, known)
                if pushes:
                    await pace.spend(size, self._node.options.heal_rate)
                    reply = await self._ask(target, Walk(tuple(pushes)))
                    kept = reply.kept if isinstance(reply, Walked) else ()
                    if len(kept) != len(pushes):
                        raise Interrupted
                    for push, stays in zip(pushes, kept, strict=True):
                        if stays:
                            known[push.group] = Position(push.epoch, push.version)
                    note(size)
            await asyncio.sleep(0)
        return known

    async def _compare(
        self, domain: int, target: str, mine: Mapping[GroupID, Position]
    ) -> dict[GroupID, Position]:
        """Where the target's copies are: of a domain that is as it was, one short message."""
        reply = await self._ask(target, Compare(domain, digest(mine.items())))
        if not isinstance(reply, Compared):
            raise Interrupted
        if reply.same:
            return dict(mine)
        told = dict(reply.positions)
        return {group: Position(*told[group]) for group in mine if group in told}

    async def old_copies(self, holder: str) -> AsyncIterator[Sequence[GroupID]]:
        """Groups of which the holder has a copy that is not in sync, some at a time.

        Raises:
            Interrupted: the holder did not answer.
        """
        after = FIRST
        while True:
            reply = await self._ask(holder, FindOld(after))
            if not isinstance(reply, OldFound):
                raise Interrupted
            yield reply.groups
            if not reply.after:
                return
            after = reply.after

    async def dismiss(self, holder: str, pushes: Sequence[Push]) -> None:
        """Let the holder give these copies up: C goes on without it. Raises Interrupted."""
        for batch in in_batches(pushes):
            await self._ask(holder, Pushes(batch))

    def _read(self, todo: list[GroupID], known: dict[GroupID, Position]) -> tuple[list[Push], int]:
        """The next batch, taken from `todo`: one read transaction."""
        node = self._node
        pushes: list[Push] = []
        size = 0
        with node.store.read() as reader:
            view, now = node.view_in(reader), node.clock.now()
            while todo and size < BATCH:
                group = todo.pop(0)
                record = get_group(reader, group)
                if record is None or not node.leads(record, view):
                    continue
                at = known.get(group, NO_POSITION)
                if record.acked != record.version or at == record.position:
                    continue
                push = copies.content(reader, group, record, at, now)
                pushes.append(push)
                size += size_of(push)
        return pushes, size

    async def _ask(self, target: str, message: Message) -> Message:
        node = self._node
        assert node.peers is not None, "a walk leads to another node"
        try:
            reply = await node.peers.call(target, message, TRY)
        except PeerUnavailable as error:
            if error.sent or error.refused:
                node.membership.suspect(target)
            raise Interrupted from error
        if isinstance(reply, CannotHold):
            self._replication.refused(target, None, reply.reason)
            raise Interrupted
        return reply

    # --- the other side -------------------------------------------------------------------------

    async def on_compare(self, sender: Sender, asked: Compare) -> Message:
        """Where the copies of a domain are that are not in sync here."""
        node = self._node
        found: list[tuple[GroupID, Position]] = []
        theirs: list[tuple[GroupID, Position]] = []
        after: GroupID | None = None
        while True:
            with node.store.read() as reader:
                view = node.view_in(reader)
                if not node.shares_view(sender, view):
                    return NOT_TOGETHER
                batch = list(islice(groups(reader, after, asked.domain), LOOKED))
            if not batch:
                break
            after = batch[-1][0]
            for group, record in batch:
                if self._is_old(record, view):
                    found.append((group, record.position))
                    if record.epoch.node == sender.node:
                        theirs.append(found[-1])
            await asyncio.sleep(0)
        if digest(theirs) == asked.digest:
            return Compared(True)
        return Compared(False, tuple(found[:COMPARED]))

    async def on_find_old(self, sender: Sender, asked: FindOld) -> Message:
        """Which copies are not in sync here, of the next groups."""
        node = self._node
        found: list[GroupID] = []
        after = asked.after
        for _ in range(SEARCHED // LOOKED):
            with node.store.read() as reader:
                view = node.view_in(reader)
                if not node.shares_view(sender, view):
                    return NOT_TOGETHER
                batch = list(islice(groups(reader, after or None), LOOKED))
            found += [group for group, record in batch if self._is_old(record, view)]
            if len(batch) < LOOKED:
                return OldFound(tuple(found), FIRST)
            after = batch[-1][0]
            await asyncio.sleep(0)
        return OldFound(tuple(found), after)

    def _is_old(self, record: GroupRecord, view: View) -> bool:
        return record.held and not record.swept and not self._node.is_in_sync(record, view)

    def on_walk(self, sender: Sender, walk: Walk) -> Message:
        """Keep what is news, in quarantine."""
        node = self._node
        try:
            with node.store.write() as writer:
                view = node.view_in(writer)
                if not node.shares_view(sender, view):
                    return NOT_TOGETHER
                return Walked(tuple(self._keep(writer, push, view) for push in walk.pushes))
        except StoreFull as full:
            return CannotHold(str(full))

    def _keep(self, writer: Writer, push: Push, view: View) -> bool:
        """Whether the copy is here now, at the push's position. One that is in sync is C's affair;
        one that is newer, or was given up later, is not undone by what comes late."""
        node = self._node
        record = get_group(writer, push.group) or GroupRecord()
        position = Position(push.epoch, push.version)
        if push.epoch < record.promise or node.is_in_sync(record, view):
            return False
        if record.position >= position:
            return record.held and record.position == position
        if not copies.fits(record, push):
            return False
        record.since = node.clock.now()
        copies.accept(writer, record, push, node.clock.now(), NO_VIEW)
        return True


def digest(copies_at: Iterable[tuple[GroupID, Position]]) -> bytes:
    """What two nodes have in common whose copies of some groups are at the same positions."""
    made = hashlib.blake2b(digest_size=16)
    for group, position in copies_at:
        made.update(_encode((group, position)))
    return made.digest()


def is_left_over(node: Node, record: GroupRecord, view: View, now: int) -> bool:
    """Whether a walk has brought this copy, and the primary has chosen other holders since or does
    not go on. Nobody counts on it; the seats' owners keep what they have."""
    if not record.held or node.is_in_sync(record, view) or now - record.since < LEFT_OVER:
        return False
    theirs = node.me not in record.holders and node.me not in record.seats
    return theirs and view.holds(record.epoch.node, ViewID(*record.formed))


def drop_left_over(writer: Writer, group: GroupID, record: GroupRecord, keep_until: int) -> None:
    """Forget the copy, but not what was promised: the next walk may bring it again."""
    copies.clear(writer, group)
    left = GroupRecord(promise=record.promise, keep_until=keep_until)
    writer.put(group_key(group), write_record(left))
