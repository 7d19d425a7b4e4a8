"""Turns what nodes write into their stores into the events of a history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sessionha.identity import GROUP_BYTES, NO_EPOCH, Position
from sessionha.state.records import GROUPS, GroupRecord, read_group, read_session
from tests.simulation.events import Event, EventKind, History

_GROUP = len(GROUPS) + GROUP_BYTES
_SESSION = _GROUP + 16


class Written(NamedTuple):
    """What one transaction did to a group that its node leads."""

    started: bool
    """A version was written that not all of C is known to have."""
    finished: bool
    """All of C is now known to have the newest version."""


class Recorder:
    """Knows the last record of every group on every node."""

    def __init__(self, history: History, tags: Mapping[bytes, str]) -> None:
        self._history = history
        self._tags = tags
        self._records: dict[tuple[str, bytes], GroupRecord] = {}

    def wrote(self, node: str, now: float, changes: Mapping[bytes, bytes | None]) -> Written:
        """A transaction was committed."""
        started = finished = False
        for key, value in changes.items():
            if not key.startswith(GROUPS):
                continue
            group = key[len(GROUPS) : _GROUP]
            if len(key) == _GROUP:
                before = self._records.get((node, group), _NOTHING)
                after = _NOTHING if value is None else read_group(value)
                self._records[node, group] = after
                self._compare(node, now, group, before, after)
                leads = after.epoch.node == node
                started |= leads and after.acked < after.version > before.version
                finished |= leads and before.acked < before.version == after.acked
            elif len(key) == _SESSION and value is not None and read_session(value).destroyed:
                self._add(node, now, "tombstone", group, None)
        return Written(started, finished)

    def lost(self, node: str, now: float) -> None:
        """A node's store is gone."""
        for name, group in list(self._records):
            if name == node:
                del self._records[name, group]
        self._history.events.append(Event(self._history.next(), now, node, "lose"))

    def noticed(self, node: str, now: float, kind: EventKind, group: bytes) -> None:
        """A node does something with a group that its rows do not tell."""
        self._add(node, now, kind, group, None)

    def viewed(
        self,
        node: str,
        now: float,
        view: tuple[int, str],
        members: tuple[str, ...],
        joined: tuple[int, ...],
    ) -> None:
        """A node installed a view; `members` as node and incarnation, and when each joined."""
        place = self._history.next()
        self._history.events.append(
            Event(place, now, node, "view", view=view, members=members, joined=joined)
        )

    def _compare(
        self, node: str, now: float, group: bytes, before: GroupRecord, after: GroupRecord
    ) -> None:
        if after.held and (not before.held or before.position != after.position):
            kind: EventKind = "apply"
            if after.epoch.node == node:
                kind = "commit" if before.epoch == after.epoch else "promote"
            self._add(node, now, kind, group, after.position)
        elif before.held and not after.held:
            self._add(node, now, "drop", group, before.position)
        if after.promise not in (before.promise, after.epoch, NO_EPOCH):
            self._add(node, now, "promise", group, Position(after.promise, 0))

    def _add(
        self, node: str, now: float, kind: EventKind, group: bytes, position: Position | None
    ) -> None:
        tag = self._tags.get(group) or group.hex()
        self._history.events.append(Event(self._history.next(), now, node, kind, tag, position))


_NOTHING = GroupRecord()
