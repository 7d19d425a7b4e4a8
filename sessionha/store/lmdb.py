"""The store of a node in shared memory: one LMDB environment for all its engines.

Measured for one row of 300 bytes among 20,000: a read transaction 1.1 µs (0.4 in the binding), a
write 2.5 µs with a writable map (0.9) and 5.7 µs without (3.7), of which looking at the space in
use is 0.5 (what only frees space need not). `environment` says how the files are kept, `locks` how
engines are told apart.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import lmdb

from sessionha.errors import StoreError, StoreFull
from sessionha.store.base import Usage
from sessionha.store.environment import META, PAGE, Environment, open_environment
from sessionha.store.locks import slot_name
from sessionha.store.place import current_boot

MINIMUM_SIZE = 256 * 1024
"""Bytes below which LMDB's own pages would leave nothing to work with."""

_LEADER = "leader"

_getpid = os.getpid


class _Process:
    """What this process has open; a forked child starts over."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: dict[tuple[int, int], Environment] = {}
        self.inherited: dict[tuple[int, int], Environment] = {}
        self.hooked = False
        self.generation = 0
        """Counts the forks that made this process: a system call for every transaction to ask for
        its ID would cost more than the transaction. Who forks from C (uWSGI without threads) is
        noticed where an engine is asked whether it runs, and when a store is opened."""

    def after_fork(self) -> None:
        """In the child: the parent's environments are only kept to be dropped."""
        self.generation += 1
        self.lock = threading.Lock()
        self.inherited.update(self.open)
        self.open.clear()

    def hook(self) -> None:
        if not self.hooked:
            self.hooked = True
            os.register_at_fork(after_in_child=self.after_fork)
        if any(environment.pid != _getpid() for environment in self.open.values()):
            self.after_fork()  # forked from C, without Python's hooks (uWSGI)

    def drop_inherited(self, directory: Path) -> None:
        """Let go of what the parent had open there, so that it can be opened anew."""
        key = _key(directory)
        if key in self.inherited:
            self.inherited[key].drop_inherited()
            del self.inherited[key]


_process = _Process()


