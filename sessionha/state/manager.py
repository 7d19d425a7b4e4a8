"""The state manager: where the data is. What sessions and peers ask of it is answered here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import islice
from typing import NamedTuple

from sessionha.errors import (
    CommitUnconfirmed,
    Fenced,
    OperationRefused,
    PeerUnavailable,
    SessionBusy,
    SessionError,
    SessionRevoked,
    SessionTooLarge,
    SessionUnavailable,
    StoreError,
    StoreFull,
)
from sessionha.identity import NO_VIEW, Epoch, GroupID, Position, SessionKey
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Batch,
    Claim,
    Committed,
    Compare,
    CountCopies,
    Examine,
    Failed,
    Fetch,
    FindCopies,
    FindOld,
    Forward,
    Message,
    NotPrimary,
    Promise,
    Push,
    Pushes,
    Revocations,
    Revoke,
    Survey,
    TakeOver,
    Tell,
    Touch,
    Walk,
    Weigh,
    Whose,
)
from sessionha.state import copies, domains, placement
from sessionha.state.base import (
    Elements,
    Held,
    Loaded,
    LoggedOut,
    Places,
    Receipt,
    Siblings,
    Turn,
    Unsettled,
    touch_interval,
)
from sessionha.state.bulk import Bulk
from sessionha.state.catching import CatchingUp
from sessionha.state.copies import GROUP_BYTES
from sessionha.state.delays import Delays
from sessionha.state.drill import Drill
from sessionha.state.node import Node
from sessionha.state.ownership import Ownership
from sessionha.state.readings import Readings
from sessionha.state.rebalancing import Rebalancer
from sessionha.state.records import (
    GROUPS,
    GroupRecord,
    get_group,
    get_session,
    group_key,
    read_session,
    rows,
    session_row_key,
    values,
    write_record,
)
from sessionha.state.redundancy import Redundancy
from sessionha.state.replication import Replication, Round, receipt
from sessionha.state.serial import Turns
from sessionha.state.subjects import Subjects
from sessionha.state.walking import Walking
from sessionha.store.base import Writer
from sessionha.view import NO_MEMBERS, View

GROUP_SESSIONS = 16
"""Living sessions from which on a new session of a client begins its own group."""

GROUP_ROWS = 64
"""The same with tombstones, which are small: log-ins and log-outs leave them."""


MOVED = (
    "another server went on with the session while this request had its turn; nothing was changed"
)


SETTLING = 0.001
"""Seconds before a session is read again whose group was changed a moment after it was acquired."""


LOOK_AGAIN = 0.001
"""Seconds between two looks at the lock of a domain."""


class NotHeld(Exception):
    """This node may not commit to the group now; `primary` may."""

    def __init__(self, primary: str) -> None:
        self.primary = primary


class DomainLocked(Exception):
    """Healing holds the lock of the group's domain: for some milliseconds."""


class _Started(NamedTuple):
    record: GroupRecord
    round: Round | None


