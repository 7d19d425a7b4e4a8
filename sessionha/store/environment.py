"""One LMDB environment in one directory, as one process shares it between its engines.

Facts about LMDB 0.9 and its binding (lmdb 3) that this module is built around:

- Opening the same files twice in one process is an error, so environments are counted here.
- A second opener with a smaller map would truncate the file below the first, with a writable map:
  the first engine of a node records size and mode in `format`, the others follow it.
- A data file that is shorter than its meta page says is a SIGBUS at the first read, not an error;
  so is a sparse file on a full tmpfs once it is mapped for writing, and a lock file whose reader
  slots were never allocated. Hence the checks and allocations before and after opening.
- Cached read transactions (`max_spare_txns`) save 0.1 µs, keep a slot of the reader table, and a
  forked child that closes the environment then frees the slot under its parent. They stay off.
- A short write on a full disk is reported as "Input/output error", not as "No space left".
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import msgspec
from lmdb.verify import VerifyError, verify

from sessionha.errors import SessionHAError, StoreError, StoreFull
from sessionha.identity import new_incarnation
from sessionha.store.admission import ORDINARY, URGENT, capacity, memory_limit
from sessionha.store.base import Usage
from sessionha.store.locks import Locks

_log = logging.getLogger("sessionha.store")

FORMAT: Final = 1
"""Number of the layout of directory, meta row and record; another number is set aside."""

META: Final = b"\x00sessionha"
"""The one row that is the store's own; no reader or scan of sessions ever shows it."""

PAGE: Final = 4096
READERS: Final = 1024
"""Read transactions at once on a node: 16 workers with 40 threads each, and room."""

_READER_BYTES = 64  # one slot of LMDB's reader table
_TABLE_HEAD = 4096  # more than the head of that table
_FIXED_PAGES = 2  # the two meta pages
_LOOK_EVERY = 64  # write transactions between two looks at free space: 16 MB at 256 KB each
_START_WAIT = 1000  # tries of 10 ms to get the start lock: ten seconds
_AMPLE = 4  # allocate the whole file only where that takes at most a quarter of what is free

_DATA, _TABLE, _RECORD, _DAMAGED = "data.mdb", "lock.mdb", "format", "damaged"
_MAGIC = "sessionha-store"

_BEFORE_RECORD = {"start", _TABLE, f"{_RECORD}.new"}
"""What a directory may hold while its first engine has not written the record."""


class Record(NamedTuple):
    """What the first engine of a node decided for all of them."""

    size: int
    writemap: bool
    namespace: int
    """The PID namespace: LMDB knows readers by pid, so containers cannot share a directory."""


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """The store's own row."""

    format: int
    incarnation: str
    boot: str
    run: int
    boot_changed: bool


