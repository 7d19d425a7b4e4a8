"""How many copies groups have: a node's health in numbers, and what only some nodes have.

Every group is counted by one node: its primary, or where that is gone the first holder left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

import msgspec

from sessionha.errors import PeerUnavailable, StoreFull
from sessionha.identity import DOMAINS, GroupID
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    CopiesFound,
    Course,
    FindCopies,
    Health,
    Message,
    Share,
    Survey,
    Surveyed,
    Weigh,
    Weighed,
    Weight,
)
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import GROUPS, GroupRecord, get_group, groups, read_session
from sessionha.store.base import Reader
from sessionha.view import View

HEALTH: Final = b"\x00health"
"""Store row: the numbers as the engine that leads found them, for all engines of the node."""

AT_ONCE: Final = 128
"""Groups read in one transaction: about 1 ms."""

IN_HASTE: Final = 8
"""Batches in one look while the numbers are of another view: 3 % of a core."""

RESTS: Final = 2_000
"""Milliseconds between two rounds while nothing is known to have changed."""

ANSWER: Final = 1.0
"""Seconds that a member may take to say that it is there."""

WEIGHING: Final = 30.0
"""Seconds that a member may take to look at all its groups: 100,000 take about one."""

AGAIN: Final = 0.05
"""Seconds between two looks at rounds that are under way."""

REMEMBERED: Final = 10_000
"""Open rounds that are remembered from one count to the next, about 1 MB."""

NO_COURSE: Final = Course()

_SESSION_END: Final = 1 + 12 + 16

_encode = msgspec.msgpack.Encoder().encode
_read_health = msgspec.msgpack.Decoder(Health).decode


class Safety(NamedTuple):
    """What would be lost if a node stopped now."""

    alone: Weight
    """With nobody else."""
    zones: dict[str, Weight]
    """With one zone besides, or one node that is in none."""
    silent: tuple[str, ...]
    """Members that did not answer: they count as stopped already."""
    unknown: tuple[str, ...]
    """Members that answered at first and not in the end: what they have is not counted."""


class Redundancy:
    """One engine's count. Only the engine that leads the node counts unasked."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._domains = [Health()] * DOMAINS
        self._after: GroupID | None = None
        self._domain = 0
        self._sums = Health()
        self._basis: tuple[object, ...] = ()
        self._complete: tuple[object, ...] = ()
        self._rests_until = 0
        self._walking = False
        self._open: dict[GroupID, int] = {}
        """Groups with a round under way when they were counted, and what was acknowledged then."""
        self._open_before: dict[GroupID, int] = {}
        """The same in the round of counting before."""

    # --- health ---------------------------------------------------------------------------------

    async def look(self, course: Course = NO_COURSE) -> None:
        """Note how far the healing has come and count a little more, while others have their turn:
        a round over 100,000 groups takes 25 s and 0.7 s of CPU after a change of the view, and
        minutes otherwise."""
        now, basis = self._node.clock.now(), self._changes()
        if self._walking:
            begins = basis[0] != self._basis[0]
        else:
            begins = basis != self._complete or now >= self._rests_until
        if begins:
            self._begin(basis)
        for _ in range(1 if self._basis == self._complete else IN_HASTE):
            if not self._walking:
                break
            self._count()
            await asyncio.sleep(0)
        self._leave(course, complete=self._complete[:1] == basis[:1])

    def _changes(self) -> tuple[object, ...]:
        """What makes the last round worthless when it is different: the view, and copies made."""
        node, counts = self._node, self._node.counters
        made = (counts.repaired, counts.healed, counts.replaced, counts.refilled, counts.moved)
        return node.membership.view().id, node.options.backups, made

    def _begin(self, basis: tuple[object, ...]) -> None:
        self._basis, self._walking = basis, True
        self._after, self._domain, self._sums = None, 0, Health()
        self._open_before, self._open = self._open, {}

    def _count(self) -> None:
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            batch = list(islice(groups(reader, self._after), AT_ONCE))
            for group, record in batch:
                self._go_to(group[0])
                self._sums = self._sums.plus(self._health(reader, group, record, view))
        if len(batch) == AT_ONCE:
            self._after = batch[-1][0]
        else:
            self._go_to(DOMAINS)
            self._walking = False
            self._complete, self._rests_until = self._basis, node.clock.now() + RESTS

    def _go_to(self, domain: int) -> None:
        while self._domain < domain:
            self._domains[self._domain] = self._sums
            self._domain, self._sums = self._domain + 1, Health()

    def _health(
        self, reader: Reader, group: GroupID, record: GroupRecord, view: View
    ) -> Health | None:
        node = self._node
        if not record.held:
            return None
        if not node.is_in_sync(record, view):
            return Health(old=1)
        left = living_holders(record, view)
        if not left or left[0] != node.me:
            return None
        if len(left) > 1 and record.acked != record.version:
            if self._open_before.get(group) == record.acked:
                left = left[:1]  # it may be the one that makes the copies
            if len(self._open) < REMEMBERED:
                self._open[group] = record.acked
        share = Share(1, weight(reader, group).bytes)
        if len(left) > node.options.backups:
            return Health(redundant=share)
        return Health(degraded=share) if len(left) > 1 else Health(at_risk=share)

    def _leave(self, course: Course, *, complete: bool) -> None:
        """Put the sums into the store, where all engines find them."""
        sums = Health(view=self._node.membership.view().id, complete=complete, course=course)
        for each in self._domains:
            sums = sums.plus(each)
        row = _encode(sums)
        with self._node.store.read() as reader:
            if reader.get(HEALTH) == row:
                return
        try:
            with self._node.store.write() as writer:
                writer.put(HEALTH, row)
        except StoreFull:
            return  # sessions need the room more

    def health(self) -> Health:
        """The numbers as they were left last."""
        with self._node.store.read() as reader:
            raw = reader.get(HEALTH)
        return Health() if raw is None else _read_health(raw)

    async def everywhere(self) -> dict[str, Health | None]:
        """The numbers of every member that holds sessions; None: it did not answer."""
        node = self._node
        others = [member.node for member in node.membership.view().servers]
        replies = await asyncio.gather(*(self._ask(name, Survey(), ANSWER) for name in others))
        return {
            name: reply.health if isinstance(reply, Surveyed) else None
            for name, reply in zip(others, replies, strict=True)
        }

    # --- what only some nodes have --------------------------------------------------------------

    async def safety(self, name: str, *, zones: bool) -> Safety:
        """What would be lost if the node `name` stopped now, or (`zones`) it and any one zone.

        Members that do not answer count as stopped: a copy that only they have is none.
        """
        view = self._node.membership.view()
        members = [member.node for member in view.servers]
        there = await asyncio.gather(*(self._ask(one, Weigh(), ANSWER) for one in members))
        silent = {one for one, reply in zip(members, there, strict=True) if reply is None}
        asked = [one for one in members if one not in silent]
        fates = _fates(view, name) if zones else {}
        parts = [{name}, *({name, *nodes} for nodes in fates.values())]
        question = Weigh(tuple(tuple(sorted(part)) for part in parts), tuple(sorted(silent)))
        replies = await asyncio.gather(*(self._ask(one, question, WEIGHING) for one in asked))
        sums = [Weight()] * len(parts)
        unknown = []
        for one, reply in zip(asked, replies, strict=True):
            if isinstance(reply, Weighed) and len(reply.weights) == len(parts):
                sums = [total.plus(more) for total, more in zip(sums, reply.weights, strict=True)]
            else:
                unknown.append(one)
        return Safety(
            sums[0],
            dict(zip(fates, sums[1:], strict=True)),
            tuple(sorted(silent)),
            tuple(unknown),
        )

    async def _ask(self, name: str, question: Message, timeout: float) -> Message | None:
        node = self._node
        if name == node.me:
            return await self.answer(question)
        assert node.peers is not None, "who is alone asks nobody else"
        try:
            return await node.peers.call(name, question, timeout)
        except PeerUnavailable:
            return None

    async def on_question(self, sender: Sender, question: Survey | Weigh) -> Message:
        """Answer a member."""
        node = self._node
        if not node.shares_view(sender, node.membership.view()):
            return NOT_TOGETHER
        return await self.answer(question)

    async def answer(self, question: Message) -> Message:
        """What this node knows."""
        if isinstance(question, Survey):
            return Surveyed(self.health())
        assert isinstance(question, Weigh)
        return Weighed(await self._weigh(question.nodes, question.silent))

    async def _weigh(
        self, parts: Sequence[Collection[str]], silent: Collection[str]
    ) -> tuple[Weight, ...]:
        """For each part what only its nodes have, of the groups that this node answers for."""
        node = self._node
        sums = _Sums(parts)
        unsettled: list[GroupID] = []
        orphans: list[GroupID] = []
        after: GroupID | None = None
        while parts:
            with node.store.read() as reader:
                view = node.view_in(reader)
                batch = list(islice(groups(reader, after), AT_ONCE))
                for group, record in batch:
                    left = self._left(record, view, silent)
                    if len(left) > 1 and not node.leads(record, view):
                        orphans.append(group)
                    elif len(left) > 1 and record.acked != record.version:
                        unsettled.append(group)
                    elif left:
                        sums.add(reader, group, left)
            if not batch:
                break
            after = batch[-1][0]
            await asyncio.sleep(0)
        await self._weigh_unsettled(unsettled, silent, sums)
        await self._weigh_orphans(orphans, silent, sums)
        return tuple(sums.weights)

    def _left(self, record: GroupRecord, view: View, silent: Collection[str]) -> tuple[str, ...]:
        """Who has the group, if it is this node that answers for it."""
        if not self._node.is_in_sync(record, view):
            return ()
        left = living_holders(record, view, silent)
        return left if left[:1] == (self._node.me,) else ()

    async def _weigh_unsettled(
        self, some: Sequence[GroupID], silent: Collection[str], sums: _Sums
    ) -> None:
        """A round under way may be the one that makes a copy: wait for its end. What stays open
        counts as only here."""
        node = self._node
        limit = node.clock.now() + int(node.options.commit_timeout * 1000)
        while some:
            late, still = node.clock.now() >= limit, []
            with node.store.read() as reader:
                view = node.view_in(reader)
                for group in some:
                    record = get_group(reader, group)
                    left = self._left(record, view, silent) if record is not None else ()
                    if record is None or not left:
                        continue
                    is_open = record.acked != record.version
                    if is_open and not late:
                        still.append(group)
                    else:
                        sums.add(reader, group, left[:1] if is_open else left)
            some = still
            await asyncio.sleep(AGAIN if still else 0)

    async def _weigh_orphans(
        self, some: Sequence[GroupID], silent: Collection[str], sums: _Sums
    ) -> None:
        """A primary that died may have named a holder that it had yet to bring the copy: ask."""
        node = self._node
        for start in range(0, len(some), AT_ONCE):
            part = tuple(some[start : start + AT_ONCE])
            names = [each.node for each in node.membership.view().servers if each.node != node.me]
            asked = [name for name in names if name not in silent]
            replies = await asyncio.gather(
                *(self._ask(name, FindCopies(part), ANSWER) for name in asked)
            )
            have = {
                name: frozenset(reply.groups) if isinstance(reply, CopiesFound) else frozenset()
                for name, reply in zip(asked, replies, strict=True)
            }
            with node.store.read() as reader:
                view = node.view_in(reader)
                for group in part:
                    record = get_group(reader, group)
                    left = self._left(record, view, silent) if record is not None else ()
                    there = [name for name in left[1:] if group in have.get(name, ())]
                    if left:
                        sums.add(reader, group, (node.me, *there))

    def on_find(self, sender: Sender, question: FindCopies) -> Message:
        """Tell which of these groups have a copy here that is in sync."""
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            if not node.shares_view(sender, view):
                return NOT_TOGETHER
            records = ((group, get_group(reader, group)) for group in question.groups[:AT_ONCE])
            return CopiesFound(
                tuple(
                    group
                    for group, record in records
                    if record is not None and node.is_in_sync(record, view)
                )
            )


