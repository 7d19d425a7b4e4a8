"""The store in one process: the same promises as the shared one, without a file.

For `store = memory`, for tests and for the simulator, which lets several engines share one node's
`Memory`, kills them and restarts the node. Deterministic when it is given its randomness.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from random import Random
from types import TracebackType

from sessionha.errors import StoreError, StoreFull
from sessionha.identity import new_incarnation
from sessionha.store.admission import ORDINARY, URGENT
from sessionha.store.base import Usage

DEFAULT_SIZE = 256 * 1024 * 1024

_KEY_BYTES = 511  # what LMDB takes
_ROW_BYTES = 120  # two bytes objects, a place in a dict and one in a list


class _Rows:
    """Committed rows with their keys in order. Shared until a snapshot needs its own."""

    __slots__ = ("keys", "values")

    def __init__(self, values: dict[bytes, bytes], keys: list[bytes]) -> None:
        self.values = values
        self.keys = keys

    def copy(self) -> _Rows:
        return _Rows(dict(self.values), list(self.keys))

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            known = key in self.values
            if value is None:
                if known:
                    del self.values[key]
                    del self.keys[bisect_left(self.keys, key)]
            else:
                if not known:
                    insort(self.keys, key)
                self.values[key] = value

    def above(self, prefix: bytes, after: bytes | None) -> Iterator[bytes]:
        """Keys with the prefix, above `after`, in order."""
        if after is None or after < prefix:
            place = bisect_left(self.keys, prefix)
        else:
            place = bisect_right(self.keys, after)
        while place < len(self.keys) and self.keys[place].startswith(prefix):
            yield self.keys[place]
            place += 1


class Memory:
    """What outlives an engine: the memory of one node.

    Args:
        size: bytes it may hold.
        random: where incarnations come from; the system's randomness by default.
    """

    def __init__(self, *, size: int = DEFAULT_SIZE, random: Random | None = None) -> None:
        self._random = random
        self.size = size
        self.used = 0
        self.guard = threading.Lock()
        self.living: set[int] = set()
        self.leader: int | None = None
        self.run = 0
        self.boot_changed = False
        self.generation = 0
        """Grows with every restart: engines of an earlier one are dead."""
        self.incarnation = self.new_incarnation()
        self._rows = _Rows({}, [])
        self._readers = 0
        self._write_lock = threading.Lock()
        self._writing_thread: int | None = None
        self._writer: MemoryWriter | None = None

    def restart(self, *, kept: bool = True, rebooted: bool = False) -> None:
        """Every engine dies at once; the next one to open starts a run.

        Args:
            kept: the store outlives it; otherwise it is a new and empty one.
            rebooted: kept, but by another boot: new incarnation, data still there.
        """
        self.generation += 1
        for slot in sorted(self.living):
            self.kill(slot)
        self.boot_changed = kept and rebooted
        if not kept:
            self.run = 0
            self.used = 0
            self._rows = _Rows({}, [])
            self._readers = 0
        if rebooted or not kept:
            self.incarnation = self.new_incarnation()

    def kill(self, slot: int) -> None:
        """The engine in `slot` dies: its transaction is undone, its slot and leadership free."""
        self.living.discard(slot)
        if self.leader == slot:
            self.leader = None
        if self._writer is not None and self._writer.slot == slot:
            self.end_write()

    def enter(self) -> int:
        """A slot for one more engine; the first one starts a run."""
        with self.guard:
            if not self.living:
                self.run += 1
            slot = next(n for n in range(len(self.living) + 1) if n not in self.living)
            self.living.add(slot)
            return slot

    def new_incarnation(self) -> str:
        if self._random is None:
            return new_incarnation()
        return f"{self._random.getrandbits(64):016x}"

    def begin_read(self) -> _Rows:
        with self.guard:
            self._readers += 1
            return self._rows

    def end_read(self, rows: _Rows) -> None:
        with self.guard:
            if rows is self._rows:
                self._readers -= 1

    def begin_write(self, writer: MemoryWriter) -> _Rows:
        """The committed rows, held still until `end_write`.

        Raises:
            StoreError: this thread already writes.
        """
        if self._writing_thread == threading.get_ident():
            raise StoreError("a write transaction is already open in this thread")
        self._write_lock.acquire()
        self._writing_thread = threading.get_ident()
        self._writer = writer
        return self._rows

    def commit(self, changes: dict[bytes, bytes | None], used: int) -> None:
        with self.guard:
            if self._readers:
                self._rows = self._rows.copy()  # who reads keeps the rows it has
                self._readers = 0
            self._rows.apply(changes)
            self.used = used

    def is_writing(self, writer: MemoryWriter) -> bool:
        """Whether the transaction still runs: its engine may have been killed in the middle."""
        return self._writer is writer

    def end_write(self) -> None:
        self._writer = None
        self._writing_thread = None
        self._write_lock.release()


class MemoryStore:
    """One engine's door to a `Memory`; alone in its own by default. Needs `open`."""

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        size: int = DEFAULT_SIZE,
        random: Random | None = None,
    ) -> None:
        self._given = memory
        self._size = size
        self._random = random
        self._memory: Memory | None = None
        self._generation = 0
        self._slot = -1
        self._pid = 0
        self._run = 0
        self._boot_changed = False

    def open(self) -> MemoryStore:
        """Take a slot; in a forked child, of a memory of its own.

        Raises:
            StoreError: it is open already, or its shared memory is the parent process's.
        """
        memory = self._given
        if self._memory is not None:
            if self._pid == os.getpid():
                raise StoreError("this store is already open in this engine")
            if memory is not None:
                raise StoreError("this memory belongs to the process that was forked; make another")
        if memory is None:
            memory = Memory(size=self._size, random=self._random)
        self._memory, self._pid = memory, os.getpid()
        self._generation = memory.generation
        self._slot = memory.enter()
        self._run, self._boot_changed = memory.run, memory.boot_changed
        return self

    def engine(self) -> MemoryStore:
        """One more engine of the same node, opened."""
        return MemoryStore(self._alive()).open()

    def kill(self) -> None:
        """This engine dies without closing anything; every later use of it is a StoreError."""
        self._alive().kill(self._slot)

    def close(self) -> None:
        memory, self._memory = self._memory, None
        if memory is not None and self._is_mine(memory):
            memory.kill(self._slot)

    @property
    def memory(self) -> Memory:
        """The node's memory, to restart it or to look at it."""
        return self._alive()

    @property
    def incarnation(self) -> str:
        return self._alive().incarnation

    @property
    def run(self) -> int:
        return self._run

    @property
    def slot(self) -> int:
        return self._slot

    @property
    def boot_changed(self) -> bool:
        return self._boot_changed

    def read(self) -> MemoryReader:
        return MemoryReader(self._alive())

    def write(self, *, urgent: bool = False, shrinking: bool = False) -> MemoryWriter:
        share = URGENT if urgent else ORDINARY
        return MemoryWriter(self._alive(), self._slot, math.inf if shrinking else share)

    def renew_incarnation(self) -> str:
        memory = self._alive()
        memory.incarnation = memory.new_incarnation()
        return memory.incarnation

    def try_lead(self) -> bool:
        memory = self._alive()
        with memory.guard:
            if memory.leader is None:
                memory.leader = self._slot
            return memory.leader == self._slot

    def living_slots(self) -> set[int]:
        return set(self._alive().living)

    def usage(self) -> Usage:
        memory = self._alive()
        return Usage(memory.used, int(memory.size * ORDINARY))

    def check(self) -> None:
        """Nothing outlives a reader here."""
        self._alive()

    def _alive(self) -> Memory:
        memory = self._memory
        if memory is None:
            raise StoreError("this store is not open in this engine; call open() first")
        if not self._is_mine(memory):
            raise StoreError(
                "this engine's memory is gone: the engine was killed, or the process was forked"
                " after open(); open the store in the worker"
            )
        return memory

    def _is_mine(self, memory: Memory) -> bool:
        return (
            self._generation == memory.generation
            and self._slot in memory.living
            and self._pid == os.getpid()
        )


