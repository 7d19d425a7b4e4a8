"""What one write transaction does to a node's copy of a group: merge a batch, accept a push.

Everything here is synchronous and pure over a store transaction: no peers, no clock, no chance.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from sessionha.errors import OperationRefused, SessionRevoked, SessionTooLarge
from sessionha.identity import GroupID, Position, SessionKey, ViewID
from sessionha.peer.messages import (
    Batch,
    Create,
    ElementPatch,
    ElementRow,
    Owner,
    Push,
    SessionChange,
    SessionRow,
)
from sessionha.state import owners
from sessionha.state.records import (
    ElementRecord,
    GroupRecord,
    SessionRecord,
    element_key,
    elements,
    epoch_at,
    epoch_end,
    get_element,
    get_session,
    group_key,
    read_element,
    read_session,
    rows,
    session_row_key,
    write_record,
)
from sessionha.store.base import Reader, Writer
from sessionha.values.managers import changed

TOMBSTONE_TTL = 30 * 86_400_000
"""Milliseconds a destroyed session without an absolute lifetime is remembered (R11)."""

ELEMENT_TOMBSTONES = 64
"""Deleted elements a group remembers before acknowledged ones are trimmed; the contract allows
1,000, and an older copy than the oldest one kept simply gets the whole group."""

GROUP_BYTES = 3 << 20
"""What the sessions of a group may have together, so that they fit into one frame of a stream (4
MiB) beside what is noted of each."""

PATCH_BYTES = 1024
"""Smaller values travel whole: the frame around them is as large, and copies need not decode."""

PATCH_SHARE = 4
"""An operation travels in the place of a value that is at least so many times larger."""

EXPIRY_SKEW = 2_000
"""ε, milliseconds."""


class Limits(NamedTuple):
    """What one session may hold."""

    session_bytes: int = 64 * 1024
    elements: int = 256


class Delta(NamedTuple):
    """What a batch changed, ready to travel."""

    sessions: tuple[SessionRow, ...]
    elements: tuple[ElementRow, ...]
    patches: tuple[ElementPatch, ...] = ()
    """What may travel in the place of some of the elements."""
    merged: int = 0
    """Elements in which changes of several requests were brought together."""
    conflicts: int = 0
    """Changes that replaced what their request had not seen."""


# --- rows and their travelling form --------------------------------------------------------------


def session_row(key: SessionKey, record: SessionRecord, now: int) -> SessionRow:
    """A session's facts with remaining times in the place of instants."""
    return SessionRow(
        key=key,
        version=record.version,
        age=now - record.created,
        unused=now - record.touched,
        idle_timeout=record.idle_timeout,
        idle_left=record.deadline - now,
        life_left=max(record.lifetime - now, 1) if record.lifetime else 0,
        size=record.size,
        count=record.count,
        destroyed=record.destroyed,
        owner=record.owner and owners.aged(record.owner, now),
    )


def _session_record(row: SessionRow, now: int) -> SessionRecord:
    return SessionRecord(
        version=row.version,
        created=now - row.age,
        touched=now - row.unused,
        idle_timeout=row.idle_timeout,
        deadline=now + row.idle_left,
        lifetime=now + row.life_left if row.life_left else 0,
        destroyed=row.destroyed,
        size=row.size,
        count=row.count,
        owner=row.owner and owners.aged(row.owner, now),
    )


# --- merging a batch -----------------------------------------------------------------------------


