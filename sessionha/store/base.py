"""What a node's store promises: ordered bytes, atomic transactions, slots and one leader.

The store knows nothing of sessions. Keys and values are bytes, keys are ordered bytewise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol


class Usage(NamedTuple):
    """Bytes in use, and the bytes at which ordinary writes are refused."""

    used: int
    limit: int


class Reader(Protocol):
    """One consistent snapshot. Values are bytes of their own; never held across an await."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, prefix: bytes, after: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key starts with `prefix`, in order, from the first key above `after`."""
        ...


class Writer(Reader, Protocol):
    """One atomic change. Leaving the block commits it; an exception undoes all of it."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> bool:
        """Whether the key was there."""
        ...


class Store(Protocol):
    """The memory of a node, shared by its engines."""

    @property
    def incarnation(self) -> str:
        """Random identity of this store; `renew_incarnation` changes it for all engines at once."""
        ...

    @property
    def run(self) -> int:
        """Grows when the first engine of a node starts: what was in flight before is unknown."""
        ...

    @property
    def slot(self) -> int:
        """This engine's ID: a file locked for the engine's life, unique inside the node."""
        ...

    @property
    def boot_changed(self) -> bool:
        """Whether this run found a store that another boot of the machine had written (R7)."""
        ...

    def read(self) -> AbstractContextManager[Reader]: ...

    def write(
        self, *, urgent: bool = False, shrinking: bool = False
    ) -> AbstractContextManager[Writer]:
        """A write transaction. `urgent` (promises, views, content that moves) may use the reserve.
        `shrinking` only deletes, or puts rows in the place of rows as large: it is refused when
        there is no page left, and not for the space in use.

        Raises:
            StoreFull: nothing was changed.
        """
        ...

    def renew_incarnation(self) -> str: ...

    def try_lead(self) -> bool:
        """Take, or confirm, the leadership of the node: one engine at a time."""
        ...

    def living_slots(self) -> set[int]:
        """Slots whose engines live, this one's included."""
        ...

    def usage(self) -> Usage: ...

    def check(self) -> None:
        """Ask again how much may be held, and whether the files are still there (with every
        sweep, and after an engine's death)."""
        ...

    def close(self) -> None: ...
