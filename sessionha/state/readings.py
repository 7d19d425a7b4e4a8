"""What this engine has read of its store and need not read again.

A position tells exactly what a copy in sync holds (R3: one node writes in an epoch, and each write
has a version of its own), so elements that were read at a position stay right for as long as the
group's row tells the same one. That row is read in every transaction: a sibling's commit, a
hand-over or a promotion changes it, and nothing here has to be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from sessionha.identity import GroupID, Position, SessionKey
from sessionha.peer.messages import Batch, ElementRow
from sessionha.state.base import Elements, Held
from sessionha.state.records import GroupRecord, read_group
from sessionha.view import View

KEPT_BYTES: Final = 16 << 20
"""Memory for elements and what sessions made of them. All of it is dropped when it is used up:
what is in use comes back with the next requests."""

SHARES: Final = 3
"""A value is kept about so often: encoded, among its session's others, and decoded."""

KEPT_GROUPS: Final = 4096

ELEMENT: Final = 512
"""Bytes that the objects and places of one element take, beside its name and value."""

SESSION: Final = 1024
"""Bytes that an entry takes beside its elements."""


class _Kept(NamedTuple):
    position: Position
    elements: Elements
    size: int


class Readings:
    """What is said of groups, and elements by position."""

    def __init__(self) -> None:
        self._groups: dict[GroupID, tuple[bytes, View, Held | None]] = {}
        self._sessions: dict[SessionKey, _Kept] = {}
        self._room = KEPT_BYTES

    def held(
        self,
        group: GroupID,
        row: bytes,
        view: View,
        serves: Callable[[GroupRecord, View], Held | None],
    ) -> Held | None:
        """What `serves` says of the group with this row; asked once for a row and a view."""
        known = self._groups.get(group)
        if known is not None and known[0] == row and known[1] is view:
            return known[2]
        if len(self._groups) >= KEPT_GROUPS:
            self._groups.clear()
        held = serves(read_group(row), view)
        self._groups[group] = row, view, held
        return held

    def elements(self, session: SessionKey, position: Position) -> Elements | None:
        """The session's elements at this position of its group, if they were read before."""
        kept = self._sessions.get(session)
        return kept.elements if kept is not None and kept.position == position else None

    def keep(self, session: SessionKey, position: Position, elements: Elements) -> None:
        """Remember what was read of a session that is served here at this position."""
        self._drop(session)
        size = SESSION + sum(_size(name, value) for name, (_, value) in elements.items())
        self._put(session, _Kept(position, elements, size))

    def follow(
        self, batch: Batch, written: Sequence[ElementRow], base: Position, position: Position
    ) -> None:
        """A batch was written here on top of `base`, and these are the elements that it changed:
        its session need not be read for that."""
        if len(batch.changes) != 1:
            return
        change = batch.changes[0]
        kept = self._drop(change.key)
        if kept is None or kept.position != base or not change.only_elements:
            return
        size = kept.size
        puts, deletes = change.puts, change.deletes
        if change.edits:
            puts = tuple((e.name, e.manager, e.value) for e in written if e.value is not None)
        for name in (*(name for name, _, _ in puts), *deletes):
            if name in kept.elements:
                size -= _size(name, kept.elements[name][1])
        size += sum(_size(name, value) for name, _, value in puts)
        after = kept.elements.after(puts, deletes)
        self._put(change.key, _Kept(position, after, size))

    def _put(self, session: SessionKey, kept: _Kept) -> None:
        if kept.size > self._room:
            self._sessions.clear()
            self._room = KEPT_BYTES
        self._room -= kept.size
        self._sessions[session] = kept

    def _drop(self, session: SessionKey) -> _Kept | None:
        kept = self._sessions.pop(session, None)
        if kept is not None:
            self._room += kept.size
        return kept


def _size(name: str, value: bytes) -> int:
    return ELEMENT + 2 * len(name) + SHARES * len(value)