class _Merge:
    """One batch on its way into a group, at one version."""

    def __init__(
        self, writer: Writer, record: GroupRecord, batch: Batch, now: int, limits: Limits
    ) -> None:
        self.writer = writer
        self.record = record
        self.group = batch.group
        self.version = record.version + 1
        self.now = now
        self.limits = limits
        self.read = batch.read
        self.base = record.position
        self.moved: dict[bytes, int] = {}
        """Versions that elements had before a renewal, by their rows."""
        self.sessions: list[SessionRow] = []
        self.elements: list[ElementRow] = []
        self.patches: list[ElementPatch] = []
        self.merged = self.conflicts = 0

    def apply(self, change: SessionChange) -> None:
        if change.destroy:
            self._destroy(change.key)
            return
        if change.ends_empty and self._is_emptied(change):
            self._destroy(change.replaces or change.key)
            return
        if change.create is not None:
            session = self._create(change.create)
        elif change.replaces is not None:
            session = self._renew(change.replaces, change.key)
        else:
            session = self._alive(change.key)
        size, count = session.size, session.count
        if change.owner is not None or session.owner is not None:
            self._own(change, session)
        if change.clear:
            self._clear(change.key, session)
        for name, manager, value in change.puts:
            self._replace(change.key, session, name, manager, value)
        for name, manager, operation, after in change.edits:
            self._edit(change.key, session, name, manager, operation, after)
        for name in change.deletes:
            self._delete(change.key, session, name)
        self._check(session, size, count)
        if change.idle_timeout:
            session.idle_timeout = change.idle_timeout
        session.version = self.version
        session.touched, session.deadline = self.now, self.now + session.idle_timeout
        self._save(change.key, session)

    def _is_emptied(self, change: SessionChange) -> bool:
        """Whether the change takes all that is in the session by now."""
        key = change.replaces or change.key
        self._alive(key)
        held = elements(self.writer, self.group, key)
        return all(element.value is None or name in change.deletes for name, element in held)

    def _alive(self, key: SessionKey) -> SessionRecord:
        session = get_session(self.writer, self.group, key)
        if session is None or session.ended(self.now):
            raise SessionRevoked("the session ended while this request ran; nothing was changed")
        if session.owner is not None and owners.is_denied(self.writer, session.owner):
            raise SessionRevoked("the session was logged out while this request ran")
        return session

    def _own(self, change: SessionChange, session: SessionRecord) -> None:
        """Note whose the session becomes or, under its new key, still is."""
        before, asked = session.owner, change.owner
        if asked is not None and (before is None or before.subject != asked.subject):
            session.owner = owners.taken(self.writer, asked, self.now) if asked.subject else None
        moved = change.create is not None or change.replaces is not None
        owners.index(self.writer, self.group, change.key, None if moved else before, session.owner)

    def _create(self, create: Create) -> SessionRecord:
        return SessionRecord(
            version=self.version,
            created=self.now,
            touched=self.now,
            idle_timeout=create.idle_timeout,
            deadline=self.now + create.idle_timeout,
            lifetime=self.now + create.lifetime if create.lifetime else 0,
        )

    def _renew(self, old: SessionKey, new: SessionKey) -> SessionRecord:
        session = self._alive(old)
        moved = list(elements(self.writer, self.group, old))
        self._destroy(old)
        session.size = session.count = 0
        for name, element in moved:
            if element.value is not None:
                row = element_key(self.group, new, name)
                self.moved[row] = element.version
                self._write(row, new, session, name, None, element.manager, element.value)
        return session

    def _destroy(self, key: SessionKey) -> None:
        session = get_session(self.writer, self.group, key)
        if session is None or session.destroyed:
            return
        _drop_elements(self.writer, self.group, key)
        owners.index(self.writer, self.group, key, session.owner, None)
        session.version = self.version
        _end(session, self.now)
        self._save(key, session)

    def _clear(self, key: SessionKey, session: SessionRecord) -> None:
        for name, element in list(elements(self.writer, self.group, key)):
            if element.value is not None:
                self._delete(key, session, name)

    def _at(self, row: bytes) -> ElementRecord | None:
        found = self.writer.get(row)
        return None if found is None else read_element(found)

    def _overtaken(self, row: bytes, element: ElementRecord | None) -> bool:
        """Whether another request changed the element since this one read it."""
        if element is None or self.read is None:
            return False
        version = self.moved.get(row, element.version)
        return Position(epoch_at(self.record.line, version), version) > self.read

    def _replace(
        self, key: SessionKey, session: SessionRecord, name: str, manager: str, value: bytes
    ) -> None:
        row = element_key(self.group, key, name)
        old = self._at(row)
        if self.read != self.base:
            self.conflicts += self._overtaken(row, old)
        self._write(row, key, session, name, old, manager, value)

    def _edit(
        self,
        key: SessionKey,
        session: SessionRecord,
        name: str,
        manager: str,
        operation: bytes,
        after: bytes | None,
    ) -> None:
        row = element_key(self.group, key, name)
        old = self._at(row)
        if after is not None and not self._overtaken(row, old):
            value = after
        else:
            value = self._merged(old, manager, operation, after)
        self._write(row, key, session, name, old, manager, value)
        if old is not None and old.manager == manager:
            self._patch(key, name, old, operation, value)

    def _patch(
        self, key: SessionKey, name: str, old: ElementRecord, operation: bytes, value: bytes
    ) -> None:
        """Let the operation travel in the place of a large value, to copies that have the old."""
        if len(value) < PATCH_BYTES or len(operation) * PATCH_SHARE > len(value):
            return
        if old.value is None or old.version == self.version:
            return
        made = self.version, old.manager, old.version, operation, crc32(value)
        self.patches.append(ElementPatch(key, name, *made))

    def _only_whole(self, key: SessionKey, name: str) -> None:
        """The batch writes the element once more: what it was made in between does not travel."""
        self.patches = [
            patch for patch in self.patches if (patch.session, patch.name) != (key, name)
        ]

    def _merged(
        self, old: ElementRecord | None, manager: str, operation: bytes, after: bytes | None
    ) -> bytes:
        stored = old.value if old is not None else None
        try:
            value, conflicts = changed(manager, stored, operation, strict=after is None)
        except OperationRefused:
            if after is None:
                raise
            self.conflicts += 1
            return after  # the later writer wins
        self.merged += after is not None
        self.conflicts += conflicts
        return value

    def _write(
        self,
        row: bytes,
        key: SessionKey,
        session: SessionRecord,
        name: str,
        old: ElementRecord | None,
        manager: str,
        value: bytes,
    ) -> None:
        if self.patches:
            self._only_whole(key, name)
        if old is not None and old.value is not None:
            session.size += len(value) - len(old.value)
        else:
            session.size += len(value) + len(name)
            session.count += 1
            self.record.tombstones -= old is not None
        self.writer.put(row, write_record(ElementRecord(self.version, manager, value)))
        self.elements.append(ElementRow(key, name, self.version, manager, value))

    def _delete(self, key: SessionKey, session: SessionRecord, name: str) -> None:
        row = element_key(self.group, key, name)
        old = self._at(row)
        if old is None or old.value is None:
            return
        self.conflicts += self._overtaken(row, old)
        if self.patches:
            self._only_whole(key, name)
        session.size -= len(old.value) + len(name)
        session.count -= 1
        self.record.tombstones += 1
        self.writer.put(row, write_record(ElementRecord(self.version, old.manager, None)))
        self.elements.append(ElementRow(key, name, self.version, old.manager, None))

    def _check(self, session: SessionRecord, size: int, count: int) -> None:
        """What is over a limit, since the limit was lowered or two sides of a split were brought
        together, must not grow."""
        limits = self.limits
        if session.size > max(limits.session_bytes, size):
            raise SessionTooLarge("bytes", session.size, limits.session_bytes, "session_bytes")
        if session.count > max(limits.elements, count):
            raise SessionTooLarge("elements", session.count, limits.elements, "elements")

    def _save(self, key: SessionKey, session: SessionRecord) -> None:
        self.writer.put(session_row_key(self.group, key), write_record(session))
        self.sessions.append(session_row(key, session, self.now))