class StateManager:
    """Implements `sessionha.state.base.State`, and answers the state managers of other nodes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.replication = Replication(node)
        self.bulk = Bulk(node, self.replication)
        self.walking = Walking(node, self.replication)
        self.turns = Turns(node) if node.options.serial else None
        self.ownership = Ownership(node, self.replication, self.turns)
        self.local = not (node.options.serial or node.options.confirmed)
        self.subjects = Subjects(node, partial(self.commit, fresh=False))
        self.delays = Delays(node)
        self.redundancy = Redundancy(node)
        self.catching_up = CatchingUp(node, self.redundancy)
        self.drill = Drill(node)
        self.rebalancer = Rebalancer(node, self.replication, self.delays)
        self.readings = Readings()
        self.tend: Callable[[], None] | None = None
        """Upkeep between requests, where no task does it."""

    # --- sessions ask ---------------------------------------------------------------------------

    def held(self, group: GroupID, floor: Position | None) -> Held | None:
        """See `State.held`."""
        return self.ownership.held(group, floor)

    async def acquire(self, group: GroupID, floor: Position | None) -> Held | None:
        """See `State.acquire`."""
        if self.subjects.behind:
            await self.subjects.catch_up()
        return await self.ownership.acquire(group, floor)

    async def turn(
        self, group: GroupID, key: SessionKey, beside: Collection[Turn] = ()
    ) -> Turn | None:
        """See `State.turn`."""
        return None if self.turns is None else await self.turns.take(group, key, beside=beside)

    async def find(self, group: GroupID, key: SessionKey, floor: Position | None) -> Loaded | None:
        """See `State.find`."""
        clock, options = self.node.clock, self.node.options
        deadline = clock.now() + int(options.acquire_timeout * 1000)
        while (held := await self.acquire(group, floor)) is not None:
            try:
                loaded = self.load(group, key, floor)
            except Unsettled:
                pass
            else:
                # What was read was read in this epoch, if it is the epoch still when all say so.
                epoch = held.position.epoch
                if not options.confirmed or await self.replication.vouch(group, epoch, deadline):
                    return loaded
            if clock.now() >= deadline:
                raise SessionUnavailable("the session is in use without pause")
            if self.node.peers is not None:
                await asyncio.sleep(SETTLING)
        return None

    def load(self, group: GroupID, key: SessionKey, floor: Position | None = None) -> Loaded | None:
        """See `State.load`."""
        node, found = self.node, self.readings
        with node.store.read() as reader:
            now = node.clock.now()  # later than what is read, so that a lease holds for it
            group_row = reader.get(GROUPS + group)
            held, view = None, NO_MEMBERS
            if group_row is not None and now < node.membership.lease_in(reader):
                view = node.membership.view_in(reader)
                held = found.held(group, group_row, view, self.ownership.serves)
            if held is None or (floor is not None and held.position < floor):
                raise Unsettled("the session's group is not held here now")
            row = reader.get(GROUPS + group + key)
            if row is None:
                return None
            session = read_session(row)
            if session.ended(now):
                return None
            owner = session.owner
            if owner is not None and self.subjects.denies(reader, owner, view):
                return None
            elements = found.elements(key, held.position)
            if elements is None:
                elements = Elements(values(reader, group, key))
                found.keep(key, held.position, elements)
        return Loaded(
            held,
            now - session.created,
            session.idle_timeout,
            session.deadline - now,
            session.lifetime - now if session.lifetime else None,
            now - session.touched >= touch_interval(session.idle_timeout),
            elements,
            owner,
        )

    async def commit(
        self, batch: Batch, *, fresh: bool, floor: Position | None = None, alone: bool = False
    ) -> Receipt:
        """See `State.commit`."""
        for change in batch.changes:
            if change.owner is not None:
                await self.subjects.ensure_caught_up()
        within = floor.epoch if alone and floor is not None else None
        try:
            started = await self._begin(batch, fresh=fresh, within=within)
        except NotHeld as elsewhere:
            if within is not None:
                raise SessionBusy(MOVED) from None
            if not fresh:
                return await self._commit_elsewhere(batch, elsewhere.primary, floor)
            await self.node.membership_regained()
            return await self.commit(batch, fresh=True)
        return await self._finish(started)

    def has_room(self, group: GroupID, floor: Position | None) -> bool:
        """See `State.has_room`."""
        if self.held(group, floor) is None:
            return False
        most = min(GROUP_SESSIONS, GROUP_BYTES // self.node.options.limits.session_bytes)
        with self.node.store.read() as reader:
            sessions = (row.value for row in rows(reader, group) if row.element is None)
            found = [read_session(value).destroyed for value in islice(sessions, GROUP_ROWS)]
        return len(found) < GROUP_ROWS and found.count(False) < most

    def touch(self, group: GroupID, key: SessionKey) -> bool:
        """See `State.touch`. A touch is a maximum, outside the version, and not waited for."""
        node = self.node
        now = node.clock.now()
        try:
            with node.store.write(urgent=True) as writer:
                record = get_group(writer, group)
                session = get_session(writer, group, key)
                if record is None or session is None or session.ended(now):
                    return False
                session.touched, session.deadline = now, now + session.idle_timeout
                writer.put(session_row_key(group, key), write_record(session))
        except StoreFull:
            return False  # no reason to fail a request that only reads
        node.counters.touches += 1
        if node.peers is not None:
            message = Touch(group, ((key, session.idle_timeout),))
            for name in record.holders[1:]:
                node.peers.cast(name, message)
        return True

    async def sessions_of(self, subject: str) -> Siblings:
        """See `State.sessions_of`."""
        return await self.subjects.sessions_of(subject)

    async def locate(self, subject: str) -> Places:
        """See `State.locate`."""
        return await self.subjects.locate(subject)

    async def revoke(
        self,
        subject: str,
        name: bytes,
        *,
        kept: tuple[bytes, ...] = (),
        only: tuple[bytes, ...] = (),
    ) -> LoggedOut:
        """See `State.revoke`."""
        return await self.subjects.revoke(subject, name, kept=kept, only=only)

    def buried(self, group: GroupID, key: SessionKey) -> int | None:
        """See `State.buried`."""
        with self.node.store.read() as reader:
            session = get_session(reader, group, key)
        if session is None or not session.destroyed:
            return None
        return self.node.clock.now() - session.touched

    # --- committing -----------------------------------------------------------------------------

    async def _begin(self, batch: Batch, *, fresh: bool, within: Epoch | None = None) -> _Started:
        """Transaction 1, as soon as the group's domain is not locked."""
        patient = True
        while True:
            try:
                return self._start(batch, fresh=fresh, within=within, patient=patient)
            except DomainLocked:
                await self._domain_released(batch.group)
                patient = False
            except SessionRevoked:
                await self._end_surely(batch.group)
                raise

    async def _end_surely(self, group: GroupID) -> None:
        """Nobody is told that a session ended while that may yet be undone: by the death of this
        node, before all of C have the tombstone that another request has just written."""
        node = self.node
        if node.peers is None:
            return
        # Half of it: whoever forwarded the change waits no longer than that for the answer.
        deadline = node.clock.now() + int(node.options.commit_timeout * 500)
        try:
            await asyncio.shield(node.spawn(self.replication.settle(group, deadline, widen=False)))
        except (Fenced, CommitUnconfirmed, StoreError) as open_end:
            raise SessionUnavailable(
                "the session is just being ended; nothing was changed"
            ) from open_end

    def _start(
        self, batch: Batch, *, fresh: bool, within: Epoch | None = None, patient: bool = True
    ) -> _Started:
        """Transaction 1: merge the batch at version + 1, if this node may, and (`within`) if the
        group never left it. `patient`: not while the domain is locked; whoever waited for that
        once goes on in any case, because the lock protects nothing."""
        node = self.node
        urgent = any(change.destroy for change in batch.changes)
        shrinking = all(change.destroy for change in batch.changes)
        with node.store.write(urgent=urgent, shrinking=shrinking) as writer:
            view = node.view_in(writer)
            record = get_group(writer, batch.group)
            if not node.leased(writer):
                raise NotHeld("" if record is None else record.promise.node)
            if fresh and (record is None or not record.held):
                record = self._found(writer, batch.group, view)
            elif record is None or not node.is_primary(record, view):
                raise NotHeld(record.promise.node if record else "")
            elif patient and node.peers is not None:
                lock = writer.get(domains.LOCKED)
                if lock is not None and domains.is_locked(lock, batch.group, node.clock.now()):
                    raise DomainLocked
            if within is not None and record.epoch != within:
                raise NotHeld(node.me)
            base = record.position
            formed = self.replication.reform(record, batch.group, view, widen=True)
            if len(record.holders) <= node.options.min_copies:
                node.counters.below_min_copies += 1
                raise SessionUnavailable(
                    f"fewer than `min_copies` = {node.options.min_copies} other servers can take a"
                    " copy; nothing was changed"
                )
            delta = copies.merge(writer, record, batch, node.clock.now(), node.options.limits)
            alone = len(record.holders) == 1 and not record.leaving
            if alone:
                record.acked = record.version
            row = write_record(record)
            writer.put(group_key(batch.group), row)
        self.replication.count(formed)
        self.readings.follow(batch, delta.elements, base, record.position)
        node.counters.commits += 1
        node.counters.merged += delta.merged
        node.counters.conflicts += delta.conflicts
        if alone:
            if self.tend is not None:
                self.tend()
            return _Started(record, None)
        push = copies.delta_push(batch.group, record, base, delta)
        targets = record.holders[1:]
        return _Started(record, Round(push, targets, record.leaving, view.id, record, row))

    async def _domain_released(self, group: GroupID) -> None:
        """Wait until the lock of the group's domain is released, or ends by itself."""
        node = self.node
        began = now = node.clock.now()
        while now < began + domains.LONGEST:
            await asyncio.sleep(LOOK_AGAIN)
            now = node.clock.now()
            with node.store.read() as reader:
                lock = reader.get(domains.LOCKED)
            if lock is None or not domains.is_locked(lock, group, now):
                break
        node.counters.domain_waits += 1
        node.counters.domain_waited += now - began

    def _found(self, writer: Writer, group: GroupID, view: View) -> GroupRecord:
        """A group that was made in this request: nobody else can know of it."""
        node = self.node
        joined = node.joined(view)
        if joined == NO_VIEW:
            raise NotHeld("")
        epoch = self.ownership.first_epoch(writer, view)
        backups = placement.backups(group, view, node.me, node.options.backups)
        holders = (node.me, *backups)
        return GroupRecord(
            epoch=epoch,
            promise=epoch,
            holders=holders,
            formed=view.id,
            widened=view.id,
            synced=joined,
            crowned=view.id,
            run=node.store.run,
            seats=holders,
            line=((epoch, 1),),
            since=0,  # nothing has gone anywhere yet: it may be handed over at once
        )

    async def _finish(self, started: _Started) -> Receipt:
        """The round to C, and transaction 2."""
        node = self.node
        if started.round is None:
            if node.options.backups:
                node.counters.fewer_copies += 1
            return receipt(started.record)
        deadline = node.clock.now() + int(node.options.commit_timeout * 1000)
        try:
            done = await self.replication.confirm(started.round, deadline)
            if done.copies < node.options.backups:
                node.counters.fewer_copies += 1
                if done.copies < node.options.min_copies:
                    raise CommitUnconfirmed((), done.copies, wanted=node.options.min_copies)
            return done
        except asyncio.CancelledError:
            work = self.replication.settle(started.round.push.group, deadline, widen=True)
            node.spawn(work)
            raise
        except Fenced as fenced:
            node.counters.unconfirmed += 1
            raise CommitUnconfirmed((fenced.promise.node,), 0) from fenced
        except (StoreFull, StoreError) as error:
            node.counters.unconfirmed += 1
            raise CommitUnconfirmed((node.me,), 0) from error  # it was written, and sent
        except CommitUnconfirmed:
            node.counters.unconfirmed += 1
            raise

    async def _commit_elsewhere(
        self, batch: Batch, primary: str, floor: Position | None
    ) -> Receipt:
        """The group went away while the request ran: the primary merges its batch (R5)."""
        node = self.node
        deadline = node.clock.now() + int(node.options.acquire_timeout * 1000)
        while True:
            if primary and primary != node.me and node.membership.view().member(primary):
                forwarded = await self._forward(batch, primary)
                if isinstance(forwarded, Receipt):
                    return forwarded
                primary = forwarded
            else:
                if await self.acquire(batch.group, floor) is None:
                    raise SessionRevoked("the session is gone; its changes were dropped")
                primary = node.me
            try:
                return await self._finish(await self._begin(batch, fresh=False))
            except NotHeld as elsewhere:
                primary = primary if primary not in ("", node.me) else elsewhere.primary
            if node.clock.now() >= deadline:
                raise SessionUnavailable("the session moved on and on; nothing was changed")

    async def _forward(self, batch: Batch, primary: str) -> Receipt | str:
        """The receipt, or whom to try next."""
        node = self.node
        assert node.peers is not None, "a group without peers is nowhere else"
        node.counters.forwards += 1
        try:
            reply = await node.peers.call(primary, Forward(batch), node.options.commit_timeout)
        except PeerUnavailable as error:
            if error.sent or error.refused:
                node.membership.suspect(primary)
            if error.sent and not error.refused:
                raise CommitUnconfirmed((primary,), 0) from error
            return ""
        match reply:
            case Committed():
                return Receipt(reply.position, reply.holders, len(reply.holders) - 1)
            case NotPrimary():
                return reply.hint if reply.hint != primary else ""
            case Failed():
                raise _error_from(reply, primary)
            case _:
                raise CommitUnconfirmed((primary,), 0)

    # --- peers ask ------------------------------------------------------------------------------

    def handle(self, sender: Sender, message: Message) -> Message | Awaitable[Message] | None:
        """Answer another node's state manager."""
        match message:
            case Push():
                return self._on_push(sender, message)
            case Pushes() | Compare() | Walk() | FindOld():
                return self._on_healing(sender, message)
            case Claim():
                return self.ownership.on_claim(sender, message)
            case TakeOver():
                return self.ownership.on_take_over(sender, message)
            case Promise():
                return self.ownership.on_promise(sender, message)
            case Fetch():
                return self.ownership.on_fetch(sender, message)
            case Forward():
                return self._on_forward(message)
            case Touch():
                self._on_touch(sender, message)
                return None
            case Whose() | Revoke() | Revocations():
                return self._on_subject(sender, message)
            case Tell() | Survey() | Weigh() | FindCopies():
                return self._on_operator(sender, message)
            case Examine() | CountCopies():
                return self._on_question(sender, message)
            case _:
                return Failed("BadMessage", "not a message for a state manager")

    def _on_subject(
        self, sender: Sender, message: Whose | Revoke | Revocations
    ) -> Message | Awaitable[Message]:
        match message:
            case Whose():
                return self.subjects.on_whose(sender, message)
            case Revoke():
                return self.subjects.on_revoke(message)
            case Revocations():
                return self.subjects.on_revocations(sender, message)

    def _on_healing(
        self, sender: Sender, message: Pushes | Compare | Walk | FindOld
    ) -> Message | Awaitable[Message]:
        match message:
            case Pushes():
                return self.bulk.on_pushes(sender, message)
            case Compare():
                return self.walking.on_compare(sender, message)
            case Walk():
                return self.walking.on_walk(sender, message)
            case FindOld():
                return self.walking.on_find_old(sender, message)

    def _on_operator(
        self, sender: Sender, message: Tell | Survey | Weigh | FindCopies
    ) -> Message | Awaitable[Message]:
        if isinstance(message, Tell):
            return self.delays.on_tell(sender, message)
        if isinstance(message, FindCopies):
            return self.redundancy.on_find(sender, message)
        return self.redundancy.on_question(sender, message)

    def _on_question(
        self, sender: Sender, message: Examine | CountCopies
    ) -> Message | Awaitable[Message]:
        if isinstance(message, Examine):
            return self.drill.on_examine(sender, message)
        return self.rebalancer.on_count(sender)

    def _on_push(self, sender: Sender, push: Push) -> Message | Awaitable[Message]:
        reply = self.replication.accept(sender, push)
        if self.replication.is_gap(push, reply):
            return self.replication.accept_later(sender, push)
        return reply

    async def _on_forward(self, forward: Forward) -> Message:
        try:
            started = await self._begin(forward.batch, fresh=False)
        except NotHeld as elsewhere:
            return NotPrimary(elsewhere.primary)
        except SessionError as error:
            return Failed(type(error).__name__, str(error))
        try:
            done = await self._finish(started)
        except CommitUnconfirmed as error:
            return Failed(type(error).__name__, str(error))
        return Committed(done.position, done.holders)

    def _on_touch(self, sender: Sender, touch: Touch) -> None:
        node = self.node
        now = node.clock.now()
        with node.store.write(urgent=True) as writer:
            record = get_group(writer, touch.group)
            if record is None or sender.node not in record.holders:
                return
            for key, left in touch.sessions:
                session = get_session(writer, touch.group, key)
                if session is None or session.destroyed:
                    continue
                deadline = now + min(left, session.idle_timeout)
                if deadline > session.deadline:
                    session.touched = deadline - session.idle_timeout
                    session.deadline = deadline
                    writer.put(session_row_key(touch.group, key), write_record(session))

    # --- life -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """The engine has its slot, and nothing was asked yet."""
        if self.turns is not None:
            self.turns.begin()

    async def stop(self) -> None:
        """Wait for the commits and acquisitions that are under way."""
        tasks = list(self.node.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=self.node.options.commit_timeout)


def _error_from(failed: Failed, primary: str) -> SessionError:
    """The error that the primary met while it committed for another node."""
    match failed.kind:
        case "SessionRevoked":
            return SessionRevoked(failed.reason)
        case "SessionTooLarge" | "StoreFull" | "SessionUnavailable" | "OperationRefused":
            return _REMOTE[failed.kind](failed.reason)
        case _:
            return CommitUnconfirmed((primary,), 0)


class _RemoteTooLarge(SessionTooLarge):
    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class _RemoteFull(StoreFull):
    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


class _RemoteRefused(OperationRefused):
    def __init__(self, reason: str) -> None:
        Exception.__init__(self, reason)


_Remote = type[_RemoteTooLarge | _RemoteFull | _RemoteRefused | SessionUnavailable]

_REMOTE: dict[str, _Remote] = {
    "OperationRefused": _RemoteRefused,
    "SessionTooLarge": _RemoteTooLarge,
    "StoreFull": _RemoteFull,
    "SessionUnavailable": SessionUnavailable,
}
