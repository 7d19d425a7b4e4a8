"""Who is primary of a group: hand-over from a living primary, promotion without one (R3–R5, R12).

Both take a fresh epoch, adopt the newest copy, and push before anything is served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sessionha.errors import (
    Fenced,
    PeerUnavailable,
    SessionBusy,
    SessionHAError,
    SessionUnavailable,
    StaleSession,
    StoreFull,
)
from sessionha.identity import NO_EPOCH, NO_POSITION, NO_VIEW, Epoch, GroupID, Position, ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Claim,
    Failed,
    Fetch,
    Fetched,
    Granted,
    Message,
    NotPrimary,
    Promise,
    Promised,
    Push,
    Refused,
    Standing,
    TakeOver,
    TookOver,
)
from sessionha.state import copies, placement, sides
from sessionha.state.base import Held
from sessionha.state.node import NOT_TOGETHER, Node
from sessionha.state.records import (
    LINE_LIMIT,
    GroupRecord,
    Line,
    get_group,
    group_key,
    write_record,
)
from sessionha.state.replication import PROMISE_TTL, TRY, Replication
from sessionha.state.serial import Taken, Turns
from sessionha.store.base import Writer
from sessionha.view import View

log = logging.getLogger("sessionha.state")

ATTEMPTS = b"\x00attempt"
"""Store row: the highest attempt this node has used or seen."""

FOLLOWED = 2**47
"""From here on the attempt in a position that a client presents is not followed: the number of
attempts is the node's, for every group and for ever, and must never come near `BEYOND`."""

HOLD = 100
"""Milliseconds a group stays where it went before it is handed over again (R5)."""

LOSER_WAITS = (0.005, 0.05)
"""Seconds, drawn at random, that the loser of two claims waits (R5)."""

OWN_FIRST = 0.2
"""Seconds a claim waits for this node's own acquisition of the same group, here or in a sibling.
Bounded, because two nodes may believe of each other that the other one is primary, and because the
sibling may be dead."""

SETTLE_FIRST = 1_000
"""Milliseconds a primary that is asked to let a group go may take to finish running commits."""


class _Lost(Exception):
    """Another claimant was faster, or the view changed: look again."""


class _Busy(_Lost):
    """The primary lives, and a request there does not end its turn."""


class _Hint(NamedTuple):
    """Who may be primary, and the promise of whoever said so."""

    node: str = ""
    promise: Epoch = NO_EPOCH


NOBODY = _Hint()


class _Answer(NamedTuple):
    node: str
    standing: Standing


