"""The node's clock: CLOCK_BOOTTIME, which runs on while the machine sleeps and never steps.

Deadlines in the store are instants of it. After a reboot it goes on where the wall clock says that
it would be, so that stores on a disk keep their deadlines (contract: lifetimes).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from sessionha.store.base import Store
from sessionha.store.place import current_boot

ROW = b"\x00clock"
"""Store row: what is needed to go on after a reboot."""


class _Mark(NamedTuple):
    boot: str
    """The boot of the machine that it belongs to."""
    offset: int
    """Added to CLOCK_BOOTTIME."""
    last: int
    """The clock when it was last marked."""
    wall: int
    """The wall clock then."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Mark).decode


def boottime() -> int:
    """Milliseconds since the machine started, those it slept included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> str:
    """Which boot of the machine this is; empty where the system does not tell."""
    try:
        return current_boot()
    except OSError:
        return ""


class NodeClock:
    """The same for all engines of a store. Times are milliseconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._boot = boot_id()
        self._offset = 0

    def begin(self) -> None:
        """Take up the store's clock; of another boot, go on by the wall clock, never back."""
        now, wall = boottime(), int(time.time() * 1000)
        with self._store.write(urgent=True) as writer:
            data = writer.get(ROW)
            mark = _decode(data) if data is not None else _Mark(self._boot, 0, now, wall)
            if mark.boot != self._boot:
                last = mark.last + max(wall - mark.wall, 0)
                mark = _Mark(self._boot, last - now, last, wall)
            writer.put(ROW, _encode(mark))
        self._offset = mark.offset

    def now(self) -> int:
        return boottime() + self._offset

    def mark(self) -> None:
        """Remember the present, for a reboot. The leader does it every few seconds."""
        mark = _Mark(self._boot, self._offset, self.now(), int(time.time() * 1000))
        with self._store.write(urgent=True) as writer:
            writer.put(ROW, _encode(mark))
