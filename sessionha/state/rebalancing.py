"""Spreads copies evenly again after a node joined: backup seats of idle groups move to it.

Only a group's primary moves its seats (R10), by a versioned step in which the old holder gives its
copy up when the new one has it (R1). Nothing is moved while a copy is missing somewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple

from sessionha.errors import Fenced, PeerUnavailable, SessionHAError
from sessionha.identity import NO_VIEW, GroupID, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import CopiesCounted, CountCopies, Message
from sessionha.state import placement
from sessionha.state.delays import Delays
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import (
    GroupRecord,
    get_group,
    group_key,
    groups,
    read_session,
    rows,
    write_record,
)
from sessionha.state.replication import Replication
from sessionha.store.base import Reader
from sessionha.view import Member, View

log = logging.getLogger("sessionha.state")

EVEN: Final = 0.05
"""How far from its share a node may be: the fullest then holds 1.11 times what the emptiest does,
and counts that change a little move nothing to and fro."""

LATELY: Final = 120_000
"""Milliseconds since the last recorded use of a session before its group is moved: uses are
recorded at least every minute, so one that is in use has always been used lately."""

SETTLED: Final = 5_000
"""Milliseconds that a view must have been the same: who starts is often not the only one."""

COUNT_EVERY: Final = 5_000
"""Milliseconds after which the members are asked again what they hold: others move as well."""

LOOK_EVERY: Final = 60_000
"""Milliseconds until a node looks again when all was even, or nothing could be moved."""

PATIENCE: Final = 5.0
"""Seconds a member may take to count its copies: 100,000 take one."""

ROWS: Final = 128
"""Groups read in one transaction."""

SIDE_BY_SIDE: Final = 8
"""Groups moved at the same time."""

BYTES: Final = 1024 * 1024
"""Bytes moved in a second, about, whatever the setting says: a group may have 3 MB."""


@dataclass
class Shares:
    """How many copies each node holds, and should."""

    held: dict[str, int]
    weights: Mapping[str, int]
    """Of a spare and of who drains 0: it should hold none."""
    moves: dict[str, int] = field(default_factory=dict)
    """How many more this node may take from a member, or give it, until all are counted again:
    every primary moves its part, or together they would move too much."""

    def __post_init__(self) -> None:
        for node in self.held:
            off = abs(self.held[node] - self.share(node))
            self.moves[node] = max(1, round(off / len(self.held)))

    def share(self, node: str) -> float:
        """What a member should hold."""
        return sum(self.held.values()) * self.weights[node] / max(sum(self.weights.values()), 1)

    def load(self, node: str, more: int = 0) -> float:
        """How full a member is, or would be with more copies; 1: it holds its share."""
        share = self.share(node)
        held = self.held[node] + more
        return held / share if share else (float("inf") if held > 0 else 1.0)

    @property
    def even(self) -> bool:
        """Whether every member holds about its share."""
        return not any(map(self._is_off, self.held))

    def spent(self, primary: str) -> bool:
        """Whether a primary has moved its part."""
        others = [name for name in self.held if name != primary and self.moves[name] > 0]
        loads = [self.load(name) for name in others]
        return not loads or max(loads) <= 1 or min(loads) >= 1

    def _is_off(self, node: str) -> bool:
        off = abs(self.held[node] - self.share(node))
        return off > 1 and off > EVEN * self.share(node)

    def improves(self, old: str, new: str) -> bool:
        """Whether a copy should go from one member to another."""
        if old not in self.held or new not in self.held:
            return False
        wanted = self._is_off(old) or self._is_off(new)
        allowed = self.moves[old] > 0 and self.moves[new] > 0
        return wanted and allowed and self.load(new, 1) < self.load(old)

    def moved(self, old: str, new: str) -> None:
        """A copy went from one to the other."""
        self.held[old] -= 1
        self.held[new] += 1
        self.moves[old] -= 1
        self.moves[new] -= 1


class _Step(NamedTuple):
    group: GroupID
    old: str
    new: str
    size: int


class Rebalancer:
    """Moves what this node leads, and tells others how much it holds."""

    def __init__(self, node: Node, replication: Replication, delays: Delays) -> None:
        self._node = node
        self._replication = replication
        self._delays = delays
        self._view: ViewID = NO_VIEW
        self._due = 0
        self._last = 0
        self._budget = 0.0
        self._bytes = 0.0
        self._shares: Shares | None = None
        self._counted = 0
        self._after: GroupID | None = None
        self._fruitful = False
        """Whether a copy was moved in this round over all groups."""
        self._counting: asyncio.Task[int] | None = None

    # --- moving ---------------------------------------------------------------------------------

    async def look(self) -> int:
        """Move as many copies as the budget allows, when it is time; how many."""
        node, now = self._node, self._node.clock.now()
        view = node.membership.view()
        if not self._may(view):
            self._view, self._shares = NO_VIEW, None
            return 0
        if view.id != self._view:
            self._view, self._due, self._shares = view.id, now + SETTLED, None
        if now < self._due:
            return 0
        self._refill(now)
        if self._shares is None or now - self._counted >= COUNT_EVERY:
            self._shares, self._counted = await self._count_all(view), now
        if self._shares is None:
            self._due = now + COUNT_EVERY
            return 0
        if self._shares.even:
            self._rest(now)
            return 0
        steps = self._choose(view, self._shares, now)
        done = 0
        for start in range(0, len(steps), SIDE_BY_SIDE):
            some = steps[start : start + SIDE_BY_SIDE]
            done += sum(await asyncio.gather(*(self._move(step) for step in some)))
        node.counters.moved += done
        return done

    def _rest(self, now: int) -> None:
        self._due, self._shares, self._after = now + LOOK_EVERY, None, None
        self._fruitful = False

    def _may(self, view: View) -> bool:
        """Whether copies may be moved: nobody is awaited or about to go, nothing lacks a copy."""
        node = self._node
        if not node.options.rebalance or not node.options.backups or node.peers is None:
            return False
        if not node.membership.is_member() or node.wanting:
            return False
        awaited = any(delay.left != 0 for delay in self._delays.running())
        return not awaited and all(member.ready for member in view.servers)

    def _refill(self, now: int) -> None:
        """What may be moved now: what was not used of the last second, at most."""
        passed = min((now - self._last) / 1000, 1.0)
        rate = self._node.options.rebalance
        self._budget = min(self._budget + passed * rate, float(rate))
        self._bytes = min(self._bytes + passed * BYTES, float(BYTES))
        self._last = now

    def _choose(self, view: View, shares: Shares, now: int) -> list[_Step]:
        """The next copies to move. After a round over all groups without one it rests."""
        steps: list[_Step] = []
        passed = 0
        with self._node.store.read() as reader:
            for group, record in islice(groups(reader, self._after), ROWS):
                if self._budget < 1 or self._bytes <= 0 or shares.spent(self._node.me):
                    return steps
                passed, self._after = passed + 1, group
                pair = self._pair(group, record, view, shares)
                if pair is None or (size := idle_size(reader, group, record, now)) is None:
                    continue
                steps.append(_Step(group, *pair, size))
                shares.moved(*pair)
                self._budget -= 1
                self._bytes -= size
                self._fruitful = True
        if passed < ROWS:
            self._after = None
            if not self._fruitful:
                self._rest(now)
            self._fruitful = False
        return steps

    def _pair(
        self, group: GroupID, record: GroupRecord, view: View, shares: Shares
    ) -> tuple[str, str] | None:
        """Which of the group's copies should go where; None: they are well where they are."""
        node = self._node
        if not self._is_whole(record, view):
            return None
        others = placement.backups(
            group, view, node.me, len(view.members), without={*record.holders, *node.refusers()}
        )
        found = [
            (old, new)
            for old in record.holders[1:]
            for new in others
            if shares.improves(old, new) and placement.suits(view, node.me, new, instead=old)
        ]
        gain = {pair: shares.load(pair[0]) - shares.load(pair[1], 1) for pair in found}
        return max(found, key=lambda pair: gain[pair], default=None)

    def _is_whole(self, record: GroupRecord, view: View) -> bool:
        """Whether every copy is where it should be, besides."""
        node = self._node
        if not self._is_still(record, view):
            return False
        backups = node.valid_backups(record, view)
        wanted = min(node.options.backups, len(view.servers) - 1)
        return len(backups) == wanted and set(record.holders) == set(record.seats)

    def _is_still(self, record: GroupRecord, view: View) -> bool:
        """Whether this node leads the group, and nothing is under way."""
        settled = record.acked == record.version and not record.leaving
        return settled and self._node.is_primary(record, view)

    async def _move(self, step: _Step) -> bool:
        """Add the new holder to C, and then let the old one go: until the new one has its copy,
        its death costs nothing."""
        node = self._node
        try:
            for form in (self._add, self._exchange):
                formed = self._form(step, form)
                if not formed and form == self._add:
                    return False
                deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
                await self._replication.settle(step.group, deadline, widen=not formed)
                if not formed:
                    return False  # it is in use after all: the seats decide who stays
        except (SessionHAError, Fenced) as error:
            node.wanting = True  # whatever is left to do is done as a repair
            log.debug("a copy is not moved yet: %s", error)
            return False
        return True

    def _form(self, step: _Step, form: Callable[[GroupRecord, _Step, View], bool]) -> bool:
        """One versioned step (R1). False: the group is not as it was seen, or in use."""
        node = self._node
        with node.store.write() as writer:
            view, now = node.view_in(writer), node.clock.now()
            record = get_group(writer, step.group)
            if record is None or not self._is_still(record, view):
                return False
            if idle_size(writer, step.group, record, now) is None or not form(record, step, view):
                return False
            record.version += 1
            record.formed = view.id
            record.widened = NO_VIEW if form == self._add else view.id
            writer.put(group_key(step.group), write_record(record))
        return True

    def _add(self, record: GroupRecord, step: _Step, view: View) -> bool:
        if not self._is_whole(record, view) or not _takes(view, step.new):
            return False
        record.holders = (*record.holders, step.new)
        return True

    def _exchange(self, record: GroupRecord, step: _Step, view: View) -> bool:
        """The old one gives its copy up when all of C have this version."""
        if {step.old, step.new} - set(self._node.valid_backups(record, view)):
            return False
        stay = tuple(name for name in record.holders if name != step.new)
        record.holders = _instead(stay, step)
        record.seats = _instead(record.seats, step)
        record.leaving = (step.old,)
        return True

    # --- counting -------------------------------------------------------------------------------

    async def _count_all(self, view: View) -> Shares | None:
        """What each member holds; None: one does not say."""
        node = self._node
        held = {node.me: await self.count()}
        others = [member for member in view.servers if member.node != node.me]
        replies = await asyncio.gather(*(self._ask(member) for member in others))
        for member, copies in zip(others, replies, strict=True):
            if copies is None:
                return None
            held[member.node] = copies
        servers = [member for member in view.servers if member.role != "spare"]
        weights = {member.node: max(member.weight, 1) for member in servers}
        return Shares(held, {name: weights.get(name, 0) for name in held})

    async def _ask(self, member: Member) -> int | None:
        node = self._node
        assert node.peers is not None, "without peers nothing is moved"
        try:
            reply = await node.peers.call(member.node, CountCopies(), PATIENCE)
        except PeerUnavailable:
            return None
        return reply.copies if isinstance(reply, CopiesCounted) else None

    async def on_count(self, sender: Sender) -> Message:
        """Tell a member how many groups this node has a copy of."""
        if not self._node.shares_view(sender, self._node.membership.view()):
            return NOT_TOGETHER
        return CopiesCounted(await self.count())

    async def count(self) -> int:
        """How many groups this node has a copy of. Whoever asks meanwhile waits for the same."""
        if self._counting is None or self._counting.done():
            self._counting = self._node.spawn(self._walk())
        return await asyncio.shield(self._counting)

    async def _walk(self) -> int:
        found = 0
        after: GroupID | None = None
        while True:
            with self._node.store.read() as reader:
                batch = list(islice(groups(reader, after), ROWS))
            found += sum(record.held for _, record in batch)
            if len(batch) < ROWS:
                return found
            after = batch[-1][0]
            await asyncio.sleep(0)  # requests first


def _takes(view: View, node: str) -> bool:
    member = view.member(node)
    return member is not None and member.ready


def _instead(nodes: tuple[str, ...], step: _Step) -> tuple[str, ...]:
    return tuple(step.new if name == step.old else name for name in nodes)


def idle_size(reader: Reader, group: GroupID, record: GroupRecord, now: int) -> int | None:
    """Bytes of a group that nobody has used lately; None: it is in use, or nothing in it lives."""
    if now - record.since < LATELY and record.since:
        return None
    size = living = 0
    for row in rows(reader, group):
        size += len(row.value)
        if row.element is None:
            session = read_session(row.value)
            living += not session.ended(now)
            if now - session.touched < LATELY:
                return None
    return size if living else None