class Ownership:
    """Makes this node primary of groups, and lets them go."""

    def __init__(self, node: Node, replication: Replication, turns: Turns | None = None) -> None:
        """`turns`: where requests of one session take turns."""
        self._node = node
        self._replication = replication
        self._turns = turns
        self._running: dict[GroupID, asyncio.Task[Held | None]] = {}

    # --- serving --------------------------------------------------------------------------------

    def held(self, group: GroupID, floor: Position | None) -> Held | None:
        """The group, when it may be served from here at once. One read transaction."""
        with self._node.store.read() as reader:
            record = get_group(reader, group)
            if record is None or not self._node.leased(reader):
                return None
            held = self.serves(record, self._node.view_in(reader))
        return None if held is None or (floor is not None and held.position < floor) else held

    def serves(self, record: GroupRecord, view: View) -> Held | None:
        """What may be said of a group that this node serves; None: not now, or not here."""
        if record.acked != record.version or not self._node.is_primary(record, view):
            return None
        position = Position(record.epoch, record.version)
        if record.formed == view.id:
            return Held(position, record.holders)
        return Held(position, (self._node.me, *self._node.valid_backups(record, view)))

    # --- acquiring ------------------------------------------------------------------------------

    async def acquire(
        self, group: GroupID, floor: Position | None, *, primary: str = ""
    ) -> Held | None:
        """One acquisition of a group runs at a time, whoever waits for it (R17). `primary`: who is
        asked first where nothing here tells."""
        if self._node.peers is None:
            return await self._acquire(group, floor)
        running = self._running.get(group)
        if running is None or running.done():  # what it found may not be true any more
            running = self._node.spawn(self._acquire(group, floor, primary))
            self._running[group] = running
            running.add_done_callback(partial(self._acquired, group))
        held = await asyncio.shield(running)
        if held is not None and floor is not None and held.position < floor:
            return await asyncio.shield(self._node.spawn(self._acquire(group, floor)))
        return held

    def _acquired(self, group: GroupID, task: asyncio.Task[Held | None]) -> None:
        if self._running[group] is task:
            del self._running[group]

    async def _acquire(
        self, group: GroupID, floor: Position | None, primary: str = ""
    ) -> Held | None:
        node = self._node
        deadline = node.clock.now() + int(node.options.acquire_timeout * 1000)
        hint = _Hint(floor.epoch.node if floor is not None else primary)
        asked: set[tuple[str, Epoch]] = set()
        busy = ""
        while True:
            held = self.held(group, floor)
            if held is not None:
                return held
            try:
                found = await self._attempt(group, floor, hint, asked, deadline)
                if found is None:
                    return None
                hint = found if found.node else _Hint(primary)
            except StoreFull as full:
                raise SessionUnavailable(str(full)) from full
            except (_Lost, Fenced) as lost:
                hint, busy = _Hint(primary), str(lost) if isinstance(lost, _Busy) else ""
                asked.clear()
                if node.peers is not None:
                    await asyncio.sleep(node.random.uniform(*LOSER_WAITS))
            if node.clock.now() >= deadline:
                if busy:
                    raise SessionBusy(busy)
                raise SessionUnavailable("no server could take the session over in time")

    async def _attempt(
        self,
        group: GroupID,
        floor: Position | None,
        hint: _Hint,
        asked: set[tuple[str, Epoch]],
        deadline: int,
    ) -> _Hint | None:
        """One try. Returns whom to ask next (`NOBODY`: look again), or None: proven to be nowhere.

        `asked` has those that said that they are not primary, with the newest promise known then:
        two that name each other must not be asked for ever. Where the promise is another one, the
        group went on meanwhile, to whoever it names.
        """
        node = self._node
        with node.store.read() as reader:
            view = node.view_in(reader)
            record = get_group(reader, group) or GroupRecord()
            leased = node.leased(reader)
        if node.joined(view) == NO_VIEW or not leased:
            await node.membership_regained()
            return NOBODY
        current = record.epoch.node == record.promise.node == node.me
        below = floor is not None and record.position < floor
        if current and record.promise == record.epoch and not below:
            if record.acked != record.version and record.run == node.store.run:
                await self._let_sibling_finish(group)
            try:
                await self._replication.settle(group, deadline, widen=False)
                return NOBODY
            except Fenced:
                with node.store.read() as reader:
                    now = get_group(reader, group)
                if now is not None and now.promise != record.promise:
                    return NOBODY  # another engine of this node has let the group go meanwhile
                # Its epoch is from before a merge, or it was out of the view: promote.
        known = max(record.promise, floor.epoch if floor else NO_EPOCH).node
        target = hint.node if hint.node not in ("", node.me) else known
        if target and view.member(target) is None:
            target = self._successor(group, record, view, target)
        question = target, max(record.promise, hint.promise)
        if target != node.me and question not in asked and view.member(target) is not None:
            asked.add(question)
            reply = await self._claim(group, floor, target, record, view)
            if reply is not None:
                return reply
        return await self._promote(group, floor, deadline)

    def _successor(self, group: GroupID, record: GroupRecord, view: View, gone: str) -> str:
        """Who should promote when the primary is gone. Everybody else asks there first: a second
        promotion would fence the first in the middle of a commit."""
        for name in record.holders:
            if view.holds(name, record.formed):
                return name
        return next(iter(placement.backups(group, view, gone, 1)), "")

    async def _let_sibling_finish(self, group: GroupID) -> None:
        """Another request's commit is under way; give it a moment before pushing for it (R13)."""
        for _ in range(20):
            await asyncio.sleep(0.001)
            with self._node.store.read() as reader:
                record = get_group(reader, group)
            if record is None or record.acked == record.version:
                return

    async def _let_sibling_take(self, group: GroupID, before: Epoch) -> None:
        """Another engine of this node was given the group, and may not have written that down yet.
        A promotion now would fence it in the middle of its commits."""
        node = self._node
        deadline = node.clock.now() + int(OWN_FIRST * 1000)
        while node.clock.now() < deadline:
            await asyncio.sleep(node.random.uniform(*LOSER_WAITS))
            with node.store.read() as reader:
                record = get_group(reader, group)
            if record is not None and record.promise != before:
                return

    # --- hand-over ------------------------------------------------------------------------------

    async def _claim(
        self, group: GroupID, floor: Position | None, asked: str, record: GroupRecord, view: View
    ) -> _Hint | None:
        """Ask the living primary. `NOBODY`: done; a hint: ask that one; None: promote in full."""
        node = self._node
        epoch = self._fresh_epoch(group, floor, promise=False)
        position = record.base
        timeout = (SETTLE_FIRST + HOLD) / 1000 + TRY
        reply = await self._call(asked, Claim(group, epoch, position), timeout, view)
        match reply:
            case Granted():
                source = reply.content
                if floor is not None and Position(source.epoch, source.version) < floor:
                    return None  # somebody else may have what the client has seen
                if not self._takes(source):  # this node gave its copy up meanwhile
                    whole = await self._fetch(group, asked, NO_POSITION, view)
                    if (whole.epoch, whole.version) != (source.epoch, source.version):
                        raise _Lost
                    source = whole
                self._adopt_handover(group, epoch, asked, source)
                deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
                await self._replication.settle(group, deadline, widen=False)
                node.counters.handovers += 1
                return NOBODY
            case NotPrimary() if reply.hint not in ("", asked, node.me):
                return _Hint(reply.hint, reply.promise)
            case NotPrimary() if reply.hint == node.me:
                await self._let_sibling_take(group, record.promise)
                return NOBODY
            case Refused():
                self._saw(reply.promise)
                raise _Lost
            case Failed("SessionBusy", reason):
                raise _Busy(reason)
            case Failed():
                raise _Lost
            case _:
                return None

    def _takes(self, content: Push) -> bool:
        with self._node.store.read() as reader:
            return copies.fits(get_group(reader, content.group), content)

    def _adopt_handover(self, group: GroupID, epoch: Epoch, source: str, push: Push) -> None:
        """Take the old primary's place; it becomes a backup in this node's place."""
        node = self._node
        given = Position(push.epoch, push.version)
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            if not view.holds(source, ViewID(*push.formed)):
                raise _Lost  # it left meanwhile: only a full promotion asks everybody
            mine = get_group(writer, group)
            if mine is not None and node.is_in_sync(mine, view) and mine.position > given:
                raise _Lost  # it was deposed, and neither of the two has learned that
            record = self._take(writer, group, epoch, push, view)
            others = [name for name in node.valid_backups(record, view) if name != source]
            wanted = [source, *others][: max(node.options.backups, 1)]
            self._crown(writer, group, record, epoch, view, tuple(wanted), set(others))

    # --- promotion ------------------------------------------------------------------------------

    async def _promote(self, group: GroupID, floor: Position | None, deadline: int) -> _Hint | None:
        """Full promotion: a promise of every member, the newest copy, a push, then serve."""
        node = self._node
        epoch = self._fresh_epoch(group, floor, promise=True)
        with node.store.read() as reader:
            view = node.view_in(reader)
            record = get_group(reader, group) or GroupRecord()
            mine = _Answer(node.me, self._standing(record, epoch, view))
        answers = [mine, *await self._ask_all(group, epoch, view)]
        if node.membership.view().id != view.id:
            raise _Lost  # others may have come back since, and were not asked
        highest = max(answer.standing.promised for answer in answers)
        if highest > epoch:
            self._saw(highest)
            raise _Lost
        holding = [answer for answer in answers if answer.standing.held]
        if not holding:
            self._check_nowhere()
            return None
        best = max(holding, key=lambda answer: (answer.standing.position, answer.standing.in_sync))
        self._check_floor(best.standing.position, floor)
        alone = floor is None or node.options.quorum
        if alone and not best.standing.in_sync and node.membership.unproven():
            raise SessionUnavailable("a newer copy may be on a server that is away")
        content = None
        if best.node != node.me:
            content = await self._fetch(group, best.node, record.base, view)
        line = record.line if content is None else content.line
        others = await self._other_sides(group, line, best, holding, view)
        self._adopt_promotion(group, epoch, content, view, holding, others)
        node.counters.promotions += 1
        await self._replication.settle(group, deadline, widen=False)
        return NOBODY

    async def _other_sides(
        self, group: GroupID, line: Line, best: _Answer, holding: list[_Answer], view: View
    ) -> list[Push]:
        """Whole copies of a history that the adopted one, with this line, does not go on from: two
        sides have met, and both may have served. Newest first."""
        if self._node.options.quorum or ViewID(*best.standing.formed) >= view.barrier:
            return []  # there are no two, or they were brought together when they met
        parted = [a for a in holding if not sides.follows(line, a.standing.position)]
        parted.sort(key=lambda answer: answer.standing.position, reverse=True)
        found: list[Push] = []
        for answer in parted:
            if not any(sides.follows(side.line, answer.standing.position) for side in found):
                found.append(await self._whole(group, answer.node, view))
        return found

    async def _whole(self, group: GroupID, holder: str, view: View) -> Push:
        """All that a holder has, which may be this node."""
        node = self._node
        if holder != node.me:
            return await self._fetch(group, holder, NO_POSITION, view)
        with node.store.read() as reader:
            record = get_group(reader, group)
            if record is None or not record.held:
                raise _Lost
            return copies.content(reader, group, record, NO_POSITION, node.clock.now())

    async def _ask_all(self, group: GroupID, epoch: Epoch, view: View) -> list[_Answer]:
        node = self._node
        others = [name for name in view.nodes if name != node.me]
        if not others:
            return []
        question = Promise((group,), epoch)
        replies = await asyncio.gather(*(self._ask(name, question, view) for name in others))
        return [
            _Answer(name, reply.standings[0])
            for name, reply in zip(others, replies, strict=True)
            if reply is not None
        ]

    async def _ask(self, name: str, question: Promise, view: View) -> Promised | None:
        """One member's promise. Whoever does not answer must leave the view first."""
        member = view.member(name)
        if member is not None and member.role == "witness":
            return None
        reply = await self._call(name, question, SETTLE_FIRST / 1000 + TRY, view)
        if not isinstance(reply, Promised) or len(reply.standings) != len(question.groups):
            raise _Lost
        return reply

    async def _call(self, name: str, message: Message, timeout: float, view: View) -> Message:
        """The reply of a member. Without one nothing can be decided in this view: _Lost."""
        node = self._node
        assert node.peers is not None, "nobody is asked without peers"
        try:
            return await node.peers.call(name, message, timeout)
        except PeerUnavailable:
            node.membership.suspect(name)
            await node.membership.wait_change(view.id, 0.02)
            raise _Lost from None

    async def _fetch(self, group: GroupID, source: str, position: Position, view: View) -> Push:
        reply = await self._call(source, Fetch(group, position), TRY * 2, view)
        if not isinstance(reply, Fetched) or reply.content is None:
            raise _Lost
        self._node.counters.fetches += 1
        return reply.content

    def _adopt_promotion(
        self,
        group: GroupID,
        epoch: Epoch,
        content: Push | None,
        view: View,
        holding: list[_Answer],
        others: list[Push],
    ) -> None:
        node = self._node
        with node.store.write(urgent=True) as writer:
            if node.view_in(writer).id != view.id:
                raise _Lost
            record = self._take(writer, group, epoch, content, view)
            now = node.clock.now()
            joined = [sides.join(writer, group, record, side, now) for side in others]
            self._crown_over(writer, group, record, epoch, view, holding)
        node.counters.merged += sum(each.merged for each in joined)
        node.counters.conflicts += sum(each.conflicts for each in joined)

    def _crown_over(
        self,
        writer: Writer,
        group: GroupID,
        record: GroupRecord,
        epoch: Epoch,
        view: View,
        holding: list[_Answer],
    ) -> None:
        """Begin `epoch` here with those of C that were found; who else has a copy gives it up."""
        node = self._node
        found = {answer.node for answer in holding if answer.node != node.me}
        in_sync = {a.node for a in holding if a.standing.in_sync and a.node != node.me}
        order = [name for name in record.holders if name in in_sync]
        order += sorted(in_sync - set(order))
        order += sorted(found - in_sync)  # in quarantine: a push makes it as good as any
        wanted = placement.backups(
            group, view, node.me, min(len(order), node.options.backups), order
        )
        self._crown(writer, group, record, epoch, view, wanted, found)
        node.counters.refilled += sum(n in record.seats and n not in in_sync for n in wanted)

    # --- promotion of many ----------------------------------------------------------------------

    async def inherit(self, some: Sequence[GroupID]) -> int:
        """Promote groups whose primary is gone for good, all with one question to each member
        (R4); how many. They are not served before they are settled (R5).

        Left out is whatever is not plain: another copy is newer, two sides may have served,
        somebody else was promised it, a member is silent. `acquire` has the patience for that.
        """
        node = self._node
        epoch, view, mine = self._claim_many(some)
        if not mine:
            return 0
        others = [name for name in view.nodes if name != node.me]
        question = Promise(tuple(mine), epoch)
        try:
            replies = await asyncio.gather(*(self._ask(name, question, view) for name in others))
        except _Lost:
            return 0
        answers: dict[GroupID, list[_Answer]] = {}
        for index, (group, standing) in enumerate(mine.items()):
            told = [
                _Answer(name, reply.standings[index])
                for name, reply in zip(others, replies, strict=True)
                if reply is not None
            ]
            answers[group] = [_Answer(node.me, standing), *told]
        return self._crown_many(epoch, view, answers)

    def _claim_many(self, some: Sequence[GroupID]) -> tuple[Epoch, View, dict[GroupID, Standing]]:
        """One fresh epoch for all of them, and what is here of those that nobody leads."""
        node = self._node
        mine: dict[GroupID, Standing] = {}
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            records = {group: get_group(writer, group) or GroupRecord() for group in some}
            epoch = self._epoch_above(writer, view, records.values())
            for group, record in records.items():
                promised = record.promise.node
                taken = promised != node.me and view.member(promised) is not None
                led = taken or node.leads(record, view) or group in self._running
                if record.held and not led:
                    self._promise(writer, group, record, epoch)
                    mine[group] = self._standing(record, epoch, view)
        return epoch, view, mine

    def _epoch_above(self, writer: Writer, view: View, records: Iterable[GroupRecord]) -> Epoch:
        """An epoch above every one this node knows of these groups, never used before (R3)."""
        promises = [record.promise for record in records]
        counter = int.from_bytes(writer.get(ATTEMPTS) or b"")
        seen = max([counter, *(promise.attempt for promise in promises)])
        writer.put(ATTEMPTS, (seen + 1).to_bytes(8))
        number = max([view.id.number, *(promise.view for promise in promises)])
        return Epoch(number, seen + 1, self._node.me)

    def _crown_many(
        self, epoch: Epoch, view: View, answers: Mapping[GroupID, list[_Answer]]
    ) -> int:
        node, crowned, highest = self._node, 0, NO_EPOCH
        with node.store.write(urgent=True) as writer:
            if node.view_in(writer).id != view.id:
                return 0  # others may have come back since, and were not asked
            unproven = bool(node.membership.unproven())
            for group, told in answers.items():
                highest = max(highest, *(answer.standing.promised for answer in told))
                holding = self._adoptable(epoch, view, told, unproven=unproven)
                record = get_group(writer, group)
                if not holding or record is None or record.promise != epoch:
                    continue
                self._crown_over(writer, group, record, epoch, view, holding)
                crowned += 1
        if highest > epoch:
            self._saw(highest)
        node.counters.promotions += crowned
        return crowned

    def _adoptable(
        self, epoch: Epoch, view: View, told: list[_Answer], *, unproven: bool
    ) -> list[_Answer]:
        """Who has copies, where this node's own is the one to adopt (R4, R4a); else nobody."""
        if any(answer.standing.promised > epoch for answer in told):
            return []
        holding = [answer for answer in told if answer.standing.held]
        best = max(
            holding,
            key=lambda answer: (answer.standing.position, answer.standing.in_sync),
            default=None,
        )
        if best is None or best.node != self._node.me:
            return []
        met = not self._node.options.quorum and ViewID(*best.standing.formed) < view.barrier
        if met and len(holding) > 1:
            return []
        return holding if best.standing.in_sync or not unproven else []

    def _take(
        self, writer: Writer, group: GroupID, epoch: Epoch, content: Push | None, view: View
    ) -> GroupRecord:
        """This node's copy with `content` in it. Raises _Lost when the promise was overtaken."""
        node = self._node
        record = get_group(writer, group) or GroupRecord()
        if record.promise > epoch:
            raise _Lost
        if content is None:
            return record
        if not copies.fits(record, content):
            raise _Lost
        return copies.accept(writer, record, content, node.clock.now(), node.joined(view))

    def _crown(
        self,
        writer: Writer,
        group: GroupID,
        record: GroupRecord,
        epoch: Epoch,
        view: View,
        wanted: tuple[str, ...],
        found: set[str],
    ) -> None:
        """Begin `epoch` here, with a version of its own that C has yet to acknowledge (R5)."""
        node = self._node
        record.acked = record.version
        record.version += 1
        record.epoch = record.promise = epoch
        record.line = (*record.line, (epoch, record.version))[-LINE_LIMIT:]
        record.leaving = tuple(sorted(found - set(wanted)))
        record.holders, record.formed = (node.me, *wanted), view.id
        record.synced, record.run = node.joined(view), node.store.run
        record.crowned = view.id
        record.widened = NO_VIEW  # whoever led it before may have had other backups
        if node.me not in record.seats:
            seats = dict.fromkeys((node.me, *wanted, *record.seats))
            record.seats = tuple(seats)[: node.options.backups + 1]
        record.since = node.clock.now()
        writer.put(group_key(group), write_record(record))

    # --- epochs, floors, absence ----------------------------------------------------------------

    def _fresh_epoch(self, group: GroupID, floor: Position | None, *, promise: bool) -> Epoch:
        """An epoch above every one this node knows of the group, never used before (R3)."""
        node = self._node
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            record = get_group(writer, group) or GroupRecord()
            counter = int.from_bytes(writer.get(ATTEMPTS) or b"")
            told = floor.epoch if floor else NO_EPOCH
            followed = told.attempt if told.attempt < FOLLOWED else 0
            seen = max(counter, record.promise.attempt, followed)
            writer.put(ATTEMPTS, (seen + 1).to_bytes(8))
            number = max(view.id.number, record.promise.view, told.view)
            if (number, seen) < told[:2]:
                number += 1  # above it all the same, in this group and nowhere else
            epoch = Epoch(number, seen + 1, node.me)
            if promise:
                self._promise(writer, group, record, epoch)
        return epoch

    def first_epoch(self, writer: Writer, view: View) -> Epoch:
        """The epoch of a group that is being made."""
        attempt = int.from_bytes(writer.get(ATTEMPTS) or b"") + 1
        writer.put(ATTEMPTS, attempt.to_bytes(8))
        return Epoch(view.id.number, attempt, self._node.me)

    def _saw(self, epoch: Epoch) -> None:
        """Start the next attempt above an epoch that somebody else took."""
        with self._node.store.write(urgent=True) as writer:
            counter = int.from_bytes(writer.get(ATTEMPTS) or b"")
            if epoch.attempt > counter:
                writer.put(ATTEMPTS, epoch.attempt.to_bytes(8))

    def _check_floor(self, position: Position, floor: Position | None) -> None:
        """A copy older than what the client has seen is not served as current (R16, R18)."""
        if floor is None or position >= floor:
            return
        if self._node.membership.unproven():
            raise StaleSession("only copies older than the client's last answer are alive")
        self._node.counters.rolled_back += 1
        log.warning(
            "a session was rolled back: every server with a newer copy is gone for longer than"
            " `forget_after`"
        )

    def _check_nowhere(self) -> None:
        """No member has it: proof only when nobody else can have it (R12)."""
        if self._node.membership.unproven():
            raise SessionUnavailable("servers that are away may hold the session")
        self._node.counters.gone += 1

    # --- the other side -------------------------------------------------------------------------

    async def on_claim(self, sender: Sender, claim: Claim) -> Message:
        """Hand the group over once its running commits are finished."""
        node = self._node
        deadline = node.clock.now() + SETTLE_FIRST
        running = self._running.get(claim.group)
        if running is not None:
            await asyncio.wait({running}, timeout=OWN_FIRST)
        turn: Taken | None = None
        try:
            while True:
                reply = self._grant(sender, claim, turn)
                if not isinstance(reply, GroupRecord):
                    return reply
                left = reply.since + HOLD - node.clock.now()
                if left > 0:
                    await asyncio.sleep(left / 1000)
                elif self._turns is not None and turn is None:
                    turn = await self._turns.take(claim.group, patience=SETTLE_FIRST / 1000)
                else:
                    await self._replication.settle(claim.group, deadline, widen=False)
        except SessionBusy as busy:
            return Failed("SessionBusy", str(busy))
        except Fenced as fenced:
            return NotPrimary(fenced.promise.node, fenced.promise)
        except SessionUnavailable:
            return NotPrimary()
        finally:
            if turn is not None:
                turn.end()

    async def on_take_over(self, sender: Sender, question: TakeOver) -> Message:
        """Claim what the sender leads and is about to leave; a hand-over like any other. Where it
        goes for good, its copies go as well."""
        node = self._node
        view = node.membership.view()
        me, giver = view.member(node.me), view.member(sender.node)
        if me is None or giver is None or not node.shares_view(sender, view):
            return NOT_TOGETHER
        if not me.ready:
            return TookOver(())
        for_good = giver.drains == "leaving"
        taken = await asyncio.gather(
            *(self._take_over(group, sender.node, for_good) for group in question.groups)
        )
        return TookOver(tuple(g for g, ok in zip(question.groups, taken, strict=True) if ok))

    async def _take_over(self, group: GroupID, giver: str, for_good: bool) -> bool:
        node = self._node
        try:
            if await self.acquire(group, None, primary=giver) is None:
                return False
            if for_good:
                deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
                await self._replication.settle(group, deadline, widen=True)
        except (SessionHAError, Fenced) as error:
            log.debug("a group of %s is not taken over yet: %s", giver, error)
            return False
        return True

    def _grant(self, sender: Sender, claim: Claim, turn: Taken | None) -> Message | GroupRecord:
        """The reply, or the record of a group that must first rest, wait for a turn or settle."""
        node = self._node
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            if not node.shares_view(sender, view):
                return NOT_TOGETHER
            record = get_group(writer, claim.group)
            if record is None or not node.is_primary(record, view):
                promise = record.promise if record else NO_EPOCH
                return NotPrimary(promise.node, promise)
            if claim.epoch <= record.promise:
                return Refused(record.promise)
            resting = node.clock.now() < record.since + HOLD
            waits = self._turns is not None and turn is None
            if resting or waits or record.acked != record.version:
                return record
            push = copies.content(writer, claim.group, record, claim.position, node.clock.now())
            record.promise = claim.epoch
            writer.put(group_key(claim.group), write_record(record))
            return Granted(push)

    async def on_promise(self, sender: Sender, question: Promise) -> Message:
        """Refuse every lower epoch of these groups from now on, also where nothing is held."""
        node = self._node
        for group in question.groups:
            await self._finish_commits(group)
        standings = []
        with node.store.write(urgent=True) as writer:
            view = node.view_in(writer)
            if not node.shares_view(sender, view):
                return NOT_TOGETHER
            for group in question.groups:
                record = get_group(writer, group) or GroupRecord()
                if question.epoch > record.promise:
                    self._promise(writer, group, record, question.epoch)
                standings.append(self._standing(record, record.promise, view))
        return Promised(tuple(standings))

    async def _finish_commits(self, group: GroupID) -> None:
        """A promise deposes this node: let what it is committing end well first, if it can."""
        node = self._node
        with node.store.read() as reader:
            record = get_group(reader, group)
            view = node.view_in(reader)
        if record is None or record.acked == record.version or not node.is_primary(record, view):
            return
        try:
            await self._replication.settle(group, node.clock.now() + SETTLE_FIRST // 2, widen=False)
        except (Fenced, SessionUnavailable):
            return

    def on_fetch(self, sender: Sender, question: Fetch) -> Message:
        """What this node's copy has beyond a position."""
        node = self._node
        with node.store.read() as reader:
            if not node.shares_view(sender, node.view_in(reader)):
                return NOT_TOGETHER
            record = get_group(reader, question.group)
            if record is None or not record.held:
                return Fetched(None)
            return Fetched(
                copies.content(reader, question.group, record, question.position, node.clock.now())
            )

    def _promise(self, writer: Writer, group: GroupID, record: GroupRecord, epoch: Epoch) -> None:
        record.promise = epoch
        if not record.held:
            record.keep_until = self._node.clock.now() + PROMISE_TTL
        writer.put(group_key(group), write_record(record))

    def _standing(self, record: GroupRecord, promised: Epoch, view: View) -> Standing:
        return Standing(
            promised=promised,
            position=record.position,
            held=record.held,
            in_sync=self._node.is_in_sync(record, view),
            holders=record.holders,
            formed=record.formed,
            seats=record.seats,
        )
