"""The lock of a domain: a row that every engine of the node sees in its transaction.

It schedules and protects nothing: a step is one version of a group with the lock or without. While
it is held, no commit comes between many such steps, which travel together.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sessionha.identity import DOMAINS, GroupID, domain_of
from sessionha.store.base import Writer

LOCKED: Final = b"\x00locked-domain"
"""Store row: the domain that is locked; a node locks one at a time."""

LONGEST: Final = 1_000
"""Milliseconds after which a lock ends by itself, so that nobody waits for a leader that died: a
round to the backups, one to those that leave (half a second each at most, and usually 10 ms)."""


class Lock(NamedTuple):
    """A locked domain."""

    domain: int
    slot: int
    """The engine that has locked it."""
    until: int
    """When it ends by itself, an instant of the node's clock."""


def read_lock(row: bytes) -> Lock:
    """The lock that a row says."""
    return Lock(int.from_bytes(row[:2]), int.from_bytes(row[2:4]), int.from_bytes(row[4:]))


def is_locked(row: bytes, group: GroupID, now: int) -> bool:
    """Whether a commit to the group has to wait."""
    lock = read_lock(row)
    return lock.domain == domain_of(group) and now < lock.until


def lock(writer: Writer, domain: int, slot: int, now: int) -> None:
    """Lock the domain in the place of any other."""
    assert 0 <= domain < DOMAINS, f"there is no domain {domain}"
    until = now + LONGEST
    writer.put(LOCKED, domain.to_bytes(2) + slot.to_bytes(2) + until.to_bytes(8))


def unlock(writer: Writer, slot: int) -> None:
    """Release what this engine has locked; what another one locked since stays locked."""
    row = writer.get(LOCKED)
    if row is not None and read_lock(row).slot == slot:
        writer.delete(LOCKED)
