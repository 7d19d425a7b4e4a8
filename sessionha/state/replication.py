"""One operation: send what changed since the position a holder has (R1, R8, R13).

The primary's side (`settle`, `confirm`) and the backup's (`accept`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from typing import NamedTuple

import msgspec

from sessionha.errors import (
    CommitUnconfirmed,
    Fenced,
    PeerUnavailable,
    SessionUnavailable,
    StoreFull,
)
from sessionha.identity import NO_POSITION, NO_VIEW, Epoch, GroupID, Position, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Answer, Behind, CannotHold, Message, Push, Pushed, Refused
from sessionha.state import copies, placement
from sessionha.state.base import Receipt
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import (
    GroupRecord,
    epoch_at,
    epoch_end,
    get_group,
    group_key,
    write_record,
)
from sessionha.store.base import Writer
from sessionha.view import View

log = logging.getLogger("sessionha.state")

TRY = 0.3
"""Seconds one push may take before its receiver is suspected; pushes are idempotent, so a slow one
is simply sent again."""

REFUSAL = 10_000
"""Milliseconds during which a node that could not hold a copy is not chosen again."""

REORDERED = 0.005
"""Seconds a backup waits for the change before the one it got: engines of one node have streams of
their own, which are not ordered among each other."""

TAKING_OVER = 0.01
"""Seconds between two looks whether another node's take-over has reached this node."""

PROMISE_TTL = 30 * 86_400_000
"""Milliseconds a promise without a copy is remembered."""


class Round(NamedTuple):
    """A push on its way to everybody who must acknowledge it."""

    push: Push
    backups: tuple[str, ...]
    leaving: tuple[str, ...]
    """Told after all backups have it: a copy is given up only when its replacement exists."""
    view: ViewID
    record: GroupRecord
    row: bytes
    """The group's row as the round's transaction left it: `record`, encoded."""


class Formed(NamedTuple):
    """What became of C, and how many copies it gained by that."""

    changed: bool
    refilled: int = 0
    """Owners of seats, who were back, or who took a seat that was free."""
    replaced: int = 0
    """Temporary holders, while owners of seats are awaited."""
    healed: int = 0
    """New owners, of the seats of nodes that are gone for good."""
    moved: int = 0
    """New owners, of the seats of nodes that are about to leave."""


AS_IT_WAS = Formed(changed=False)


def _is_gone(seat: str, away: Set[str], view: View) -> bool:
    """Whether a seat is to have another owner; one that came back meanwhile keeps it."""
    return seat in away and view.member(seat) is None


def receipt(record: GroupRecord) -> Receipt:
    """What a group without a change under way tells."""
    return Receipt(record.position, record.holders, len(record.holders) - 1)


def _contains(record: GroupRecord, push: Push) -> bool:
    """Whether the group's history has this push in it."""
    end = epoch_end(record.line, push.epoch)
    return end is not None and (end == -1 or end >= push.version)


def _who_have(record: GroupRecord, push: Push, me: str) -> tuple[str, ...]:
    """Who surely have the push, when the history contains it; empty: not known yet."""
    if not record.held:
        return record.seats  # a copy is given up only when all of C have what comes after it
    if record.acked == record.version:
        return record.holders
    if record.epoch > push.epoch and record.holders == (record.epoch.node, me):
        return record.holders  # all of C: who adopted it, and pushed it back to this node
    return ()


