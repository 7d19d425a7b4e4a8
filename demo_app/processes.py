"""Process groups of the demo: started, watched, killed; and free ports for them. Linux only."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).absolute().parent.parent
"""Where `python -m demo_app…` finds the package, also in the processes started here."""

POLL = 0.002
"""Seconds between two looks at a dying group: it fixes the moment of its death."""

DEATH = 10.0
"""Seconds until a killed group that still lives is an error: SIGKILL takes milliseconds."""


class Row(NamedTuple):
    """What /proc says of one process."""

    pid: int
    parent: int
    group: int
    alive: bool
    """A zombie has closed its files and sockets, once its last thread has ended: it does not
    count."""


class Group:
    """One process group, from its start to its death. The watchdog knows it all that time."""

    def __init__(self, process: subprocess.Popen[bytes], watchdog: Watchdog) -> None:
        self._process = process
        self._watchdog = watchdog
        self.pid = process.pid

    @property
    def running(self) -> bool:
        """Whether its first process has not ended."""
        return self._process.poll() is None

    async def kill(self) -> None:
        """SIGKILL every process of the group; return when all are dead.

        Raises:
            TimeoutError: one still lives after DEATH seconds.
        """
        victims = [row.pid for row in rows() if row.group == self.pid]
        if victims:  # else the number may be somebody else's by now
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        await self.ended(POLL)
        await dead(victims)
        self._watchdog.forget(self.pid)

    async def ended(self, poll: float = 0.1) -> None:
        """Wait until its first process has ended, by itself or killed."""
        while self.running:  # noqa: ASYNC110 (the kernel does not tell)
            await asyncio.sleep(poll)

    def workers(self) -> list[int]:
        """The process IDs of uvicorn's workers; empty when it serves in its first process."""
        return [
            row.pid
            for row in rows()
            if row.parent == self.pid and row.alive and _is_worker(row.pid)
        ]


class Watchdog:
    """A process that outlives this one just long enough to kill what this one started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls, directories: Sequence[Path]) -> Watchdog:
        """Start it; it removes the directories if this process cannot."""
        process = subprocess.Popen(
            [sys.executable, "-m", "demo_app.watchdog"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
        watchdog = cls(process)
        for directory in directories:
            watchdog._write(f"!{directory}")
        return watchdog

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> Group:
        """Start a command in a process group of its own; its output is added to the log."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._write(f"+{process.pid}")
        return Group(process, self)

    def forget(self, group: int) -> None:
        """The group is dead: its number may soon be somebody else's."""
        self._write(f"-{group}")

    async def stop(self) -> None:
        """End it; it kills what is left and removes the directories."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        while self._process.poll() is None:  # noqa: ASYNC110 (the kernel does not tell)
            await asyncio.sleep(POLL)

    def _write(self, line: str) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()


def rows() -> Iterator[Row]:
    """Every process of this machine that can be seen."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal() and (row := row_of(int(entry))) is not None:
            yield row


def row_of(pid: int) -> Row | None:
    """What /proc says of a process; None when it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, parent, group = text.rpartition(")")[2].split()[:3]
    return Row(pid, int(parent), int(group), state not in "ZX" or _threads(pid) > 1)


def _threads(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


async def dead(pids: Sequence[int]) -> None:
    """Wait until none of the processes lives. Raises TimeoutError after DEATH seconds."""
    async with asyncio.timeout(DEATH):
        while any(  # noqa: ASYNC110 (the kernel does not tell)
            (row := row_of(pid)) is not None and row.alive for pid in pids
        ):
            await asyncio.sleep(POLL)


def _is_worker(pid: int) -> bool:
    """Workers are spawned by `multiprocessing`, as its resource tracker is, which serves nobody."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"spawn_main" in command


class Ports:
    """Free loopback ports from `first` on.

    Below the range of outgoing connections, where a port that a killed server left would soon be
    taken by a client, and a client that connects to a dead server could meet itself.
    """

    def __init__(self, first: int) -> None:
        self._next = first

    def take(self) -> int:
        """The next port that nobody listens on."""
        while not _is_free(self._next):
            self._next += 1
        self._next += 1
        return self._next - 1


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def terminate(pid: int) -> None:
    """SIGKILL one process; nothing when it has gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