def merge(writer: Writer, record: GroupRecord, batch: Batch, now: int, limits: Limits) -> Delta:
    """Apply `batch` on top of the group's present state and raise `record.version` by one.

    The caller writes the record. Raises SessionRevoked, SessionTooLarge or OperationRefused: let
    the exception leave the transaction, which undoes everything.
    """
    merging = _Merge(writer, record, batch, now, limits)
    for change in batch.changes:
        merging.apply(change)
    record.version = merging.version
    if record.tombstones > ELEMENT_TOMBSTONES:
        _trim(writer, batch.group, record, record.acked)
    return Delta(
        tuple(merging.sessions),
        tuple(merging.elements),
        tuple(merging.patches),
        merging.merged,
        merging.conflicts,
    )


def _trim(writer: Writer, group: GroupID, record: GroupRecord, passed: int) -> None:
    """Forget the element tombstones up to a version that all of C has passed."""
    record.tombstones = 0  # counted afresh: what destroyed sessions had was still in it
    for row in list(rows(writer, group)):
        if row.element is None:
            continue
        element = read_element(row.value)
        if element.value is not None:
            continue
        if element.version <= passed:
            writer.delete(element_key(group, row.session, row.element))
            record.trimmed = max(record.trimmed, element.version)
        else:
            record.tombstones += 1