class MemoryReader:
    """The rows as they were when the block began."""

    __slots__ = ("_memory", "_rows")

    _rows: _Rows

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __enter__(self) -> MemoryReader:
        self._rows = self._memory.begin_read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._memory.end_read(self._rows)
        del self._rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.values.get(key)

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows
        for key in rows.above(prefix, after):
            yield key, rows.values[key]


class MemoryWriter:
    """Changes on top of the committed rows, applied together when the block ends."""

    __slots__ = ("_changes", "_count", "_failed", "_memory", "_rows", "_share", "_used", "slot")

    _rows: _Rows

    def __init__(self, memory: Memory, slot: int, share: float) -> None:
        self._memory = memory
        self.slot = slot
        self._share = share
        self._changes: dict[bytes, bytes | None] = {}
        self._count = 0
        self._used = 0
        self._failed: StoreFull | None = None

    def __enter__(self) -> MemoryWriter:
        memory = self._memory
        limit = memory.size * self._share
        if memory.used >= limit:
            raise StoreFull(memory.used, int(limit))
        self._rows = memory.begin_write(self)
        self._used = memory.used
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        memory = self._memory
        del self._rows
        if not memory.is_writing(self):
            return  # killed in the middle: nothing was changed
        try:
            if kind is None and self._failed is None:
                memory.commit(self._changes, self._used)
        finally:
            memory.end_write()
        if kind is None and self._failed is not None:
            raise self._failed

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self._rows.values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        grown = self._used + _cost(_checked(key), value) - _cost(key, self.get(key))
        if grown > self._memory.size:
            self._failed = StoreFull(grown, self._memory.size)
            raise self._failed
        self._change(key, bytes(value), grown)

    def delete(self, key: bytes) -> bool:
        old = self.get(key)
        if old is None:
            return False
        self._change(key, None, self._used - _cost(key, old))
        return True

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Like a reader's; rows may be put and deleted meanwhile."""
        count, keys = self._count, self._keys(prefix, after)
        while True:
            if count != self._count:
                count, keys = self._count, self._keys(prefix, after)
            key = next(keys, None)
            if key is None:
                return
            value = self.get(key)
            after = key
            if value is not None:
                yield key, value

    def _keys(self, prefix: bytes, after: bytes | None) -> Iterator[bytes]:
        if not self._changes:
            return self._rows.above(prefix, after)
        changed = sorted(
            key for key in self._changes if key.startswith(prefix) and (not after or key > after)
        )
        keys = {*changed, *self._rows.above(prefix, after)}
        return iter(sorted(keys))

    def _change(self, key: bytes, value: bytes | None, used: int) -> None:
        self._changes[key] = value
        self._used = used
        self._count += 1


def _cost(key: bytes, value: bytes | None) -> int:
    return 0 if value is None else len(key) + len(value) + _ROW_BYTES


def _checked(key: bytes) -> bytes:
    if not 0 < len(key) <= _KEY_BYTES:
        raise ValueError(f"a key has 1 to {_KEY_BYTES} bytes")
    return key