class LMDBStore:
    """One engine's door to the store of its node. Nothing is touched before `open`."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        size: int,
        boot: str | None = None,
        writemap: bool | None = None,
    ) -> None:
        """
        Args:
            directory: of this store alone; made when absent.
            size: bytes of the map. Later engines of a node follow the first.
            boot: the boot of this machine, for tests; by default the kernel's.
            writemap: None: writable map where the whole file fits in memory with ease.
        """
        if size < MINIMUM_SIZE:
            raise StoreError(f"`store_size` is {size} bytes; use at least {MINIMUM_SIZE}")
        self._directory = Path(directory).absolute()
        self._size = size - size % PAGE
        self._boot = boot
        self._writemap = writemap
        self._shared: Environment | None = None
        self._generation = 0
        self._key = (0, 0)
        self._slot = -1
        self._leads = False
        self._run = 0
        self._boot_changed = False

    def open(self) -> LMDBStore:
        """Open the environment, or share the one that this process has, and take a slot.

        In a forked child this leaves the parent's environment and slot alone and takes its own.

        Raises:
            StoreError: which file, why, and what to do.
        """
        if sys.platform != "linux":
            raise StoreError("a shared store needs Linux; set SESSIONHA_STORE=memory here")
        _process.hook()
        with _process.lock:
            if self._shared is not None and self._shared.pid == _getpid():
                raise StoreError(f"{self._directory} is already open in this engine")
            if _key(self._directory) in _process.inherited:
                _process.drop_inherited(self._directory)
            self._enter()
        return self

    def _enter(self) -> None:
        shared = _process.open.get(_key(self._directory))
        if shared is None:
            boot = self._boot or _boot_id()
            shared, slot = open_environment(self._directory, self._size, boot, self._writemap)
            _process.open[_key(self._directory)] = shared
        else:
            slot = shared.locks.take_slot()
        shared.users += 1
        self._generation = _process.generation
        meta = shared.meta()
        self._key = _key(self._directory)
        self._shared, self._slot, self._leads = shared, slot, False
        self._run, self._boot_changed = meta.run, meta.boot_changed

    def close(self) -> None:
        """Free slot and leadership; the last engine of the process closes the environment."""
        shared, self._shared = self._shared, None
        if shared is None or shared.pid != _getpid():
            return
        with _process.lock:
            if self._leads:
                shared.locks.release(_LEADER)
            shared.users -= 1
            if shared.users == 0:
                _process.open.pop(self._key, None)
                shared.close()
            shared.locks.release(slot_name(self._slot))
            self._leads = False

    @property
    def incarnation(self) -> str:
        return self._alive().meta().incarnation

    @property
    def run(self) -> int:
        return self._run

    @property
    def slot(self) -> int:
        return self._slot

    @property
    def boot_changed(self) -> bool:
        return self._boot_changed

    @property
    def directory(self) -> Path:
        return self._directory

    def read(self) -> LMDBReader:
        return LMDBReader(self._alive())

    def write(self, *, urgent: bool = False, shrinking: bool = False) -> LMDBWriter:
        return LMDBWriter(self._alive(), urgent, shrinking)

    def renew_incarnation(self) -> str:
        return self._alive().renew_incarnation()

    def try_lead(self) -> bool:
        shared = self._alive()
        if not self._leads:
            self._leads = shared.locks.take(_LEADER)
        return self._leads

    def living_slots(self) -> set[int]:
        return self._alive().locks.living_slots()

    def usage(self) -> Usage:
        return self._alive().usage()

    def check(self) -> None:
        self._alive().check()

    def _alive(self) -> Environment:
        shared = self._shared
        if shared is None:
            raise StoreError(f"{self._directory} is not open in this engine; call open() first")
        if self._generation != _process.generation:
            raise StoreError(
                f"{self._directory} was opened before this process was forked; open it in the"
                " worker"
            )
        return shared


class LMDBReader:
    """A read transaction, closed and dropped with the block."""

    __slots__ = ("_shared", "_txn", "get")

    get: Callable[[bytes], bytes | None]

    def __init__(self, shared: Environment) -> None:
        self._shared = shared

    def __enter__(self) -> LMDBReader:
        try:
            txn = self._shared.begin_read()
        except lmdb.Error as error:
            raise self._shared.failure(error) from error
        self._txn = txn
        self.get = txn.get
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._txn.abort()
        del self._txn, self.get
        if isinstance(error, lmdb.Error):
            raise self._shared.failure(error) from error

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor()
        if not _seek(cursor, prefix, after):
            return
        end = len(prefix)
        for row in cursor:
            key = row[0]
            if key[:end] != prefix:
                return
            if key != META:
                yield row


class LMDBWriter:
    """A write transaction: committed when the block ends, undone by an exception."""

    __slots__ = ("_changes", "_failed", "_shared", "_shrinking", "_txn", "_urgent", "get")

    get: Callable[[bytes], bytes | None]

    def __init__(self, shared: Environment, urgent: bool, shrinking: bool) -> None:
        self._shared = shared
        self._urgent = urgent
        self._shrinking = shrinking
        self._changes = 0
        self._failed: StoreFull | None = None

    def __enter__(self) -> LMDBWriter:
        try:
            txn = self._shared.begin_write(self._urgent, self._shrinking)
        except lmdb.Error as error:
            raise self._shared.failure(error) from error
        self._txn = txn
        self.get = txn.get
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        txn = self._txn
        del self._txn, self.get
        if kind is None and self._failed is None:
            try:
                txn.commit()
            except lmdb.Error as failed:
                raise self._shared.failure(failed) from failed
            return
        txn.abort()
        if isinstance(error, lmdb.Error):
            raise self._shared.failure(error) from error
        if kind is None and self._failed is not None:
            raise self._failed  # the block swallowed it: still nothing may be half-written

    def put(self, key: bytes, value: bytes) -> None:
        try:
            self._txn.put(key, value)
        except lmdb.Error as error:
            raise self._fail(error) from error
        self._changes += 1

    def delete(self, key: bytes) -> bool:
        try:
            deleted = self._txn.delete(key)
        except lmdb.Error as error:
            raise self._fail(error) from error
        self._changes += 1
        return deleted

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Like a reader's; rows may be put and deleted meanwhile."""
        cursor = self._txn.cursor()
        found = _seek(cursor, prefix, after)
        while found:
            key, value = cursor.item()
            if not key.startswith(prefix):
                return
            changes = self._changes
            if key != META:
                yield key, value
            found = cursor.next() if changes == self._changes else _seek(cursor, prefix, key)

    def _fail(self, error: lmdb.Error) -> Exception:
        failure = self._shared.failure(error)
        if isinstance(failure, StoreFull):
            self._failed = failure
        return failure


def _seek(cursor: lmdb.Cursor[bytes], prefix: bytes, after: bytes | None) -> bool:
    """Put the cursor on the first row at or above `prefix` and above `after`."""
    if after is None or after < prefix:
        return cursor.set_range(prefix) if prefix else cursor.first()
    if not cursor.set_range(after):
        return False
    return cursor.next() if cursor.key() == after else True


def _key(directory: Path) -> tuple[int, int]:
    """The identity of a directory, whatever path leads to it; zeros before it exists."""
    try:
        status = directory.stat()
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def _boot_id() -> str:
    try:
        return current_boot()
    except OSError as error:
        raise StoreError(
            f"/proc/sys/kernel/random/boot_id: {error.strerror}; mount /proc, or set"
            " SESSIONHA_STORE=memory"
        ) from error
