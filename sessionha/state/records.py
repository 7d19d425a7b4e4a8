"""The rows of a node's store: groups, sessions and elements, and the keys that order them.

A key is `domain · group · session · element`: a domain, a group and a session are contiguous
ranges (the first byte of a group ID is its domain). Instants are milliseconds of the node's clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from sessionha.identity import (
    GROUP_BYTES,
    NO_EPOCH,
    NO_POSITION,
    NO_VIEW,
    Epoch,
    GroupID,
    Position,
    SessionKey,
    ViewID,
)
from sessionha.peer.messages import Owner, size_of
from sessionha.store.base import Reader

GROUPS = b"\x01"
"""First byte of every group, session and element row."""

_GROUP_END = 1 + GROUP_BYTES
_SESSION_END = _GROUP_END + 16

Line = tuple[tuple[Epoch, int], ...]
"""Where a group's epochs began: (epoch, its first version), oldest first."""

LINE_LIMIT = 16
"""Epochs a group remembers; a copy of an older one gets the whole group."""


class GroupRecord(msgspec.Struct, array_like=True):
    """What a node knows of a group: its copy, and what it has promised about it."""

    epoch: Epoch = NO_EPOCH
    version: int = 0
    acked: int = 0
    """The version that all of C is known to have; only the primary raises it by itself."""
    promise: Epoch = NO_EPOCH
    """The highest epoch this node accepts; lower ones are refused (R3)."""
    holders: tuple[str, ...] = ()
    """C, primary first. Empty: no copy here, only a promise."""
    formed: ViewID = NO_VIEW
    """The view under which C was formed: a holder that joined later is not in it."""
    synced: ViewID = NO_VIEW
    """This node's `joined` when its copy was last in sync; any other value means quarantined."""
    run: int = 0
    """The node's run in which it synced as primary (R13)."""
    widened: ViewID = NO_VIEW
    """The view under which C was last filled up to the wanted number of backups."""
    seats: tuple[str, ...] = ()
    """Whose the copies are; where there is none any more: who has the group instead."""
    leaving: tuple[str, ...] = ()
    """Former holders that must confirm that they gave their copies up."""
    line: Line = ()
    trimmed: int = 0
    """Element tombstones up to this version are gone."""
    tombstones: int = 0
    crowned: ViewID = NO_VIEW
    """The view in which this node's epoch began: older than the view's barrier, it must promote
    afresh, for another side may have served."""
    since: int = 0
    """When this node became primary (its clock)."""
    keep_until: int = 0
    """When a row without a copy may be forgotten."""
    swept: bool = False
    """Whether sessions were swept from the copy though the primary, which knows every use of them,
    may have them still: then it is no base for a difference."""

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.version)

    @property
    def base(self) -> Position:
        """From where on the copy lacks something; NO_POSITION: it needs everything."""
        return self.position if self.held and not self.swept else NO_POSITION

    @property
    def held(self) -> bool:
        """Whether there is a copy here, in sync or not."""
        return bool(self.holders)


class SessionRecord(msgspec.Struct, array_like=True):
    """A session's own facts."""

    version: int
    created: int
    touched: int
    idle_timeout: int
    deadline: int
    """When it has been idle for too long."""
    lifetime: int
    """When it ends whatever happens; 0: never."""
    destroyed: bool = False
    """A tombstone, kept until `deadline`."""
    size: int = 0
    count: int = 0
    owner: Owner | None = None
    """Whose it is; of a tombstone nobody's."""

    def ended(self, now: int) -> bool:
        """Destroyed, or past one of its deadlines."""
        return self.destroyed or now >= self.deadline or 0 < self.lifetime <= now


class ElementRecord(msgspec.Struct, array_like=True):
    """One element; its position is its version and the epoch of the line it lies in."""

    version: int
    manager: str
    value: bytes | None
    """Encoded; None is a tombstone."""

    def __repr__(self) -> str:
        return f"<ElementRecord: version {self.version}, {size_of(self.value)}>"


