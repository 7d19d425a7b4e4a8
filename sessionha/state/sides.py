"""Brings together what two sides of a split cluster made of one group (available mode).

Everything here is synchronous and pure over a store transaction. Nobody knows any more what an
element was before the split; what is known is where the two histories part, and so on which side
each element, session and tombstone changed since. What changed on one side only is taken, a
tombstone wins against a change, and what changed on both is for the element's data manager.

Source: the union of diverged values, and that what was deleted in one may return from the other's,
as in DeCandia et al., "Dynamo: Amazon's Highly Available Key-value Store", 2007, section 4.4.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from sessionha.identity import GroupID, Position, SessionKey
from sessionha.peer.messages import ElementRow, Owner, Push, SessionRow
from sessionha.state import copies, owners
from sessionha.state.records import (
    ElementRecord,
    GroupRecord,
    Line,
    SessionRecord,
    element_key,
    elements,
    epoch_end,
    get_session,
    read_session,
    rows,
    session_row_key,
    write_record,
)
from sessionha.store.base import Writer
from sessionha.values.managers import joined

log = logging.getLogger("sessionha.state")

NOWHERE = -1
"""Where two histories part of which no common epoch is remembered."""


class Joined(NamedTuple):
    """What it took to bring two sides together."""

    merged: int = 0
    """Elements and sessions that were taken from the other side, or made of both."""
    conflicts: int = 0
    """What changed on both sides, so that one of the changes may be lost."""


def follows(line: Line, position: Position) -> bool:
    """Whether the history with this line went on from the position, or is at it."""
    end = epoch_end(line, position.epoch)
    return end is not None and (end == -1 or position.version <= end)


def parting(mine: Line, version: int, theirs: Line, other: int) -> int:
    """The last version that two histories, now at `version` and `other`, have in common."""
    for epoch, _ in reversed(theirs):
        end = epoch_end(mine, epoch)
        if end is not None:
            until = epoch_end(theirs, epoch)
            return min(version if end == -1 else end, other if until in (None, -1) else until)
    return NOWHERE


def join(writer: Writer, group: GroupID, record: GroupRecord, theirs: Push, now: int) -> Joined:
    """Write what the other side has (`theirs`, a whole copy) into this one, at the version after
    the record's, with which its next epoch begins. The caller writes the record.

    Of histories without a common epoch nobody can tell what changed since. Then only tombstones
    and sessions that this copy lacks are taken, and sessions that differ are counted. So is what
    would make the group larger than one message can be.
    """
    since = parting(record.line, record.version, theirs.line, theirs.version)
    found: dict[SessionKey, dict[str, ElementRow]] = {}
    for row in theirs.elements:
        found.setdefault(row.session, {})[row.name] = row
    joining = _Join(writer, group, record, since, now)
    for session in sorted(theirs.sessions, key=lambda row: not row.destroyed):
        joining.session(session, found.get(session.key, {}))
    if joining.dropped:
        log.warning(
            "two sides of a split network had more sessions of one client than fit together:"
            " changes of %d were dropped", joining.dropped,
        )  # fmt: skip
    return Joined(joining.merged, joining.conflicts)


class _Join:
    """The other side's copy on its way into this one."""

    def __init__(
        self, writer: Writer, group: GroupID, record: GroupRecord, since: int, now: int
    ) -> None:
        self.writer, self.group, self.record = writer, group, record
        self.since, self.now = since, now
        self.version = record.version + 1
        self.merged = self.conflicts = self.dropped = 0
        sessions = (row.value for row in rows(writer, group) if row.element is None)
        self.room = copies.GROUP_BYTES - sum(read_session(value).size for value in sessions)

    def session(self, row: SessionRow, theirs: Mapping[str, ElementRow]) -> None:
        """Bring one session together with what is here."""
        mine = get_session(self.writer, self.group, row.key)
        both = mine is not None and min(mine.version, row.version) > self.since
        if mine is not None and mine.destroyed:
            self.conflicts += both and not row.destroyed
        elif mine is None or row.destroyed:
            self.conflicts += both
            self._take(row, theirs)
        elif _are_strangers(mine.owner, row.owner):
            self.conflicts += 1
            self._end(row)
        else:
            self._bring_together(mine, row, theirs)

    def _take(self, row: SessionRow, theirs: Mapping[str, ElementRow]) -> None:
        """One that is not known here, or is logged out there: then it stays logged out."""
        if row.size and not self._fits(row.size):
            return
        taken = msgspec.structs.replace(row, version=self.version)
        copies.accept_session(self.writer, self.group, taken, self.now)
        for element in theirs.values() if not row.destroyed else ():
            if element.value is not None:
                self._put(row.key, element.name, element.manager, element.value)
        self.merged += 1

    def _end(self, row: SessionRow) -> None:
        """One browser logged in as two people: neither may see what is the other's."""
        ended = msgspec.structs.replace(
            row, destroyed=True, owner=None, size=0, count=0,
            idle_left=row.life_left or copies.TOMBSTONE_TTL,
        )  # fmt: skip
        self._take(ended, {})

    def _fits(self, growth: int) -> bool:
        if growth > self.room:
            self.dropped += 1
            self.conflicts += 1
            return False
        self.room -= growth
        return True

    def _bring_together(
        self, mine: SessionRecord, row: SessionRow, theirs: Mapping[str, ElementRow]
    ) -> None:
        """One that lives on both sides."""
        here = dict(elements(self.writer, self.group, row.key))
        before = self.merged
        growth = sum(
            len(each.name) + len(each.value)
            for each in theirs.values()
            if each.value is not None and each.version > self.since
        )
        if self.since == NOWHERE:
            self.conflicts += _contents(here) != _contents(theirs)
        elif self._fits(growth):
            for name in sorted({*here, *theirs}):
                self._element(row.key, name, here.get(name), theirs.get(name))
        mine.touched = max(mine.touched, self.now - row.unused)
        mine.deadline = max(mine.deadline, self.now + row.idle_left)
        if mine.owner is None and row.owner is not None:
            # Logged in there: then its log-outs must find the session.
            mine.owner = owners.aged(row.owner, self.now)
            owners.index(self.writer, self.group, row.key, None, mine.owner)
            self.merged += 1
        if self.merged > before:
            mine.version = self.version
            live = [
                (name, element.value)
                for name, element in elements(self.writer, self.group, row.key)
                if element.value is not None
            ]
            mine.count, mine.size = len(live), sum(len(name) + len(value) for name, value in live)
        self.writer.put(session_row_key(self.group, row.key), write_record(mine))

    def _element(
        self, key: SessionKey, name: str, mine: ElementRecord | None, theirs: ElementRow | None
    ) -> None:
        if theirs is None:
            if mine is not None and mine.value is not None and mine.version <= self.since:
                self._put(key, name, mine.manager, None)  # it was deleted there, and forgotten
        elif theirs.version <= self.since:
            return
        elif mine is None or mine.version <= self.since:
            if theirs.value is not None or (mine is not None and mine.value is not None):
                self._put(key, name, theirs.manager, theirs.value)
        elif (mine.manager, mine.value) != (theirs.manager, theirs.value):
            self._both_changed(key, name, mine, theirs)

    def _both_changed(
        self, key: SessionKey, name: str, mine: ElementRecord, theirs: ElementRow
    ) -> None:
        if mine.value is None or theirs.value is None:
            value, conflicts = None, 1  # the tombstone wins
        elif mine.manager != theirs.manager:
            value, conflicts = mine.value, 1
        else:
            value, conflicts = joined(mine.manager, mine.value, theirs.value)
        self.conflicts += conflicts
        if value != mine.value:
            self._put(key, name, mine.manager, value)

    def _put(self, key: SessionKey, name: str, manager: str, value: bytes | None) -> None:
        self.merged += 1
        self.record.tombstones += value is None
        row = write_record(ElementRecord(self.version, manager, value))
        self.writer.put(element_key(self.group, key, name), row)


def _are_strangers(mine: Owner | None, theirs: Owner | None) -> bool:
    return mine is not None and theirs is not None and mine.subject != theirs.subject


def _contents(
    elements: Mapping[str, ElementRecord] | Mapping[str, ElementRow],
) -> dict[str, tuple[str, bytes]]:
    return {
        name: (element.manager, element.value)
        for name, element in elements.items()
        if element.value is not None
    }