class Replication:
    """Keeps every holder of a group at the primary's position."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # --- the primary's side ---------------------------------------------------------------------

    def reform(
        self,
        record: GroupRecord,
        group: GroupID,
        view: View,
        *,
        widen: bool,
        away: Set[str] | None = None,
    ) -> Formed:
        """Bring C up to date with the view; what that changed.

        Holders that left the view are gone from C by that. `widen` fills C up to the wanted
        backups: owners of seats that are members again, else temporary holders. A member that
        must go is asked to give its copy up, and acknowledges that like a write (R1). `away`: it
        is not a write that asks, so nobody takes the place of an owner that is awaited; but seats
        of nodes that are away for good, and still are, go to those that hold the copies now, and so
        do those of nodes that are about to leave.
        """
        gone = frozenset[str]()
        if away:
            gone = frozenset(seat for seat in record.seats if _is_gone(seat, away, view))
        if gone:
            record.widened = NO_VIEW
        if record.formed == view.id and (not widen or record.widened == view.id):
            return AS_IT_WAS
        node = self._node
        valid = node.valid_backups(record, view)
        wanted = valid
        seats = record.seats
        leaves = frozenset[str]()
        if widen:
            leaves = view.leaving.intersection(seats)
            stay = tuple(seat for seat in seats if seat not in gone and seat not in leaves)
            awaited = sum(view.member(seat) is None for seat in stay)
            count = node.options.backups
            if away is not None:
                temporary = sum(name not in seats for name in valid)
                count -= max(awaited - temporary, 0)
                if node.options.urgent:
                    count = max(count, min(node.options.backups, 1))
            keep = (*(seat for seat in seats if seat != node.me), *valid)
            # Who has a copy keeps it: that it has no room for another group says nothing of it.
            refusing = self._node.refusers().difference(valid)
            wanted = placement.backups(
                group, view, node.me, count, tuple(dict.fromkeys(keep)), refusing
            )
            # Somebody may come back, or have room again: then it is to be done once more.
            full = count >= node.options.backups and not (refusing and len(wanted) < count)
            record.widened = view.id if full else NO_VIEW
            if gone or leaves or (len(seats) <= node.options.backups and not awaited):
                owners = dict.fromkeys((*stay, node.me, *wanted))
                record.seats = tuple(owners)[: node.options.backups + 1]
        holders = (node.me, *wanted)
        stayed = {*valid, *(name for name in record.leaving if view.member(name))}
        leaving = tuple(sorted(stayed - set(holders)))
        changed = holders != record.holders or set(wanted) != set(valid) or record.seats != seats
        record.holders, record.leaving, record.formed = holders, leaving, view.id
        if not changed:
            return AS_IT_WAS
        new = [name for name in wanted if name not in valid]
        back = sum(name in seats for name in new)
        seated = sum(name in record.seats for name in new) - back
        healed = min(seated, len(gone))
        moved = min(seated - healed, len(leaves))
        free = seated - healed - moved
        return Formed(True, back + free, len(new) - back - seated, healed, moved)

    def count(self, formed: Formed) -> None:
        """Count the copies that C gained, once they are on their way."""
        if formed is not AS_IT_WAS:
            counters = self._node.counters
            counters.refilled += formed.refilled
            counters.replaced += formed.replaced
            counters.healed += formed.healed
            counters.moved += formed.moved

    def targets(
        self, record: GroupRecord, group: GroupID, view: View, away: Set[str]
    ) -> tuple[str, ...]:
        """Who would get a copy if C were filled up now."""
        would = msgspec.structs.replace(record)
        self.reform(would, group, view, widen=True, away=away)
        has = self._node.valid_backups(record, view)
        return tuple(name for name in would.holders[1:] if name not in has)

    async def confirm(self, started: Round, deadline: int) -> Receipt:
        """Wait until every target has the round's version: that, and not what others have written
        meanwhile, is what the receipt tells.

        Raises:
            Fenced: another node has a newer epoch.
            CommitUnconfirmed: not everybody answered before `deadline` (clock).
        """
        push = started.push
        position = Position(push.epoch, push.version)
        try:
            missing = await self._send(started)
            if not missing and (holders := self._confirmed(started)):
                return Receipt(position, holders, len(holders) - 1)
            record = await self.settle(push.group, deadline, widen=True)
        except Fenced as fenced:
            return await self._settled_elsewhere(push, fenced, deadline)
        if not _contains(record, push):
            raise Fenced(record.promise)  # this node lost the group and got it back without it
        return Receipt(position, record.holders, len(record.holders) - 1)

    async def _settled_elsewhere(self, push: Push, fenced: Fenced, deadline: int) -> Receipt:
        """Another node takes the group over, and its history may go on from this push: wait for
        what this node learns of it, as a holder of a copy or as one that gives its copy up.

        Raises `fenced` when that history goes without the push, or nothing was learnt before
        `deadline` (clock).
        """
        node = self._node
        while True:
            with node.store.read() as reader:
                found = get_group(reader, push.group)
            if found is None or (found.epoch > push.epoch and not _contains(found, push)):
                raise fenced
            if _contains(found, push) and (holders := _who_have(found, push, node.me)):
                return Receipt(Position(push.epoch, push.version), holders, len(holders) - 1)
            if node.clock.now() >= deadline:
                raise fenced
            await asyncio.sleep(TAKING_OVER)

    def _confirmed(self, started: Round) -> tuple[str, ...]:
        """All of C has it (R1), whoever is primary by now: who holds it. Empty: C is changing, and
        a member that gives its copy up may have been told to already.

        If it cannot be noted here, the next request settles it once more.
        """
        push = started.push
        try:
            record = self._acknowledge(started)
        except StoreFull:
            return push.holders
        except Fenced:
            with self._node.store.read() as reader:
                found = get_group(reader, push.group)
            return found.holders if found is not None and found.held else push.holders
        return push.holders if record.holders == push.holders else ()

    async def settle(
        self,
        group: GroupID,
        deadline: int,
        *,
        widen: bool,
        away: Set[str] | None = None,
    ) -> GroupRecord:
        """Until C is valid in the present view and has the version that was newest when this
        began (R5, R13); requests that go on writing are not waited for.

        Without peers it never suspends. Raises as `confirm` does.
        """
        goal = 0
        while True:
            plan = self._plan(group, widen=widen, away=away)
            if isinstance(plan, GroupRecord):
                return plan
            if isinstance(plan, ViewID):
                await self._regain(plan, deadline)
                continue
            goal = goal or plan.push.version
            missing = await self._send(plan)
            if not missing:
                acknowledged = self._acknowledge(plan)
                if acknowledged.acked >= goal:
                    # What was settled, not what a sibling has written since.
                    acknowledged.version = plan.push.version
                    acknowledged.holders = plan.push.holders
                    return acknowledged
            if self._node.clock.now() >= deadline:
                self._node.wanting = True  # what was begun is finished without a request
                there = set(plan.backups) - set(missing)
                raise CommitUnconfirmed(tuple(missing), len(there))
            if missing:
                await self._node.membership.wait_change(plan.view, 0.02)

    async def vouch(self, group: GroupID, epoch: Epoch, deadline: int) -> bool:
        """Whether all of C say that they have promised nothing newer than `epoch`, in which this
        node has read the group (R9): one parallel round, none where nobody else has a copy.
        False: read again, once the group is acquired.

        Raises:
            SessionUnavailable: not everybody answered before `deadline` (clock).
        """
        node = self._node
        try:
            while True:
                with node.store.read() as reader:
                    view = node.view_in(reader)
                    record = get_group(reader, group)
                if record is None or record.epoch != epoch or not node.is_primary(record, view):
                    return False
                if record.formed != view.id or record.leaving:
                    record = await self.settle(group, deadline, widen=False)
                    if record.epoch != epoch:
                        return False
                if len(record.holders) == 1:
                    return True
                record.version = record.acked  # what is under way is another request's
                push = copies.delta_push(group, record, record.position, copies.Delta((), ()))
                missing = await self._send(
                    Round(push, record.holders[1:], (), view.id, record, b"")
                )
                if not missing:
                    node.counters.confirmed += 1
                    return True
                if node.clock.now() >= deadline:
                    raise CommitUnconfirmed(tuple(missing), 0)
                await node.membership.wait_change(view.id, 0.02)
        except Fenced as fenced:
            self._give_way(group, fenced.promise)
            return False
        except CommitUnconfirmed as silent:
            raise SessionUnavailable(
                f"{', '.join(silent.missing)} did not confirm in time what was read; nothing was"
                " changed (setting `reads`)"
            ) from silent
        except StoreFull as full:
            raise SessionUnavailable(str(full)) from full

    def _give_way(self, group: GroupID, promise: Epoch) -> None:
        """Believe a holder that promised a newer epoch: the group is not this node's any more."""
        with self._node.store.write(urgent=True) as writer:
            record = get_group(writer, group)
            if record is not None and promise > record.promise:
                record.promise = promise
                writer.put(group_key(group), write_record(record))

    async def _regain(self, view: ViewID, deadline: int) -> None:
        """A primary that stood still asks whether it is a member still, before it goes on."""
        if self._node.clock.now() >= deadline:
            raise CommitUnconfirmed((self._node.me,), 0)
        await self._node.membership.wait_change(view, 0.02)

    def _plan(
        self, group: GroupID, *, widen: bool, away: Set[str] | None
    ) -> Round | GroupRecord | ViewID:
        """The next round; or the settled record; or the view in which this node is no member,
        though nobody has taken the group from it that it knows of."""
        node = self._node
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            record = get_group(writer, group)
            if record is not None and node.rules(record) and node.joined(view) == NO_VIEW:
                return view.id
            if record is None or not node.leads(record, view):
                raise Fenced(record.promise if record else NO_POSITION.epoch)
            begun = self.step(writer, group, record, view, widen=widen, away=away)
            if begun is None:
                return record
            since, row = begun
            base = Position(epoch_at(record.line, since), since)
            push = copies.content(writer, group, record, base, node.clock.now())
        return Round(push, record.holders[1:], record.leaving, view.id, record, row)

    def step(
        self,
        writer: Writer,
        group: GroupID,
        record: GroupRecord,
        view: View,
        *,
        widen: bool,
        away: Set[str] | None = None,
    ) -> tuple[int, bytes] | None:
        """Begin a round for a group that this node leads: what C has at least, and the group's row
        as written. None: it is settled already, or nobody else has to have it."""
        node = self._node
        formed = self.reform(record, group, view, widen=widen, away=away)
        settled = record.acked == record.version and record.run == node.store.run
        if settled and not formed.changed and not record.leaving:
            return None
        since = record.acked
        record.version += formed.changed
        alone = len(record.holders) == 1 and not record.leaving
        if alone:
            record.acked, record.run = record.version, node.store.run
        row = write_record(record)
        writer.put(group_key(group), row)
        self.count(formed)
        return None if alone else (since, row)

    async def _send(self, plan: Round) -> list[str]:
        """Who did not acknowledge. Raises Fenced when somebody promised a newer epoch."""
        if len(plan.backups) == 1 and not plan.leaving:  # as most are: without the detour
            return [] if await self._bring(plan.backups[0], plan.push) else [*plan.backups]
        missing = await self._bring_all(plan.push, plan.backups)
        if plan.leaving and not missing:
            missing = await self._bring_all(plan.push, plan.leaving)
        return missing

    async def _bring_all(self, push: Push, targets: tuple[str, ...]) -> list[str]:
        done = await asyncio.gather(*(self._bring(target, push) for target in targets))
        return [target for target, ok in zip(targets, done, strict=True) if not ok]

    async def _bring(self, target: str, push: Push) -> bool:
        """Bring one holder to the push's version at least."""
        node = self._node
        peers = node.peers
        assert peers is not None, "a group without peers has no targets"
        for _ in range(4):
            try:
                reply = await peers.call(target, push, TRY)
            except PeerUnavailable as error:
                if error.sent or error.refused:
                    node.membership.suspect(target)
                return False
            match reply:
                case Pushed():
                    return True
                case Behind():
                    push = self._content(push, reply.position)
                case Refused():
                    node.counters.fenced += 1
                    raise Fenced(reply.promise)
                case CannotHold():
                    self.refused(target, push.group, reply.reason)
                    return False
                case _:
                    return False
        return False

    def _content(self, push: Push, position: Position) -> Push:
        node = self._node
        with node.store.read() as reader:
            record = get_group(reader, push.group)
            if record is None or record.epoch != push.epoch or record.promise != push.epoch:
                raise Fenced(record.promise if record else NO_POSITION.epoch)
            return copies.content(reader, push.group, record, position, node.clock.now())

    def _acknowledge(self, done: Round) -> GroupRecord:
        with self._node.store.write(shrinking=True) as writer:
            return self.acknowledge(writer, done)

    def acknowledge(self, writer: Writer, done: Round) -> GroupRecord:
        """Note that all of C has the round's version. Raises Fenced: the epoch is over."""
        node, push = self._node, done.push
        row = writer.get(group_key(push.group))
        record = done.record if row == done.row else get_group(writer, push.group)
        if record is None or record.epoch != push.epoch or record.promise != push.epoch:
            raise Fenced(record.promise if record else NO_POSITION.epoch)
        if push.version > record.acked or record.run != node.store.run or record.leaving:
            record.acked = max(record.acked, push.version)
            if record.acked == record.version:
                record.leaving = ()
            record.run = node.store.run
            writer.put(group_key(push.group), write_record(record))
        return record

    def refused(self, target: str, group: GroupID | None, reason: str) -> None:
        """Its own word that it holds nothing: the only way out of C but a view (R1)."""
        node = self._node
        known = target in node.refusers()
        node.refusing[target] = node.clock.now() + REFUSAL
        if not known:
            log.warning(
                "%s cannot hold copies (%s): others are chosen for %d s; give it room",
                target, reason, REFUSAL // 1000,
            )  # fmt: skip
        if group is None:  # it was not in C
            return
        with node.store.write(shrinking=True) as writer:
            record = get_group(writer, group)
            if record is None or not node.leads(record, node.view_in(writer)):
                return
            if target in record.holders[1:] + record.leaving:
                record.version += 1  # C changes by a versioned step (R1)
                record.holders = tuple(name for name in record.holders if name != target)
                record.leaving = tuple(name for name in record.leaving if name != target)
                record.widened = NO_VIEW
                node.wanting = True
                writer.put(group_key(group), write_record(record))

    # --- the backup's side ----------------------------------------------------------------------

    @staticmethod
    def is_gap(push: Push, reply: Message) -> bool:
        """Whether the change before this one is probably just being passed by it."""
        return (
            isinstance(reply, Behind)
            and reply.position.epoch == push.epoch
            and reply.position.version < push.base.version
        )

    async def accept_later(self, sender: Sender, push: Push) -> Message:
        """Accept the push after a moment in which the one before it may arrive."""
        await asyncio.sleep(REORDERED)
        return self.accept(sender, push)

    def accept(self, sender: Sender, push: Push) -> Answer:
        """Accept a push in one transaction, or say why not."""
        node = self._node
        if push.base.version == push.version and (answer := self._attest(sender, push)) is not None:
            return answer
        try:
            with node.store.write() as writer:
                return self.accept_in(writer, sender, push)
        except StoreFull as full:
            with node.store.write(shrinking=True) as writer:
                record = get_group(writer, push.group)
                if record is not None and record.held:
                    record.synced = NO_VIEW  # what it has may still be the newest that is left
                    writer.put(group_key(push.group), write_record(record))
            return CannotHold(str(full))

    def _attest(self, sender: Sender, push: Push) -> Answer | None:
        """The answer to a push of nothing, where nothing has to be written for it: also a store
        that is full can say that it has what it has."""
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            record = get_group(reader, push.group)
        if record is None or not node.shares_view(sender, view):
            return None
        if push.epoch < record.promise:
            return Refused(record.promise)
        level = record.epoch == push.epoch and record.version >= push.version
        in_sync = record.held and record.synced == node.joined(view)
        return Pushed(record.version) if level and in_sync else None

    def accept_in(self, writer: Writer, sender: Sender, push: Push) -> Answer:
        """Accept the push in a transaction of the caller's, or say why not."""
        node = self._node
        view = node.view_in(writer)
        joined = node.joined(view)
        if not node.shares_view(sender, view):
            return NOT_TOGETHER
        record = get_group(writer, push.group)
        if record is not None and push.epoch < record.promise:
            return Refused(record.promise)
        node.counters.pushes_in += 1
        if record is not None and record.epoch == push.epoch and record.version >= push.version:
            if not record.held or record.synced == joined:
                return Pushed(record.version)  # late, or sent twice; also after it was given up
            if record.version > push.version:
                return Behind(NO_POSITION)  # in quarantine: only the whole group is trusted
        if node.me not in push.holders:
            record = record or GroupRecord()
            record.epoch, record.version = push.epoch, push.version
            record.promise = max(record.promise, push.epoch)
            self._give_up(writer, push, record)
            return Pushed(push.version)
        if not copies.fits(record, push):
            return Behind(record.base if record is not None else NO_POSITION)
        patched = copies.patched(writer, push)
        if patched is None:
            return Behind(record.base if record is not None else NO_POSITION)
        node.counters.pushes_full += push.full
        record = record or GroupRecord()
        copies.accept(writer, record, push, node.clock.now(), joined, patched)
        return Pushed(push.version)

    def _give_up(self, writer: Writer, push: Push, record: GroupRecord) -> None:
        keep_until = self._node.clock.now() + PROMISE_TTL
        copies.give_up(writer, push.group, record, keep_until, push)