class Row(NamedTuple):
    """A session or element row of a group, as `rows` finds them."""

    session: SessionKey
    element: str | None
    value: bytes

    def __repr__(self) -> str:
        return f"<Row: {self.element!r}, {size_of(self.value)}>"


_encode = msgspec.msgpack.Encoder().encode
read_group = msgspec.msgpack.Decoder(GroupRecord).decode
read_session = msgspec.msgpack.Decoder(SessionRecord).decode
read_element = msgspec.msgpack.Decoder(ElementRecord).decode


def write_record(record: GroupRecord | SessionRecord | ElementRecord) -> bytes:
    """The bytes of a row."""
    return _encode(record)


def group_key(group: GroupID) -> bytes:
    """The key of a group's row."""
    return GROUPS + group


def session_row_key(group: GroupID, session: SessionKey) -> bytes:
    """The key of a session's row."""
    return GROUPS + group + session


def element_key(group: GroupID, session: SessionKey, element: str) -> bytes:
    """The key of an element's row."""
    return GROUPS + group + session + element.encode()


def get_group(reader: Reader, group: GroupID) -> GroupRecord | None:
    """The group's record, if this node has one."""
    data = reader.get(GROUPS + group)
    return None if data is None else read_group(data)


def get_session(reader: Reader, group: GroupID, session: SessionKey) -> SessionRecord | None:
    """The session's record, if this node has one."""
    data = reader.get(GROUPS + group + session)
    return None if data is None else read_session(data)


def get_element(
    reader: Reader, group: GroupID, session: SessionKey, element: str
) -> ElementRecord | None:
    """The element's record, a tombstone included, if this node has one."""
    data = reader.get(element_key(group, session, element))
    return None if data is None else read_element(data)


def rows(reader: Reader, group: GroupID) -> Iterator[Row]:
    """Every session and element row of a group, each session before its elements."""
    for key, value in reader.scan(GROUPS + group):
        if len(key) > _SESSION_END:
            yield Row(key[_GROUP_END:_SESSION_END], key[_SESSION_END:].decode(), value)
        elif len(key) == _SESSION_END:
            yield Row(key[_GROUP_END:], None, value)


def elements(
    reader: Reader, group: GroupID, session: SessionKey
) -> Iterator[tuple[str, ElementRecord]]:
    """The elements of a session, tombstones included, in the order of their names' bytes."""
    prefix = GROUPS + group + session
    for key, value in reader.scan(prefix, after=prefix):
        yield key[_SESSION_END:].decode(), read_element(value)


def values(
    reader: Reader, group: GroupID, session: SessionKey
) -> Iterator[tuple[str, tuple[str, bytes]]]:
    """The name, data manager and value of a session's elements, in the order of names' bytes."""
    for name, element in elements(reader, group, session):
        if element.value is not None:
            yield name, (element.manager, element.value)


def groups(
    reader: Reader, after: GroupID | None = None, domain: int | None = None
) -> Iterator[tuple[GroupID, GroupRecord]]:
    """Group records in key order, above `after`; they skip over the rows inside each group."""
    prefix = GROUPS if domain is None else GROUPS + bytes([domain])
    last = None if after is None else GROUPS + after + b"\xff" * 17
    while True:
        found = next(iter(reader.scan(prefix, after=last)), None)
        if found is None:
            return
        key, value = found
        group = key[1:_GROUP_END]
        if len(key) == _GROUP_END:
            yield group, read_group(value)
        last = GROUPS + group + b"\xff" * 17


def epoch_at(line: Line, version: int) -> Epoch:
    """The epoch in which `version` lies on this line."""
    found = NO_EPOCH
    for epoch, first in line:
        if first > version:
            break
        found = epoch
    return found


def epoch_end(line: Line, epoch: Epoch) -> int | None:
    """The last version of `epoch` on this line, or None: not on it. The newest has no end (-1)."""
    for index, (begun, _) in enumerate(line):
        if begun == epoch:
            return line[index + 1][1] - 1 if index + 1 < len(line) else -1
    return None
