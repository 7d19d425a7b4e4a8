"""What named scenarios are told with: a world without chance, and requests in one line."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from sessionha.identity import Position
from sessionha.peer.messages import (
    Batch,
    Create,
    Message,
    Push,
    Pushes,
    SessionChange,
    Walk,
)
from sessionha.state.base import Receipt, Unsettled
from sessionha.state.manager import StateManager
from sessionha.state.node import Options
from tests.simulation.clients import check_receipt
from tests.simulation.histories import Plan, agreed
from tests.simulation.loop import run
from tests.simulation.world import Faults, Views, World

LIFETIMES = Create(idle_timeout=1_800_000, lifetime=43_200_000)
GROUP = b"\x0b" * 12
"""Its first backup is n2, its second n3: the hash of these names says so."""

KEY = b"\x01" * 16


@dataclass
class Scene:
    """One group in one world, with the last cookie that a browser got."""

    world: World
    cookie: Position | None = None

    def at(self, node: str, engine: int = 0) -> StateManager:
        return self.world.hosts[node].engines[engine].state

    async def create(self, node: str = "n1", **values: str) -> Receipt:
        """A browser's first request."""
        change = SessionChange(KEY, create=LIFETIMES, puts=_puts(values))
        return await self._commit(node, change, fresh=True)

    async def put(self, node: str, engine: int = 0, **values: str) -> Receipt:
        """A request that acquires the group where it arrives, and changes elements."""
        await self.see(node, engine)
        return await self._commit(node, SessionChange(KEY, puts=_puts(values)), engine=engine)

    async def write(self, node: str, engine: int = 0, **values: str) -> Receipt:
        """Only the end of a request: its commit."""
        return await self._commit(node, SessionChange(KEY, puts=_puts(values)), engine=engine)

    async def delete(self, node: str, *names: str) -> Receipt:
        await self.see(node)
        return await self._commit(node, SessionChange(KEY, deletes=names))

    async def log_out(self, node: str) -> Receipt:
        await self.see(node)
        return await self._commit(node, SessionChange(KEY, destroy=True))

    async def _commit(
        self, node: str, change: SessionChange, *, fresh: bool = False, engine: int = 0
    ) -> Receipt:
        began = self.world.now
        receipt = await self.at(node, engine).commit(Batch(GROUP, (change,)), fresh=fresh)
        check_receipt(self.world, GROUP, receipt, began)
        self.cookie = receipt.position
        return receipt

    async def see(
        self, node: str, engine: int = 0, *, floor: Position | None = None
    ) -> dict[str, str] | None:
        """The session as a request with the browser's cookie, or with `floor`, sees it."""
        state = self.at(node, engine)
        floor = floor or self.cookie
        while True:
            held = state.held(GROUP, floor)
            if held is None and await state.acquire(GROUP, floor) is None:
                return None
            try:
                loaded = state.load(GROUP, KEY)
            except Unsettled:
                continue
            if loaded is None:
                return None
            return {name: value.decode() for name, (_, value) in loaded.elements.items()}

    def start(self, work: Awaitable[object]) -> asyncio.Future[object]:
        """Let a request run beside the scenario."""
        return asyncio.ensure_future(work)

    async def gone_from_view(self, *nodes: str) -> None:
        """Wait until every living member holds a view without these nodes."""
        await self._until(lambda: not any(self.world.truth.member(name) for name in nodes))

    async def exclude(self, node: str) -> None:
        """A member stands still until the others have a view without it."""
        self.world.pause(node)
        self.world.expel(node)
        await self.gone_from_view(node)

    async def leave_an_old_copy(self) -> None:
        """n2 has what n1 created, and is alone; what was written later is with n1 and n3, dead."""
        await self.create("n1", a="1")
        await self.exclude("n2")
        await self.put("n1", a="2")
        self.world.crash("n1")
        self.world.crash("n3")
        self.world.resume("n2")
        await self.gone_from_view("n1", "n3")

    async def members(self, *nodes: str) -> None:
        """Wait until these nodes are members and know it."""
        await self._until(
            lambda: all(self.world.hosts[name].membership.is_member() for name in nodes)
        )

    async def _until(self, fulfilled: Callable[[], bool]) -> None:
        for _ in range(2_000):
            if fulfilled() and self._all_know():
                return
            await asyncio.sleep(0.005)
        raise AssertionError("never fulfilled")

    def _all_know(self) -> bool:
        truth = self.world.truth
        return all(
            host.paused is not None or host.membership.current.id == truth.id
            for host in self.world.living
        )

    async def crash(self, *nodes: str) -> None:
        """kill -9, and the others agree on it."""
        for node in nodes:
            self.world.crash(node)
        await self.gone_from_view(*nodes)

    async def restart(self, *nodes: str, kept: bool = True) -> None:
        for node in nodes:
            self.world.restart(node, kept=kept)
        await self.members(*nodes)

    def copies(self) -> dict[str, int]:
        """The version of every copy on a living node."""
        found = {}
        for host in self.world.living:
            record = host.record(GROUP)
            if record is not None and record.held:
                found[host.name] = record.version
        return found

    def lose(self, kind: type[Message], source: str, target: str, times: int = 10**9) -> None:
        """The network loses the next messages of this kind from one node to another."""
        left = times

        def loses(sender: str, receiver: str, message: Message) -> bool:
            nonlocal left
            if (sender, receiver) != (source, target) or not isinstance(message, kind) or not left:
                return False
            left -= 1
            return True

        self.world.held_back = loses

    def overhear_pushes(self, target: str) -> list[Push]:
        """Let the scenario have what is pushed to a node, which gets it all the same."""
        heard: list[Push] = []

        def hears(sender: str, receiver: str, message: Message) -> bool:
            del sender
            if receiver == target:
                heard.extend(pushes_in(message))
            return False

        self.world.held_back = hears
        return heard

    def catch_pushes(self, target: str) -> list[Push]:
        """Keep what is pushed to a node from it, and let the scenario have it."""
        caught: list[Push] = []

        def catches(sender: str, receiver: str, message: Message) -> bool:
            if receiver != target or not isinstance(message, Push):
                return False
            caught.append(message)
            return True

        self.world.held_back = catches
        return caught


