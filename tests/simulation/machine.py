"""Simulated machines for the production clock: boots, an uptime that drifts, a wall clock that
steps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from unittest import mock

from sessionha.state.clock import NodeClock
from sessionha.store.base import Store

WALL = 1_800_000_000.0
"""Seconds: when every world begins by the wall clock."""


@dataclass
class Machine:
    """One node's machine. Times are seconds."""

    name: str
    boots: int = 1
    up_since: float = -86_400.0
    """When it booted, in the world's time."""
    rate: float = 1.0
    """How fast its uptime runs."""
    wall_off: float = 0.0
    """How wrong its wall clock is."""

    def reboot(self, now: float, random: Random) -> None:
        """Off for no time; the uptime begins anew and the wall clock may step a little."""
        self.boots += 1
        self.up_since = now - random.uniform(5, 60)
        self.wall_off += random.uniform(-0.2, 0.2)


class MachineClock(NodeClock):
    """The production clock of one engine on a simulated machine."""

    def __init__(self, store: Store, machine: Machine) -> None:
        self.machine = machine
        _present.machine = machine
        super().__init__(store)

    def begin(self) -> None:
        _present.machine = self.machine
        super().begin()

    def now(self) -> int:
        _present.machine = self.machine
        return super().now()

    def mark(self) -> None:
        _present.machine = self.machine
        super().mark()


class _Present:
    """Whose clock is being read."""

    machine = Machine("none")


_present = _Present()


class _Time:
    """Stands for the module `time`."""

    @staticmethod
    def time() -> float:
        now = asyncio.get_running_loop().time()
        return WALL + now + _present.machine.wall_off


def _boottime() -> int:
    machine = _present.machine
    now = asyncio.get_running_loop().time()
    return int((now - machine.up_since) * machine.rate * 1000)


def _boot_id() -> str:
    return f"boot {_present.machine.boots}"


@contextmanager
def machines() -> Iterator[None]:
    """Let the production clock read the simulated machines."""
    with (
        mock.patch("sessionha.state.clock.boottime", _boottime),
        mock.patch("sessionha.state.clock.boot_id", _boot_id),
        mock.patch("sessionha.state.clock.time", _Time),
    ):
        yield
