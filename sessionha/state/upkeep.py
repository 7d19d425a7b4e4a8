"""What the leader of a node does unasked: sweep what ended, and let missing copies be made."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import islice

from sessionha.errors import StoreFull
from sessionha.identity import GroupID, SessionKey
from sessionha.peer.messages import Course
from sessionha.state import copies, owners
from sessionha.state.healing import Healer
from sessionha.state.manager import StateManager
from sessionha.state.records import (
    GroupRecord,
    SessionRecord,
    element_key,
    elements,
    get_group,
    get_session,
    group_key,
    groups,
    read_session,
    rows,
    session_row_key,
    write_record,
)
from sessionha.state.replication import PROMISE_TTL
from sessionha.state.walking import drop_left_over, is_left_over
from sessionha.store.base import Reader, Writer

log = logging.getLogger("sessionha.state")

EVERY = 0.25
"""Seconds between two looks at whether something is to do."""

SWEEP_EVERY = 30_000
"""Milliseconds between two sweeps."""

MARK_EVERY = 5_000
"""Milliseconds between two marks of the clock."""

AT_ONCE = 128
"""Groups read in one transaction."""

TENDED = 16
"""Groups looked at after one commit of a node without peers: about 50 µs."""

LATE = 600_000
"""Milliseconds for which a swept group's promise is kept: a change that comes late (its receiver
stood still) finds that it is older, and does not begin the group again."""

MEMBER_AT = b"\x00member-at"
"""Store row: when this node was last seen to be a member."""

WANTING = b"\x00wanting"
"""Store row: changes when an engine that does not lead has lost a copy, or left one open."""

ROWS_AT_ONCE = 50
"""Rows deleted in one transaction: a full map cannot do more."""


def grace(idle_timeout: int) -> int:
    """How long an idle session is kept after its deadline, milliseconds: a copy may have missed
    the last touches, which are not waited for."""
    return max(copies.EXPIRY_SKEW, idle_timeout // 4)


class Upkeep:
    """Runs in every engine; only the one that leads the node acts."""

    def __init__(self, state: StateManager) -> None:
        self._state = state
        self._node = state.node
        self.healer = Healer(state)
        self._swept = 0
        self._sweeping: GroupID | None = None
        self._next_sweep = 0
        self._denied: list[tuple[GroupID, SessionKey]] = []
        """Sessions that were logged out and have no tombstone: their primary, here, writes it."""
        self._tending = False
        self._siblings: set[int] = set()
        self._came = True
        """Another engine may have had this one's slot until a moment ago, and died."""
        self._wanted = b""

    async def run(self) -> None:
        """Look after the node until cancelled."""
        beside = [
            asyncio.create_task(self._keep_informed(), name="sessionha health"),
            asyncio.create_task(self._keep_whole(), name="sessionha healing"),
        ]
        try:
            await self._look_after()
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)  # before the store is closed

    async def _keep_whole(self) -> None:
        """A gigabyte is healed in a minute, for which nothing else waits."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                if self.learns_what_is_wanting() and not await self.repair():
                    await self._state.rebalancer.look()
            except Exception:
                log.exception("healing failed; it goes on in a moment")

    async def _keep_informed(self) -> None:
        """What goes on also while the healing takes long."""
        while True:
            await asyncio.sleep(EVERY)
            try:
                if self._node.store.try_lead():
                    self._state.delays.keep_up()
                    await self._state.redundancy.look(self.course())
                    await self._state.catching_up.look()
            except Exception:
                log.exception("counting the copies failed; it goes on in a moment")

    def course(self) -> Course:
        """How far the healing of this node's groups has come."""
        found = self.healer.progress
        return Course(
            found.domain is not None,
            found.domains,
            found.domains_done,
            found.groups,
            found.groups_done,
            found.bytes,
            found.bytes_done,
            self.healer.ended,
            found.passed_over,
        )

    async def _look_after(self) -> None:
        marked = 0
        while True:
            await asyncio.sleep(EVERY)
            try:
                if not self._node.store.try_lead():
                    continue
                self.keep_time()
                now = self._node.clock.now()
                if now - marked >= MARK_EVERY:
                    marked = now
                    self._node.clock.mark()
                self._state.subjects.keep_up()
                await self._state.drill.look()
                if now - self._swept >= SWEEP_EVERY:
                    await self.sweep()
            except Exception:
                log.exception("looking after the store failed; it goes on in a moment")

    # --- a long absence -------------------------------------------------------------------------

    def keep_time(self) -> int:
        """Note that this node is a member; one that has been none for longer than a log-out is
        remembered drops its copies (R11): what they hold may have been destroyed, and nobody
        knows it any more. How many groups that were.
        """
        node, now = self._node, self._node.clock.now()
        with node.store.read() as reader:
            row = reader.get(MEMBER_AT)
        last = 0 if row is None else int(row)  # a sibling may have written it
        if last and now - last > copies.TOMBSTONE_TTL:
            dropped = self._drop_copies(now)
            log.warning(
                "this node was no member of its cluster for %d days, longer than log-outs are"
                " remembered: it dropped its old copies of %d groups of sessions",
                (now - last) // 86_400_000, dropped,
            )  # fmt: skip
            self._note(now)
            return dropped
        if now - last >= MARK_EVERY and node.membership.is_member():
            self._note(now)
        return 0

    def _note(self, now: int) -> None:
        with self._node.store.write(urgent=True) as writer:
            writer.put(MEMBER_AT, str(now).encode())

    def _drop_copies(self, now: int) -> int:
        dropped = 0
        after: GroupID | None = None
        while True:
            with self._node.store.read() as reader:
                batch = list(islice(groups(reader, after), AT_ONCE))
            if not batch:
                return dropped
            after = batch[-1][0]
            for group in (group for group, record in batch if record.held):
                with self._node.store.write(shrinking=True) as writer:
                    record = get_group(writer, group)
                    if record is not None:
                        copies.give_up(writer, group, record, now + PROMISE_TTL)
                        dropped += 1

    def learns_what_is_wanting(self) -> bool:
        """Whether this engine leads its node, and so heals: then it learns what others met, and of
        their death, which may have left something open. Any other one tells what it met."""
        node = self._node
        with node.store.read() as reader:
            row = reader.get(WANTING) or b""
        if not node.store.try_lead():
            if node.wanting or self._came:
                with suppress(StoreFull), node.store.write(urgent=True) as writer:
                    writer.put(WANTING, node.random.randbytes(8))
                    node.wanting = self._came = False
            return False
        living = node.store.living_slots()
        node.wanting |= row != self._wanted or not self._siblings <= living
        self._siblings, self._wanted = living, row
        return True

    async def repair(self) -> int:
        """Bring every group that this node leads to its wanted copies; how many were changed."""
        return await self.healer.heal()

    # --- sweeping -------------------------------------------------------------------------------

    async def sweep(self) -> int:
        """Delete sessions that ended, and groups with nothing left; how many rows went."""
        swept = 0
        after: GroupID | None = None
        while True:
            after, some = self.sweep_some(after)
            swept += some
            await self._bury_denied()
            if after is None:
                break
            await asyncio.sleep(0)
        self._state.subjects.sweep()
        self._swept = self._node.clock.now()
        self._node.store.check()
        return swept

    def tend(self) -> None:
        """Sweep a little: for a node without peers, where commits and nothing else wake up."""
        now = self._node.clock.now()
        if self._tending or now < self._next_sweep or not self._node.store.try_lead():
            return
        self._sweeping, _ = self.sweep_some(self._sweeping, TENDED)
        if self._denied:
            self._tending = True  # what is buried is committed, and a commit calls this
            try:
                self._bury_denied().send(None)  # without peers it never suspends
            except StopIteration:
                pass
            finally:
                self._tending = False
        if self._sweeping is None:
            self._next_sweep = now + SWEEP_EVERY
            self._node.clock.mark()
            self._state.subjects.sweep()
            self._node.store.check()

    def sweep_some(self, after: GroupID | None, most: int = AT_ONCE) -> tuple[GroupID | None, int]:
        """Sweep the next groups above `after`: (where to go on, rows deleted). Never waits."""
        node = self._node
        now = node.clock.now()
        with node.store.read() as reader:
            view = node.view_in(reader)
            batch = list(islice(groups(reader, after), most))
            ended = [
                group
                for group, record in batch
                if self._has_ended(reader, group, record, now, leads=node.leads(record, view))
            ]
            left_over = [group for group, record in batch if is_left_over(node, record, view, now)]
        swept = 0
        for group in ended:
            with node.store.write(shrinking=True) as writer:
                swept += self._sweep_group(writer, group, now)
        for group in left_over:
            self._drop_left_over(group, now)
        node.counters.swept += swept
        return (batch[-1][0] if batch else None), swept

    def _has_ended(
        self, reader: Reader, group: GroupID, record: GroupRecord, now: int, *, leads: bool
    ) -> bool:
        """Whether something of the group may be deleted; notes what is to be buried in it."""
        if not record.held:
            return now >= record.keep_until
        ended = False
        for row in rows(reader, group):
            if row.element is not None:
                continue
            session = read_session(row.value)
            if _is_over(session, now):
                ended = True
            elif leads and session.owner is not None and owners.is_denied(reader, session.owner):
                self._denied.append((group, row.session))
        return ended

    def _drop_left_over(self, group: GroupID, now: int) -> None:
        node = self._node
        with node.store.write(shrinking=True) as writer:
            record = get_group(writer, group)
            if record is not None and is_left_over(node, record, node.view_in(writer), now):
                drop_left_over(writer, group, record, now + PROMISE_TTL)

    async def _bury_denied(self) -> None:
        """Only the primary does (R10); and the log-out is remembered until it is done."""
        denied, self._denied = self._denied, []
        await self._state.subjects.bury(denied)

    def _sweep_group(self, writer: Writer, group: GroupID, now: int) -> int:
        record = get_group(writer, group)
        if record is None:
            return 0
        room = ROWS_AT_ONCE
        left = 0
        idle = False
        for key in [row.session for row in rows(writer, group) if row.element is None]:
            session = get_session(writer, group, key)
            if session is None or not _is_over(session, now):
                left += 1
                continue
            idle |= not session.destroyed
            for name in [name for name, _ in islice(elements(writer, group, key), room)]:
                writer.delete(element_key(group, key, name))
                room -= 1
            if room <= 0:
                left += 1
                break
            owners.index(writer, group, key, session.owner, None)
            writer.delete(session_row_key(group, key))
            room -= 1
        leads = self._node.is_primary(record, self._node.view_in(writer))
        if left and idle and record.held and not (record.swept or leads):
            # The primary may know of later uses, which are told without waiting.
            record.swept = True
            writer.put(group_key(group), write_record(record))
        if not left and record.held and self._node.peers is not None:
            copies.give_up(writer, group, record, now + LATE)
        elif not left and (record.held or now >= record.keep_until):
            writer.delete(group_key(group))
        return ROWS_AT_ONCE - room


def _is_over(session: SessionRecord, now: int) -> bool:
    if session.destroyed:
        return now >= session.deadline + copies.EXPIRY_SKEW
    over = now >= session.deadline + grace(session.idle_timeout)
    return over or (session.lifetime > 0 and now >= session.lifetime + copies.EXPIRY_SKEW)