class _Sums:
    """What would be lost with each of these parts of the cluster."""

    def __init__(self, parts: Sequence[Collection[str]]) -> None:
        self._parts = [frozenset(part) for part in parts]
        self.weights = [Weight()] * len(parts)

    def add(self, reader: Reader, group: GroupID, left: Sequence[str]) -> None:
        """A group that these nodes have."""
        lost = [index for index, part in enumerate(self._parts) if part.issuperset(left)]
        weighs = weight(reader, group) if lost else Weight()
        for index in lost:
            self.weights[index] = self.weights[index].plus(weighs)


def _fates(view: View, name: str) -> dict[str, list[str]]:
    """The nodes of each zone; a node in none may fail by itself, and is a zone of its own."""
    found: dict[str, list[str]] = {}
    for member in view.servers:
        if member.zone or member.node != name:
            found.setdefault(member.zone or member.node, []).append(member.node)
    return dict(sorted(found.items()))


def living_holders(
    record: GroupRecord, view: View, silent: Collection[str] = ()
) -> tuple[str, ...]:
    """Who has the group in sync, as far as this copy's record knows: the primary first."""
    return tuple(
        name for name in record.holders if name not in silent and view.holds(name, record.formed)
    )


def weight(reader: Reader, group: GroupID) -> Weight:
    """The group, and its sessions that were not destroyed. Skips over their elements."""
    sessions = size = 0
    for raw in _session_rows(reader, group):
        session = read_session(raw)
        if not session.destroyed:
            sessions, size = sessions + 1, size + session.size
    return Weight(1, sessions, size)


def _session_rows(reader: Reader, group: GroupID) -> Iterator[bytes]:
    prefix = after = GROUPS + group
    while True:
        found = next(iter(reader.scan(prefix, after=after)), None)
        if found is None:
            return
        key, value = found
        if len(key) == _SESSION_END:
            yield value
        after = key[:_SESSION_END] + b"\xff"  # no name of an element has this byte