class Environment:
    """The open environment of one directory. Made by `open_environment` only."""

    def __init__(self, directory: Path, locks: Locks, size: int, env: lmdb.Environment) -> None:
        self.pid = os.getpid()
        self.directory = directory
        self.locks = locks
        self.env = env
        self.users = 0
        self._size = size
        self._data = os.open(directory / _DATA, os.O_RDONLY | os.O_CLOEXEC)
        self._identity = _identity(os.fstat(self._data))
        self._raw = b""
        self._meta = _NO_META
        self._until_look = 0
        self._capacity = size
        self.limit = 0
        self.urgent_limit = 0
        self.look(memory_limit())

    # Transactions

    def begin_read(self) -> lmdb.Transaction[bytes]:
        """A snapshot. Whoever takes it aborts and drops it in the same breath."""
        try:
            return self.env.begin()
        except lmdb.MapResizedError:
            self._follow_size()
            return self.env.begin()

    def begin_write(self, urgent: bool, shrinking: bool) -> lmdb.Transaction[bytes]:
        """The one write transaction of the node.

        Before it begins, what killed processes were reading is let go of (0.1 µs where nobody
        reads, 3 µs for eight readers): their snapshots would keep every page that is freed from
        then on, and a map of 64 MiB is then full within seconds of load.

        Raises:
            StoreFull: above the limit; nothing was begun.
        """
        if self._until_look <= 0:
            self.look(self._memory)
        self._until_look -= 1
        limit = self.urgent_limit if urgent else self.limit
        if not shrinking and (used := self.used()) >= limit:
            raise StoreFull(used, limit)
        self.env.reader_check()
        try:
            return self.env.begin(write=True)
        except lmdb.MapResizedError:
            self._follow_size()
            return self.env.begin(write=True)

    def _follow_size(self) -> None:
        """Another process made the map larger; LMDB asks to map it again."""
        self.env.set_mapsize(0)
        self._size = self.env.info()["map_size"]
        self.look(self._memory)

    def failure(self, error: lmdb.Error) -> SessionHAError | ValueError:
        """What an error of LMDB means to the caller. Corruption is also noted for the next start:
        this run cannot replace the file, siblings have it mapped."""
        if isinstance(error, lmdb.BadValsizeError):
            return ValueError(f"a key has 1 to {self.env.max_key_size()} bytes")
        if self._is_full(error):
            self._until_look = 0
            return StoreFull(self.used(), self.limit)
        path = self.directory / _DATA
        if isinstance(error, _DAMAGE):
            (self.directory / _DAMAGED).touch(0o600)
            return StoreError(
                f"{path}: {error}; stop every engine of this node and start it again:"
                " the file is then set aside and the node begins empty"
            )
        return StoreError(f"{path}: {error}; restart this engine")

    def _is_full(self, error: lmdb.Error) -> bool:
        if isinstance(error, lmdb.MapFullError):
            return True
        system = os.fstatvfs(self._data)
        free = system.f_bavail * system.f_frsize
        return abs(error.code) == errno.ENOSPC or (abs(error.code) == errno.EIO and free < PAGE * 8)

    # Space

    def used(self) -> int:
        """Bytes of live pages: what a reader pins or a deletion freed is not in it."""
        stat = self.env.stat()
        pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return (pages + _FIXED_PAGES) * PAGE

    def usage(self) -> Usage:
        return Usage(self.used(), self.limit)

    def look(self, memory: int | None) -> None:
        """Ask the file system again; between looks a write costs no more than `env.stat`."""
        self._memory = memory
        self._until_look = _LOOK_EVERY
        self._capacity = capacity(self._size, self._data, memory)
        self.limit = int(self._capacity * ORDINARY)
        self.urgent_limit = int(self._capacity * URGENT)

    def check(self) -> None:
        """Ask for limits again, notice that the files were deleted.

        Raises:
            StoreError: the directory no longer has the file that is open here.
        """
        self.look(memory_limit())
        path = self.directory / _DATA
        try:
            found = _identity(path.stat())
        except OSError:
            found = None
        if found != self._identity:
            raise StoreError(
                f"{path} was deleted or replaced under the running engine (systemd does so when"
                " a user logs out: RemoveIPC=no or `loginctl enable-linger`); restart this node"
            )

    # The store's own row

    def meta(self) -> Meta:
        """The row as it is now; decoded again only when a sibling changed it."""
        try:
            txn = self.begin_read()
            raw = txn.get(META)
            txn.abort()
        except lmdb.Error as error:
            raise self.failure(error) from error
        if raw != self._raw:
            self._meta = _decode_meta(raw) or _NO_META
            self._raw = raw or b""
        return self._meta

    def renew_incarnation(self) -> str:
        """Another identity, for every engine from its next look on.

        Raises:
            StoreFull, StoreError: it is still the old one.
        """
        incarnation = new_incarnation()
        try:
            with self.env.begin(write=True) as txn:
                meta = _decode_meta(txn.get(META)) or _NO_META
                renewed = msgspec.structs.replace(meta, incarnation=incarnation)
                txn.put(META, msgspec.msgpack.encode(renewed))
        except lmdb.Error as error:
            raise self.failure(error) from error
        return incarnation

    # The end

    def close(self) -> None:
        """The last engine of this process left. A store on a disk is written out first."""
        if not _is_tmpfs(self._data):
            self.env.sync(True)
        self.env.close()
        os.close(self._data)

    def drop_inherited(self) -> None:
        """In a forked child: let go of the parent's environment without touching its locks.

        Closing is safe only when no transaction ran at the fork: LMDB would abort it, and free
        the parent's slot of the reader table while the parent still reads. Every transaction
        holds a reference to its environment, so the count tells.

        Raises:
            StoreError: a transaction ran at the fork.
        """
        if self._in_transaction():
            raise StoreError(
                f"{self.directory}: this process was forked while another thread used the store;"
                " start worker processes before the first request"
                " (gunicorn: without --preload)"
            )
        self.env.close()
        os.close(self._data)
        self.locks.drop_inherited()

    def _in_transaction(self) -> bool:
        return sys.getrefcount(self.env) > sys.getrefcount(_UNSHARED.env)


class _Unshared:
    """Holds a thing that nothing else refers to, counted the way this interpreter counts."""

    def __init__(self) -> None:
        self.env = object()


_UNSHARED = _Unshared()

_NO_META = Meta(FORMAT, "", "", 0, False)
_DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
)


