"""Microseconds of a read and of a write of one kilobyte in the store, beside bare py-lmdb."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from benchmarks import figures
from benchmarks.processes import Processes, pin
from sessionha.store.base import Store
from sessionha.store.lmdb import LMDBStore
from sessionha.store.memory import MemoryStore

ROWS = 10_000
"""Sessions in the store: three levels of LMDB's tree, as on a busy node."""

TIMES = 20_000
"""Reads, or writes, of one run: 20 to 200 ms, long beside a timer's tick."""

VALUE = b"v" * 1024
RAW = "py-lmdb"
MAP_BYTES = 256 * 2**20


class Subject(NamedTuple):
    """One store: how a single row is read and written, each in a transaction of its own."""

    read: Callable[[bytes], bytes | None]
    write: Callable[[bytes, bytes], None]


Opener = Callable[[Path], AbstractContextManager[Subject]]


@contextmanager
def raw(directory: Path) -> Iterator[Subject]:
    """py-lmdb with the store's durability and nothing around it."""
    environment = lmdb.open(
        str(directory), map_size=MAP_BYTES, sync=False, metasync=False, writemap=True
    )

    def read(key: bytes) -> bytes | None:
        with environment.begin() as transaction:
            found: bytes | None = transaction.get(key)
            return found

    def write(key: bytes, value: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key, value)

    with closing(environment):
        yield Subject(read, write)


def through(store: Store) -> Subject:
    """A store behind the interface that the managers use."""

    def read(key: bytes) -> bytes | None:
        with store.read() as reader:
            return reader.get(key)

    def write(key: bytes, value: bytes) -> None:
        with store.write() as writer:
            writer.put(key, value)

    return Subject(read, write)


@contextmanager
def shared(directory: Path) -> Iterator[Subject]:
    """The store that production uses."""
    with closing(LMDBStore(directory, size=MAP_BYTES).open()) as store:
        yield through(store)


@contextmanager
def private(_: Path) -> Iterator[Subject]:
    """The store of one process, for tests and development."""
    with closing(MemoryStore(size=MAP_BYTES).open()) as store:
        yield through(store)


OPENERS: dict[str, Opener] = {RAW: raw, "LMDB store": shared, "memory store": private}
"""In the order of the table; every other is compared with the first."""

Found = dict[str, dict[str, list[float]]]
"""By store, then `read` or `write`: microseconds, one for each round."""


def measure(rounds: int) -> Found:
    """Fill every store, then let them take turns."""
    names = list(OPENERS)
    found: Found = {name: {"read": [], "write": []} for name in names}
    keys = _keys()
    with Processes() as processes, ExitStack() as stack:
        pin(0, processes.cores.server)
        subjects = {}
        for name in names:
            directory = processes.memory / name.replace(" ", "-")
            directory.mkdir(mode=0o700)
            subjects[name] = stack.enter_context(OPENERS[name](directory))
            for key in keys:
                subjects[name].write(key, VALUE)
        for number in range(rounds):
            start = number % len(names)
            for name in names[start:] + names[:start]:
                _one(subjects[name], found[name], keys)
    return found


def _one(subject: Subject, found: dict[str, list[float]], keys: list[bytes]) -> None:
    chosen = random.Random(1).choices(keys, k=TIMES)
    read, write = subject
    assert read(chosen[0]) == VALUE
    started = time.perf_counter()
    for key in chosen:
        read(key)
    found["read"].append((time.perf_counter() - started) / TIMES * 1e6)
    started = time.perf_counter()
    for key in chosen:
        write(key, VALUE)
    found["write"].append((time.perf_counter() - started) / TIMES * 1e6)


def _keys() -> list[bytes]:
    """Twenty-eight random bytes each, as long as a group and a session."""
    chance = random.Random(0)
    return [chance.randbytes(28) for _ in range(ROWS)]


def report(found: Found) -> dict[str, Any]:
    """The JSON: times of bare py-lmdb, then microseconds."""
    return {
        "ratios": {
            name: {kind: figures.significant(_over(found, name, kind)) for kind in kinds}
            for name, kinds in found.items()
        },
        "us": {
            name: {kind: figures.spread(values).rounded() for kind, values in kinds.items()}
            for name, kinds in found.items()
        },
        "rows": ROWS,
        "value_bytes": len(VALUE),
        "machine": figures.machine(),
    }


def text(found: Found) -> str:
    """The table."""
    header = ["us", "read", "of py-lmdb", "write", "of py-lmdb"]
    rows = [
        [
            name,
            *(
                cell
                for kind, values in kinds.items()
                for cell in (
                    str(figures.spread(values)),
                    figures.short(_over(found, name, kind)),
                )
            ),
        ]
        for name, kinds in found.items()
    ]
    return figures.table(header, rows)


def _over(found: Found, name: str, kind: str) -> float:
    pairs = zip(found[name][kind], found[RAW][kind], strict=True)
    return figures.spread(mine / its for mine, its in pairs).median


def main(rounds: int, *, quiet: bool, save: bool) -> int:
    """Measure and print."""
    found = measure(rounds)
    figures.publish("store", report(found), text(found), quiet=quiet, save=save)
    return 0