def pushes_in(message: Message) -> tuple[Push, ...]:
    """The pushes that a message brings: of a commit, a step of many groups, or a walk."""
    if isinstance(message, Push):
        return (message,)
    return message.pushes if isinstance(message, Pushes | Walk) else ()


def _puts(values: dict[str, str]) -> tuple[tuple[str, str, bytes], ...]:
    return tuple((name, "value", value.encode()) for name, value in values.items())


def simulated(
    nodes: int = 3,
    engines: int = 1,
    options: Options | None = None,
    size: int = 1 << 28,
    *,
    views: Views = "oracle",
    upkeep: bool = False,
) -> Callable[[Callable[[Scene], Awaitable[None]]], Callable[[], None]]:
    """Make a test of a scenario: it runs in virtual time, in a world where chance is off."""

    def make(scenario: Callable[[Scene], Awaitable[None]]) -> Callable[[], None]:
        async def play() -> None:
            world = World(
                1, nodes, engines=engines, faults=Faults(), options=options, size=size,
                views=views, upkeep=upkeep,
            )  # fmt: skip
            try:
                if views != "oracle":
                    await agreed(world)
                await scenario(Scene(world))
            finally:
                world.stop()
            assert not world.errors

        def test() -> None:
            run(play())

        test.__name__, test.__doc__ = scenario.__name__, scenario.__doc__
        return test

    return make


def digest(world: World) -> str:
    """What two equal worlds have in common."""
    return hashlib.sha256("\n".join(world.lines).encode()).hexdigest()


def trace_under(hashes: int, seed: int, plan: Plan) -> str:
    """The digest of a world in a Python of its own, with this PYTHONHASHSEED."""
    program = (
        "from tests.simulation.histories import Plan, play\n"
        "from tests.simulation.scenes import digest\n"
        f"print(digest(play({seed}, {plan!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": str(hashes)},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()
