"""Random histories: browsers at work while a cluster suffers, then quiet, then everything checked.

In the first phase nothing acknowledged may be lost and nothing destroyed may return; in the second
one faults end, and everything must be served again by every node, with all its copies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from sessionha.state.node import Options
from tests.simulation.clients import Jar, Violation, browse, request
from tests.simulation.world import Faults, Host, World

CALM_STEPS = 600
"""Hundredths of a second in which every browser must be answered again between two disasters."""


@dataclass(frozen=True)
class Plan:
    """What kind of world a seed is tried in."""

    nodes: int = 3
    backups: int = 1
    engines: int = 1
    kept: float = 0.5
    """How often a crashed node comes back with its store."""
    troubles: str = "crash"
    """Words out of `crash`, `pause`, `expel`, `cut`, `engine`, `restart`, joined by `+`."""
    clients: int = 5
    width: int = 1
    """Requests that one browser runs at the same time."""
    requests: int = 50
    lossy: float = 0.0
    """How many responses are lost on their way to the browser."""
    upkeep: bool = False


EVERYTHING = "crash+pause+expel+cut+engine+restart"


async def history(
    seed: int, plan: Plan, begun: Callable[[World], object] = lambda _: None
) -> World:
    """One seed's life. Raises Violation, or what an engine should never have raised.

    `begun` gets the world at once, so that also a world that failed can be counted.
    """
    options = Options(backups=plan.backups, heal_after=0.5)
    world = World(
        seed,
        nodes=plan.nodes,
        engines=plan.engines,
        options=options,
        faults=Faults(loss=0.01, duplicate=0.02, slow=0.005),
        upkeep=plan.upkeep,
    )
    begun(world)
    world.strict = "pause" not in plan.troubles and "expel" not in plan.troubles
    jars = [Jar(f"c{index}") for index in range(plan.clients)]
    sticky = world.random.choice((0.0, 0.5, 0.95))
    suffering = asyncio.create_task(_suffer(world, jars, plan))
    try:
        async with asyncio.TaskGroup() as group:
            for jar in jars:
                for _ in range(plan.width):
                    group.create_task(
                        browse(world, jar, plan.requests // plan.width, sticky, plan.lossy)
                    )
        suffering.cancel()
        for host in world.living:
            world.resume(host.name)
        for host in world.hosts.values():
            if not host.up:
                world.restart(host.name, kept=True)
        await quiet(world, jars, plan)
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    finally:
        suffering.cancel()
        world.operations = sum(jar.requests for jar in jars)
        world.stop()
    if world.errors:
        raise world.errors[0]
    return world


# --- what happens to it --------------------------------------------------------------------------


async def _suffer(world: World, jars: list[Jar], plan: Plan) -> None:
    """One disaster after the other; the next one only when every session was written again."""
    kinds = plan.troubles.split("+")
    while True:
        await asyncio.sleep(world.random.uniform(0.1, 0.5))
        match world.random.choice(kinds):
            case "crash":
                await _crash(world, plan)
            case "pause":
                await _pause(world)
            case "expel":
                world.expel(world.random.choice(world.living).name)
                await asyncio.sleep(0.1)
            case "cut":
                await _cut(world)
            case "engine":
                await _lose_engine(world)
            case _:
                await _restart_all(world)
        await asyncio.sleep(0.05)  # every member holds the view with the returned nodes
        if not await _calm(jars, plan):
            return


async def _calm(jars: list[Jar], plan: Plan) -> bool:
    """Wait until every browser has had a change confirmed with all its copies (G1: only then
    another crash is not simultaneous). False: a browser is done, so nothing may happen any more."""
    before = {jar.name: jar.acknowledged for jar in jars}
    for _ in range(CALM_STEPS):
        if all(
            jar.acknowledged > before[jar.name]
            and jar.book is not None
            and jar.book.copies >= plan.backups
            for jar in jars
        ):
            return True
        await asyncio.sleep(0.01)
    return False


async def _crash(world: World, plan: Plan) -> None:
    """As many nodes at once as there are copies besides the primary's."""
    count = world.random.randint(1, min(plan.backups, plan.nodes - 1))
    names = [host.name for host in world.random.sample(world.living, count)]
    for name in names:
        world.crash(name)
    for name in names:
        await asyncio.sleep(world.random.uniform(0.0, 0.6))
        world.restart(name, kept=world.random.random() < plan.kept)


async def _pause(world: World) -> None:
    """A pause of any length: the others may or may not exclude the node meanwhile."""
    name = world.random.choice(world.living).name
    world.pause(name)
    await asyncio.sleep(world.random.uniform(0.0, 0.3))
    if world.random.random() < 0.6:
        world.expel(name)
        await asyncio.sleep(world.random.uniform(0.0, 0.5))
    world.resume(name)
    await asyncio.sleep(0.05)


async def _cut(world: World) -> None:
    """One direction between two nodes, for less time than would change the view."""
    one, other = world.random.sample([host.name for host in world.living], 2)
    world.troubles += 1
    world.trace(f"cut {one}->{other}")
    world.cut.add((one, other))
    await asyncio.sleep(world.random.uniform(0.0, 1.0))
    world.cut.clear()


async def _lose_engine(world: World) -> None:
    host: Host = world.random.choice(world.living)
    if len(host.engines) > 1:
        world.kill_engine(world.random.choice(host.engines))
        await asyncio.sleep(world.random.uniform(0.0, 0.3))
        world.start_engine(host.name)


async def _restart_all(world: World) -> None:
    """Every node is killed and comes back with its store, in any order (R7, R13)."""
    names = [host.name for host in world.living]
    for name in names:
        world.crash(name)
        await asyncio.sleep(world.random.choice((0.0, 0.0, 0.02)))
    world.random.shuffle(names)
    for name in names:
        await asyncio.sleep(world.random.uniform(0.0, 0.2))
        world.restart(name, kept=True)


# --- and when it is over -------------------------------------------------------------------------


async def quiet(world: World, jars: list[Jar], plan: Plan) -> None:
    """When faults stop every session is served again, by every node, with all its copies (G12)."""
    world.faults = Faults()
    world.cut.clear()
    await asyncio.sleep(0.5)
    for jar in jars:
        for host in world.living:
            await _served(world, jar, host)
        _check_copies(world, jar, plan)
    if sum(jar.acknowledged for jar in jars) < plan.clients * 3:
        raise Violation("hardly anything was answered")


async def _served(world: World, jar: Jar, host: Host) -> None:
    for _ in range(20):
        if await request(world, jar, host.name, "add") in ("ok", "gone"):
            return
        await asyncio.sleep(0.2)
    raise Violation(f"{jar.name} is not served by {host.name} after faults stopped")


def _check_copies(world: World, jar: Jar, plan: Plan) -> None:
    """I11: all of C are equal, and there are as many as there should be."""
    if jar.book is None:
        return
    group = jar.book.group
    records = {host.name: host.record(group) for host in world.living}
    newest = max(record.position for record in records.values() if record is not None)
    held = [
        name
        for name, record in records.items()
        if record is not None and record.held and record.position == newest
    ]
    wanted = min(plan.backups, len(world.living) - 1) + 1
    if len(held) < wanted:
        raise Violation(f"{jar.name}: only {held} have {newest}")
    contents = [world.hosts[name].content(group) for name in held]
    if any(content != contents[0] for content in contents):
        raise Violation(f"{jar.name}: copies of {newest} differ on {held}")
