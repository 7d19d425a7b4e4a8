"""Log out everywhere in random worlds: nodes crash, stand still, are excluded and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from sessionha.errors import SessionHAError
from sessionha.identity import ViewID
from sessionha.peer.messages import Batch, Create, Owner, SessionChange
from sessionha.state.base import LoggedOut, Unsettled
from sessionha.state.manager import StateManager
from sessionha.state.owners import SKEW
from tests.simulation.loop import run
from tests.simulation.world import Engine, Faults, World

USER = "user:42"
LONG = Create(idle_timeout=3_600_000, lifetime=0)
SECONDS = 40.0
"""Virtual: about ten log-outs, and as many crashes and exclusions."""

PATIENCE = 6.0
"""Seconds after which a client hangs up."""

DOUBT = SKEW / 1000
LOST = 10.0
"""Seconds in which a log-out whose maker died may still reach somebody for the first time."""


@dataclass(eq=False)
class Device:
    group: bytes
    owner: Owner
    began: float
    """When its log-in was sent."""
    node: str
    done: float = 0.0
    """When it was answered."""


@dataclass(eq=False)
class LogOut:
    began: float
    done: float | None = None
    unreachable: tuple[str, ...] = ()
    view: ViewID = field(default_factory=lambda: ViewID(0, ""))


@dataclass(eq=False)
class Life:
    """What happened, and what must not have."""

    world: World
    devices: list[Device] = field(default_factory=list)
    log_outs: list[LogOut] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    served: int = 0
    refused: int = 0

    async def ask(self, work: Callable[[StateManager], Awaitable[Any]]) -> tuple[str, Any]:
        """Do something at a random node as a request does: where it was, and what came of it."""
        world = self.world
        host = world.random.choice(world.living)
        engine: Engine = world.random.choice(host.engines)

        async def serve() -> Any:
            await host.running()
            done = await work(engine.state)
            await host.running()
            return done

        task = asyncio.ensure_future(serve())
        engine.tasks[task] = None
        task.add_done_callback(lambda done: engine.tasks.pop(done, None))
        await asyncio.wait({task}, timeout=PATIENCE)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled() or not engine.alive:
            return host.name, None
        with suppress(SessionHAError):
            return host.name, task.result()
        return host.name, None

    async def log_in(self) -> None:
        chance = self.world.random
        owner = Owner(USER, "shop", chance.randbytes(12))
        group = chance.randbytes(12)
        began = self.world.now
        change = SessionChange(
            group + b"    ", create=LONG, puts=(("a", "value", b"1"),), owner=owner
        )
        batch = Batch(group, (change,))
        node, receipt = await self.ask(lambda state: state.commit(batch, fresh=True))
        if receipt is not None:
            self.devices.append(Device(group, owner, began, node, self.world.now))

    async def log_out(self) -> None:
        made = LogOut(self.world.now)
        self.log_outs.append(made)
        name = self.world.random.randbytes(8)
        _, done = await self.ask(lambda state: state.revoke(USER, name))
        if isinstance(done, LoggedOut):
            made.done, made.unreachable = self.world.now, done.unreachable
            made.view = self.world.truth.id

    async def visit(self) -> None:
        if not self.devices:
            return
        device = self.world.random.choice(self.devices[-12:])
        began, view = self.world.now, [ViewID(0, "")]

        async def look(state: StateManager) -> bool:
            while True:
                with suppress(Unsettled):
                    loaded = state.load(device.group, device.group + b"    ")
                    view[0] = state.node.membership.view().id
                    return loaded is not None
                if await state.acquire(device.group, None) is None:
                    return False

        node, found = await self.ask(look)
        if found is True:
            self.served += 1
            for made in self.log_outs:
                if self._must_know(made, began, node, view[0]) and device.done < made.began:
                    self.wrong.append(f"{node} served at {began:.2f} what ended at {made.done:.2f}")
        elif found is False:
            self.refused += 1
            if not any(self._may_mean(made, device) for made in self.log_outs):
                self.wrong.append(f"{node} refused who logged in at {device.began:.2f}")

    def _must_know(self, made: LogOut, began: float, node: str, view: ViewID) -> bool:
        """Whether a request that began then may not be served at that node against a log-out."""
        if made.done is None or began < made.done:
            return False
        return node not in made.unreachable or view > made.view

    @staticmethod
    def _may_mean(made: LogOut, device: Device) -> bool:
        """Whether a log-out may end this device's session."""
        if made.done is None:
            return device.began <= made.began + LOST
        doubt = DOUBT + 1 if device.node in made.unreachable else 0.0
        return device.began <= made.done + doubt

    async def repeat(self, work: Callable[[], Awaitable[None]], pause: float) -> None:
        while True:
            await asyncio.sleep(self.world.random.uniform(0, 2 * pause))
            await work()

    async def trouble(self) -> None:
        """One node at a time is away, so that somebody always knows what was decided."""
        world, chance = self.world, self.world.random
        name = chance.choice(sorted(world.hosts))
        match chance.choice(["crash", "crash", "pause", "exclude"]):
            case "crash":
                world.crash(name)
                await asyncio.sleep(chance.uniform(0.05, 4))
                world.restart(name, kept=True)
            case "pause":
                world.pause(name)
                await asyncio.sleep(chance.uniform(0.05, 1))
                world.resume(name)
            case _:
                world.pause(name)
                world.expel(name)
                await asyncio.sleep(chance.uniform(0.1, 4))
                world.resume(name)
        await asyncio.sleep(1.0)

    async def keep_up(self) -> None:
        for host in self.world.living:
            for engine in host.engines:
                if host.paused is None and engine.state.node.store.try_lead():
                    engine.state.subjects.keep_up()


async def live(seed: int, engines: int) -> Life:
    world = World(seed, 3, engines=engines, faults=Faults(loss=0.01, slow=0.01, duplicate=0.02))
    life = Life(world)
    try:
        tasks = [
            asyncio.ensure_future(work)
            for work in (
                life.repeat(life.log_in, 0.4),
                life.repeat(life.log_out, 2.0),
                *(life.repeat(life.visit, 0.05) for _ in range(4)),
                life.repeat(life.trouble, 0.5),
                life.repeat(life.keep_up, 0.25),
            )
        ]
        await asyncio.sleep(SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        world.stop()
    assert not world.errors
    return life


SEEDS = (1, 2, 47, 73)
"""47: a log-in at a node that joined while the log-out was told. 73: a log-out by a node that did
not know of the last one."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_log_out_holds_and_a_log_in_after_it_too(seed: int) -> None:
    """Contract G6: whatever crashes, stands still or comes back: after the answer nobody is served
    a session that began before it, and who logs in after the answer stays logged in."""
    life = run(live(seed, engines=1 + seed % 2))
    assert life.wrong == []
    assert life.served > 50
    assert life.refused > 50
