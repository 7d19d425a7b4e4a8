"""The engines of one node among each other: who serves, and who is about to.

A server replaces its workers while it runs: one after the other, or all at once, and sometimes the
last old one is done before the first new one has begun. The node must not end in between: others
would take its groups over. So an engine leaves only to a sibling that already answers peers, and
the last one waits for it, as long as the process table shows that there will be one.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from sessionha.store.base import Reader, Store, Writer

ROW: Final = b"\x00serving"

LOOK: Final = 0.025
"""Seconds between two looks at store and process table."""

PATIENCE: Final = 15.0
"""Seconds to wait for workers that live to serve: most applications are imported sooner."""

LIMIT: Final = 27.0
"""Seconds to wait in all: servers give a worker that ends 30."""


class Waits(NamedTuple):
    """Seconds to wait for another worker while none lives."""

    ended: float
    """While there are processes whose end the server has yet to notice."""
    none: float
    """While there are none: between the end of one and the start of the one in its place."""


BY_ITSELF: Final = Waits(12.0, 2.0)
"""Where this worker ends by itself. uvicorn looks every 0.5 s, and waits 5 s for the answer of a
worker that ends just then, of two in a row twice."""

TOLD: Final = Waits(0.6, 0.1)
"""Where all workers may have been told to end: mostly the server starts no others."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[int, dict[int, int]]).decode


class Serving:
    """One engine's entry among those of its node that answer peers."""

    def __init__(self, store: Store, pid: int) -> None:
        self._store = store
        self._pid = pid

    def begin(self) -> None:
        """This engine answers peers."""
        with self._store.write(urgent=True) as writer:
            self._put(writer, self._pid)

    def leave(self) -> bool:
        """Stop counting as one that answers if a living sibling does. False: this is the last one,
        and nothing was changed. Of several that leave at once exactly one is."""
        with self._store.write(urgent=True) as writer:
            living = self._store.living_slots() - {self._store.slot}
            entries = self._entries(writer)
            # A slot may be another engine's by now, which has yet to begin.
            others = any(_lives(entries[slot]) for slot in living & entries.keys())
            if others:
                self._put(writer, -self._pid)
        return others

    @property
    def ending(self) -> frozenset[int]:
        """The processes that left to a sibling, and may live still."""
        with self._store.read() as reader:
            return frozenset(-pid for pid in self._entries(reader).values() if pid < 0)

    @property
    def had_siblings(self) -> bool:
        """Whether the node has had another engine since it started."""
        with self._store.read() as reader:
            return len(self._entries(reader)) > 1

    def _put(self, writer: Writer, pid: int) -> None:
        entries = self._entries(writer) | {self._store.slot: pid}
        writer.put(ROW, _encode((self._store.run, entries)))

    def _entries(self, reader: Reader) -> dict[int, int]:
        """The process that serves in each slot, or did when it was killed; of one that left to a
        sibling, the negative."""
        raw = reader.get(ROW)
        run, entries = (self._store.run, {}) if raw is None else _decode(raw)
        return entries if run == self._store.run else {}


class Workers(NamedTuple):
    """Other workers of the server that started this process."""

    alive: int
    ended: int
    """Not yet noticed by the server, which may replace them."""


class Server:
    """The process that started this one and others like it, as /proc shows it.

    A worker is like another when it has the same command line, environment and process group. So
    neither a shell nor a supervisor that starts several nodes is taken for a server.
    """

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._me = os.getpid()
        self._mark = _mark(self._me)

    def others(self, ending: Collection[int] = ()) -> Workers:
        """The workers beside this process; none when the server has died. `ending`: processes that
        are about to end, and do not count as alive."""
        alive = ended = 0
        if self._mark is not None and os.getppid() == self._parent:
            for pid in _children(self._parent):
                if pid == self._me:
                    continue
                state, group = _state(pid)
                if group != os.getpgrp():
                    continue
                if state in "ZX":
                    ended += 1
                elif pid not in ending and _mark(pid) == self._mark:
                    alive += 1
        return Workers(alive, ended)


def _lives(pid: int) -> bool:
    return pid > 0 and _state(pid)[0] not in "ZX"


def told_to_end() -> bool | None:
    """Whether this process was told to end, as its server says; None: all but uvicorn keep it to
    themselves."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    told = getattr(owner, "should_exit", None)
    return told if isinstance(told, bool) else None


def _children(pid: int) -> Iterator[int]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield from map(int, path.read_text().split())
        except OSError:
            continue


def _state(pid: int) -> tuple[str, int]:
    """State and process group; an ended process that is gone meanwhile has none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "X", -1
    state, _, group = text.rpartition(")")[2].split()[:3]
    return state, int(group)


def _mark(pid: int) -> tuple[bytes, bytes] | None:
    """What makes a process a worker of the same kind; None where it cannot be read."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    if multiprocessing.parent_process() is not None:
        command = re.sub(rb"=\d+", b"=", command)  # the descriptors of its pipes
    return command, environment


class Vigil:
    """How long the last engine of a node waits for a sibling. Times in seconds, of any clock."""

    def __init__(self, now: float, *, told: bool) -> None:
        """`told`: this process was told to end, perhaps with all others."""
        self._began = now
        self._waits = TOLD if told else BY_ITSELF
        self._appeared: float | None = None
        """Since when there are workers that may become siblings."""
        self._seen = now
        """When there were last any."""
        self._noticed = now
        """When there was last any other process of the server."""

    def goes_on(self, now: float, workers: Workers) -> bool:
        """Whether to wait on, after this look at the server's other workers."""
        if now - self._began >= LIMIT:
            return False
        if workers.alive:
            self._seen = self._noticed = now
            if self._appeared is None:
                self._appeared = now
            return now - self._appeared < PATIENCE
        self._appeared = None
        if workers.ended:
            self._noticed = now
            return now - self._seen < self._waits.ended
        return now - self._noticed < self._waits.none