def _end(session: SessionRecord, now: int) -> None:
    """Make a tombstone of it (R11)."""
    session.owner = None
    session.destroyed = True
    session.touched = now
    session.deadline = session.lifetime or now + TOMBSTONE_TTL
    session.size = session.count = 0


def _drop_elements(writer: Writer, group: GroupID, session: SessionKey) -> None:
    for name, _ in list(elements(writer, group, session)):
        writer.delete(element_key(group, session, name))


# --- what travels --------------------------------------------------------------------------------


def delta_push(group: GroupID, record: GroupRecord, base: Position, delta: Delta) -> Push:
    """The push of what one batch changed."""
    if delta.patches:
        patched = {(patch.session, patch.name) for patch in delta.patches}
        whole = (row for row in delta.elements if (row.session, row.name) not in patched)
        delta = delta._replace(elements=tuple(whole))
    return _push(group, record, base, delta, full=False)


def content(
    reader: Reader, group: GroupID, record: GroupRecord, position: Position, now: int
) -> Push:
    """What a copy at `position` lacks: the difference where it lies on this line, else everything
    (R8). A session that was logged out travels as a tombstone: who gets it may not know of the
    log-out any more."""
    full = not _on_line(record, position)
    since = -1 if full else position.version
    sessions: list[SessionRow] = []
    changed: list[ElementRow] = []
    denied: set[SessionKey] = set()
    for row in rows(reader, group):
        if row.element is None:
            session = read_session(row.value)
            if session.owner is not None and owners.is_denied(reader, session.owner):
                denied.add(row.session)
                _end(session, now)
            # All of them: deadlines are outside the version, and a copy may have missed touches.
            sessions.append(session_row(row.session, session, now))
        elif row.session not in denied:
            element = read_element(row.value)
            if element.version > since:  # tombstones too: a later difference needs them
                changed.append(
                    ElementRow(
                        row.session, row.element, element.version, element.manager, element.value
                    )
                )
    delta = Delta(tuple(sessions), tuple(changed))
    return _push(group, record, position, delta, full=full)


def _push(group: GroupID, record: GroupRecord, base: Position, delta: Delta, *, full: bool) -> Push:
    return Push(
        group=group,
        base=base,
        full=full,
        epoch=record.epoch,
        version=record.version,
        acked=record.acked,
        line=record.line,
        holders=record.holders,
        formed=record.formed,
        seats=record.seats,
        trimmed=record.trimmed,
        sessions=delta.sessions,
        elements=delta.elements,
        patches=delta.patches,
    )


def _on_line(record: GroupRecord, position: Position) -> bool:
    end = epoch_end(record.line, position.epoch)
    if end is None or not record.trimmed <= position.version <= record.version:
        return False
    return end == -1 or position.version <= end


# --- accepting a push ----------------------------------------------------------------------------


def fits(record: GroupRecord | None, push: Push) -> bool:
    """Whether the push brings this copy up to date: it lies on the push's line, at its base or
    above, and not beyond what the push knows."""
    if push.full:
        return True
    if record is None or not record.held or record.swept:
        return False
    if record.version < push.base.version:
        return False
    end = epoch_end(push.line, record.epoch)
    return end is not None and record.version <= (push.version if end == -1 else end)


