"""Lock files of one directory: who is alive, and who leads.

POSIX record locks: the kernel drops them with the process that held them, however it ended, and a
forked child does not inherit them (open-file-description locks and flock would live on in it).
Their two traps are handled here. They do not exclude threads of one process, so what this process
holds is remembered; and closing *any* descriptor of a file drops the process's lock on it, so a
file that this process has locked is never opened a second time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from pathlib import Path

from sessionha.errors import StoreError

SLOTS = 256
"""Engines of one node at once: far above any sensible number of workers on one machine."""

_FLOCK = "hhqqi"  # struct flock on 64-bit Linux: type, whence, start, length, pid


class Locks:
    """The locks that this process holds in one directory; safe between threads."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        self._threads = threading.Lock()

    def take(self, name: str) -> bool:
        """Lock the file `name` until `release`; False when anybody holds it, also this process.

        Raises:
            StoreError: the file cannot be opened.
        """
        with self._threads:
            if name in self._held:
                return False
            descriptor = self._open(name)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                raise StoreError(_cannot(self._directory / name, error)) from error
            self._held[name] = descriptor
            return True

    def release(self, name: str) -> None:
        """Unlock a file that this process holds; anything else is left alone."""
        with self._threads:
            descriptor = self._held.pop(name, None)
            if descriptor is not None:
                os.close(descriptor)

    def is_locked(self, name: str) -> bool:
        """Whether anybody holds the file, asked without taking it."""
        with self._threads:
            return name in self._held or _locked_elsewhere(self._directory / name)

    def take_slot(self) -> int:
        """The lowest free slot, locked.

        Raises:
            StoreError: every slot is taken.
        """
        for slot in range(SLOTS):
            if self.take(slot_name(slot)):
                return slot
        raise StoreError(
            f"{self._directory}: all {SLOTS} engine slots are taken; run fewer workers on this"
            " node, or give each application a store of its own (SESSIONHA_STORE)"
        )

    def living_slots(self) -> set[int]:
        """Slots that are locked, by this process or another."""
        with self._threads:
            return {
                slot
                for slot in _slots_in(self._directory)
                if slot_name(slot) in self._held
                or _locked_elsewhere(self._directory / slot_name(slot))
            }

    def drop_inherited(self) -> None:
        """In a forked child: close the parent's descriptors. The parent's locks are untouched."""
        held, self._held = self._held, {}
        for descriptor in held.values():
            os.close(descriptor)

    def _open(self, name: str) -> int:
        path = self._directory / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(_cannot(path, error)) from error


def slot_name(slot: int) -> str:
    """The lock file of a slot."""
    return f"slot-{slot}"


def is_alive(directory: Path) -> bool:
    """Whether an engine of another process holds a slot in `directory`."""
    return any(_locked_elsewhere(directory / slot_name(slot)) for slot in _slots_in(directory))


def _slots_in(directory: Path) -> list[int]:
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    digits = (name.removeprefix("slot-") for name in names if name.startswith("slot-"))
    return sorted(int(text) for text in digits if text.isdecimal())


def _locked_elsewhere(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _cannot(path: Path, error: OSError) -> str:
    return (
        f"{path}: {error.strerror}; the store's directory and files must belong to the user of"
        " the server, or set SESSIONHA_STORE to another directory"
    )