def prepare_directory(directory: Path) -> None:
    """Make the directory, or see that it is this user's, private, and not something else's.

    Raises:
        StoreError: another user's, not a directory, or with files that are not a store's.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.stat()
        names = set(os.listdir(directory))
    except OSError as error:
        raise StoreError(
            f"{directory}: {error.strerror}; set SESSIONHA_STORE to a directory that the server's"
            " user can create and write"
        ) from error
    if status.st_uid != os.geteuid():
        raise StoreError(
            f"{directory} belongs to user {status.st_uid}, not to {os.geteuid()}; remove it or"
            " set SESSIONHA_STORE to another directory"
        )
    foreign = names - _BEFORE_RECORD
    if foreign and not (directory / _RECORD).exists():  # asked last: another engine may start
        raise StoreError(
            f"{directory / min(foreign)} is not a file of a session store;"
            " set SESSIONHA_STORE to an empty directory or one that does not exist yet"
        )
    if status.st_mode & 0o077:
        directory.chmod(0o700)


def open_environment(
    directory: Path, size: int, boot: str, writemap: bool | None
) -> tuple[Environment, int]:
    """Open the store of a directory and take a slot in it, as the first engine or a later one.

    Raises:
        StoreError: which file, why, and what to do.
    """
    prepare_directory(directory)
    locks = Locks(directory)
    _wait_for_start(locks, directory)
    try:
        if locks.living_slots():
            environment = _join(directory, locks)
        else:
            environment = _begin(directory, locks, size, boot, writemap)
    except (OSError, lmdb.Error) as error:
        path = (error.filename if isinstance(error, OSError) else None) or directory
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(
            f"{path}: {why}; free space or fix permissions there, or set SESSIONHA_STORE to"
            " another directory"
        ) from error
    else:
        return environment, _take_slot(environment)
    finally:
        locks.release("start")


def _wait_for_start(locks: Locks, directory: Path) -> None:
    for _ in range(_START_WAIT):
        if locks.take("start"):
            return
        time.sleep(0.01)
    raise StoreError(
        f"{directory / 'start'} has been locked for ten seconds by an engine that is starting;"
        " find it (`fuser`) and stop it"
    )


def _take_slot(environment: Environment) -> int:
    try:
        return environment.locks.take_slot()
    except StoreError:
        environment.close()
        raise


def _join(directory: Path, locks: Locks) -> Environment:
    """A later engine: what the first one decided holds, damage included."""
    record = _read_record(directory)
    if record is None:
        raise StoreError(
            f"{directory / _RECORD} was written by another version of sessionha, whose engines"
            " still run here; stop them first"
        )
    if record.namespace != _pid_namespace():
        raise StoreError(
            f"{directory} is in use by another container (PID namespace {record.namespace});"
            " give each container a store of its own (SESSIONHA_STORE)"
        )
    try:
        env = _open(directory, record)
        environment = Environment(directory, locks, record.size, env)
        if environment.meta().format != FORMAT:
            raise lmdb.VersionMismatchError("the format is another one")
    except lmdb.Error as error:
        raise StoreError(f"{directory / _DATA}: {error}; restart every engine here") from error
    return environment


def _begin(
    directory: Path, locks: Locks, size: int, boot: str, writemap: bool | None
) -> Environment:
    """The first engine of a node: nobody else has the files open."""
    reason = _damage(directory)
    if reason:
        _set_aside(directory, reason)
    _allocate_table(directory / _TABLE)
    record = Record(size, False, _pid_namespace())
    _write_record(directory, record)
    environment = Environment(directory, locks, size, _open(directory, record))
    reason = _start_run(environment, boot)
    if reason:
        environment.close()
        _set_aside(directory, reason)
        environment = Environment(directory, locks, size, _open(directory, record))
        _start_run(environment, boot)
    environment.env.reader_check()
    if not (_allocation_is_ample(directory, size) if writemap is None else writemap):
        return environment
    return _with_writemap(environment, record)


def _with_writemap(environment: Environment, record: Record) -> Environment:
    """Open again with a writable map, once every page of the file has its memory."""
    directory, locks = environment.directory, environment.locks
    environment.close()
    descriptor = os.open(directory / _DATA, os.O_RDWR | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_blocks * 512 < record.size:
            os.posix_fallocate(descriptor, 0, record.size)  # 80 ms for 256 MiB, once
    except OSError:
        _log.debug("%s: no room to allocate the whole file; writing without a map", directory)
    else:
        record = record._replace(writemap=True)
        _write_record(directory, record)
    finally:
        os.close(descriptor)
    return Environment(directory, locks, record.size, _open(directory, record))


def _open(directory: Path, record: Record) -> lmdb.Environment:
    """Never synced: memory needs none, and a file of another boot is verified before use.

    `map_async` is left off: with sync off it changes nothing.
    """
    env = lmdb.open(
        os.fspath(directory),
        map_size=record.size,
        mode=0o600,
        create=False,
        sync=False,
        metasync=False,
        writemap=record.writemap,
        max_readers=READERS,
        max_spare_txns=0,
    )
    for name in (_DATA, _TABLE):
        (directory / name).chmod(0o600)
    return env


def _start_run(environment: Environment, boot: str) -> str:
    """Write the row of a new run; a reason instead when the file is not a session store's."""
    try:
        with environment.env.begin(write=True) as txn:
            meta = _decode_meta(txn.get(META))
            if meta is None and txn.stat()["entries"]:
                return "it holds rows of another application"
            if meta is not None and meta.format != FORMAT:
                return f"its format is {meta.format}, not {FORMAT}"
            txn.put(META, msgspec.msgpack.encode(_next_run(meta, boot)))
    except lmdb.Error as error:
        return str(error)
    return ""


