"""Random worlds: whatever fails, nothing acknowledged is lost and nothing destroyed returns."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.simulation.clients import Jar, browse, request
from tests.simulation.loop import run
from tests.simulation.world import Faults, World

SEEDS = [
    line.split("#")[0].split()
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line.split("#")[0].strip()
]


async def _history(
    seed: int, nodes: int, backups: int, engines: int, kept: float, clients: int = 6
) -> World:
    world = World(
        seed,
        nodes=nodes,
        backups=backups,
        engines=engines,
        faults=Faults(loss=0.01, duplicate=0.02, slow=0.005),
    )
    jars = [Jar(f"c{index}", b"") for index in range(clients)]
    sticky = world.random.choice((0.0, 0.5, 0.95))
    browsing = [asyncio.create_task(browse(world, jar, 60, sticky)) for jar in jars]
    crashing = asyncio.create_task(_crash_now_and_then(world, jars, kept))
    try:
        await asyncio.gather(*browsing)
    finally:
        crashing.cancel()
    await _quiet(world, jars)
    assert sum(jar.acknowledged for jar in jars) > 20
    return world


async def _crash_now_and_then(world: World, jars: list[Jar], kept: float) -> None:
    """One node at a time; the next only when every session has been written again."""
    while True:
        await asyncio.sleep(world.random.uniform(0.1, 0.5))
        name = world.random.choice([host.name for host in world.living])
        world.crash(name)
        await asyncio.sleep(world.random.uniform(0.0, 0.6))
        world.restart(name, kept=world.random.random() < kept)
        await asyncio.sleep(0.05)  # every member holds the view with the returned node
        before = {jar.name: jar.acknowledged for jar in jars}
        for _ in range(400):
            if all(jar.acknowledged > before[jar.name] for jar in jars):
                break
            await asyncio.sleep(0.01)
        else:
            return  # a browser is done: another crash could take both copies of what it wrote


async def _quiet(world: World, jars: list[Jar]) -> None:
    """When faults stop every session is served again, by every node (G12)."""
    world.faults = Faults()
    world.cut.clear()
    await asyncio.sleep(0.3)
    for jar in jars:
        for host in world.living:
            for _ in range(20):
                refused = jar.refused
                await request(world, jar, host.name, "append")
                if jar.refused == refused:
                    break
                await asyncio.sleep(0.2)
            else:
                raise AssertionError(
                    f"{jar.name} is not served by {host.name} after faults stopped"
                )


@pytest.mark.parametrize(("seed", "nodes", "backups", "engines", "kept"), SEEDS)
def test_a_world_that_failed_once_passes(
    seed: str, nodes: str, backups: str, engines: str, kept: str
) -> None:
    run(_history(int(seed), int(nodes), int(backups), int(engines), float(kept)))


@pytest.mark.parametrize("seed", range(12))
def test_crashes_lose_nothing_acknowledged(seed: int) -> None:
    """G1, G2, G4, G6 with one crash at a time."""
    run(_history(1000 + seed, 3, 1, engines=1 + seed % 2, kept=0.5))


def test_one_seed_is_one_world() -> None:
    """The same seed gives the same trace."""
    assert run(_history(7, 3, 1, 2, 0.5)).lines == run(_history(7, 3, 1, 2, 0.5)).lines