def patched(reader: Reader, push: Push) -> tuple[ElementRow, ...] | None:
    """The elements that the push's patches make of this copy's; None: one does not fit it."""
    found = []
    for patch in push.patches:
        element = get_element(reader, push.group, patch.session, patch.name)
        if element is None or element.value is None or element.version != patch.since:
            return None
        try:
            value, _ = changed(patch.manager, element.value, patch.operation)
        except OperationRefused:
            return None
        if crc32(value) != patch.check:
            return None
        found.append(ElementRow(patch.session, patch.name, patch.version, patch.manager, value))
    return tuple(found)


def accept(
    writer: Writer,
    record: GroupRecord,
    push: Push,
    now: int,
    synced: ViewID,
    patched: tuple[ElementRow, ...] = (),
) -> GroupRecord:
    """Write a push that `fits` into this copy, with what its patches made, and return the group's
    new record (written)."""
    if push.full:
        clear(writer, push.group)
        record.tombstones = 0
        record.swept = False
    elif push.trimmed > record.trimmed:
        _trim(writer, push.group, record, push.trimmed)
    for session in push.sessions:
        accept_session(writer, push.group, session, now)
    for element in (*push.elements, *patched):
        record.tombstones += element.value is None
        writer.put(
            element_key(push.group, element.session, element.name),
            write_record(ElementRecord(element.version, element.manager, element.value)),
        )
    record.epoch = push.epoch
    record.version = push.version
    record.acked = push.acked
    record.promise = max(record.promise, push.epoch)
    record.holders = push.holders
    record.formed = ViewID(*push.formed)
    record.synced = synced
    record.seats = push.seats
    record.leaving = ()
    record.line = push.line
    record.trimmed = push.trimmed
    writer.put(group_key(push.group), write_record(record))
    return record


def accept_session(writer: Writer, group: GroupID, row: SessionRow, now: int) -> None:
    """Write a session's facts into this copy; a tombstone drops its elements."""
    if row.destroyed:
        _drop_elements(writer, group, row.key)
    record = _session_record(row, now)
    before = get_session(writer, group, row.key)
    if before is not None and not row.destroyed:
        record.deadline = max(record.deadline, before.deadline)  # a touch is a maximum
        record.touched = max(record.touched, before.touched)
        if record.idle_timeout < before.idle_timeout:  # since the last change
            record.deadline = min(record.deadline, record.touched + record.idle_timeout)
        record.owner = _earlier(before.owner, record.owner)
    owners.index(writer, group, row.key, None if before is None else before.owner, record.owner)
    writer.put(session_row_key(group, row.key), write_record(record))


def _earlier(before: Owner | None, told: Owner | None) -> Owner | None:
    """The owner as told; an instant that was told earlier took fewer messages, so it is right."""
    if before is None or told is None or before.handle != told.handle:
        return told
    return before if before.since < told.since else told


def clear(writer: Writer, group: GroupID) -> None:
    """Delete every session and element row of a group; its own row stays."""
    for row in list(rows(writer, group)):
        if row.element is None:
            owners.index(writer, group, row.session, read_session(row.value).owner, None)
            writer.delete(session_row_key(group, row.session))
        else:
            writer.delete(element_key(group, row.session, row.element))


def give_up(
    writer: Writer,
    group: GroupID,
    record: GroupRecord,
    keep_until: int,
    successor: Push | None = None,
) -> None:
    """Drop the copy, and remember the promise and where it was given up, so that no late push
    brings it back (R1: its holder's own record, before C goes on). `successor`: how the group's
    history went on, for who waits here for what became of a change."""
    clear(writer, group)
    left = GroupRecord(
        epoch=record.epoch,
        version=record.version,
        promise=record.promise,
        keep_until=keep_until,
    )
    if successor is not None:
        left.line, left.seats = successor.line, successor.holders
    writer.put(group_key(group), write_record(left))