def _next_run(meta: Meta | None, boot: str) -> Meta:
    if meta is None:
        return Meta(FORMAT, new_incarnation(), boot, 1, False)
    if meta.boot != boot:
        return Meta(FORMAT, new_incarnation(), boot, meta.run + 1, True)
    return Meta(FORMAT, meta.incarnation, boot, meta.run + 1, False)


def _decode_meta(raw: bytes | None) -> Meta | None:
    if raw is None:
        return None
    try:
        return msgspec.msgpack.decode(raw, type=Meta)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return msgspec.structs.replace(_NO_META, format=-1)


# Files


def _damage(directory: Path) -> str:
    """Why the data file cannot be used; empty when it can, or is absent.

    The walk takes about 5 ms for each MB in use, once for each start of a node, and never hands a
    damaged file to LMDB, which would meet some of them with a SIGBUS.
    """
    data = directory / _DATA
    try:
        if data.stat().st_size == 0:
            return ""
    except FileNotFoundError:
        return ""
    if (directory / _DAMAGED).exists():
        return "an engine met damage in it"
    if _read_record(directory) is None:
        return f"its directory's format is not {FORMAT}"
    try:
        problems = verify(os.fspath(data), False)  # type: ignore[no-untyped-call]
    except (VerifyError, struct.error) as error:
        return str(error)
    return str(problems[0]) if problems else ""


def _set_aside(directory: Path, reason: str) -> None:
    data = directory / _DATA
    number = 1
    while (target := directory / f"{_DATA}.corrupt-{number}").exists():
        number += 1
    data.rename(target)
    (directory / _DAMAGED).unlink(missing_ok=True)
    _log.warning(
        "%s cannot be used (%s): moved to %s, this node begins empty; delete that file when nobody"
        " needs it",
        data,
        reason,
        target,
    )


def _allocate_table(path: Path) -> None:
    """All reader slots have their memory before LMDB maps them.

    Raises:
        OSError: the file system is full, or not ours to write.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, _TABLE_HEAD + READERS * _READER_BYTES)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    finally:
        os.close(descriptor)


def _read_record(directory: Path) -> Record | None:
    try:
        words = (directory / _RECORD).read_text("ascii").split()
    except (OSError, UnicodeDecodeError):
        return None
    if words[:2] != [_MAGIC, str(FORMAT)] or not all(w.isdecimal() for w in words[2:]):
        return None
    if len(words) != 5:
        return None
    return Record(int(words[2]), words[3] == "1", int(words[4]))


def _write_record(directory: Path, record: Record) -> None:
    path = directory / _RECORD
    fresh = directory / f"{_RECORD}.new"
    fresh.write_text(
        f"{_MAGIC} {FORMAT} {record.size} {int(record.writemap)} {record.namespace}\n", "ascii"
    )
    fresh.chmod(0o600)
    fresh.rename(path)


def _allocation_is_ample(directory: Path, size: int) -> bool:
    """Whether giving the whole file its memory at once takes little of what is there."""
    descriptor = os.open(directory / _DATA, os.O_RDONLY | os.O_CLOEXEC)
    try:
        memory = memory_limit()
        free = capacity(1 << 62, descriptor, None)
        fits = memory is None or capacity(size, descriptor, memory) == size
        return _is_tmpfs(descriptor) and free >= _AMPLE * size and fits
    finally:
        os.close(descriptor)


def _is_tmpfs(descriptor: int) -> bool:
    """Elsewhere an allocated page may still fail to be written (copy-on-write file systems)."""
    device = os.fstat(descriptor).st_dev
    return os.major(device) == 0 and _file_system(device) in ("tmpfs", "ramfs")


def _file_system(device: int) -> str:
    name = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == name:
            return rest.split()[0]
    return ""


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
