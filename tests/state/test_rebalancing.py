"""Copies spread evenly after a node joined: which move, when, and how."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.identity import GroupID
from sessionha.peer.messages import Batch, SessionChange
from sessionha.state.node import Options
from sessionha.state.rebalancing import LATELY, Shares
from sessionha.state.records import groups
from sessionha.store.memory import MemoryReader
from tests.simulation.scenes import KEY, LIFETIMES, Scene, simulated

UNUSED = LATELY / 1000 + 60
"""Seconds after which a group is idle, and every node has looked again."""


async def create(scene: Scene, node: str, count: int) -> list[GroupID]:
    made = []
    for _ in range(count):
        group = scene.world.random.randbytes(12)
        change = SessionChange(KEY, create=LIFETIMES, puts=(("a", "value", b"1"),))
        await scene.at(node).commit(Batch(group, (change,)), fresh=True)
        made.append(group)
    return made


def held(scene: Scene) -> dict[str, int]:
    """Copies on each living node."""
    found = {}
    for host in scene.world.living:
        with MemoryReader(host.memory) as reader:
            found[host.name] = sum(record.held for _, record in groups(reader))
    return found


def holders(scene: Scene, group: GroupID) -> set[str]:
    return {host.name for host in scene.world.living if (r := host.record(group)) and r.held}


async def look(scene: Scene, seconds: float, *nodes: str) -> int:
    """What upkeep does on these nodes, or all, for a while; how many copies were moved."""
    moved = 0
    for _ in range(int(seconds)):
        for name in nodes or [host.name for host in scene.world.living]:
            engine = scene.world.hosts[name].engines[0]
            if not await engine.upkeep.repair():
                moved += await engine.state.rebalancer.look()
        await asyncio.sleep(1)
    return moved


async def begin(scene: Scene, count: int, *later: str) -> list[GroupID]:
    """Groups of n1 and n2, before these nodes join."""
    await scene.crash(*later)
    return [*await create(scene, "n1", count // 2), *await create(scene, "n2", count // 2)]


def ratio(scene: Scene) -> float:
    found = held(scene)
    return max(found.values()) / min(found.values())


@simulated(nodes=5, options=Options(backups=1))
async def test_copies_are_even_after_a_third_a_fourth_and_a_fifth_node(scene: Scene) -> None:
    """The fullest node holds at most 1.2 times what the emptiest does; every group has its copies,
    and those that left are given up."""
    made = await begin(scene, 120, "n3", "n4", "n5")
    for name in ("n3", "n4", "n5"):
        await scene.restart(name, kept=False)
        await look(scene, 2 * UNUSED)
        assert ratio(scene) <= 1.2, held(scene)
        assert sum(held(scene).values()) == 2 * len(made)
        made += await create(scene, name, 60)
    assert scene.at("n3").node.counters.moved > 0


@simulated(nodes=5, options=Options(backups=2))
async def test_two_backups_are_spread_as_well(scene: Scene) -> None:
    made = await begin(scene, 120, "n4", "n5")
    for name in ("n4", "n5"):
        await scene.restart(name, kept=False)
        await look(scene, 2 * UNUSED)
        assert ratio(scene) <= 1.2, held(scene)
        assert all(len(holders(scene, group)) == 3 for group in made)


@simulated(options=Options(backups=1))
async def test_a_moved_copy_is_current_and_serves(scene: Scene) -> None:
    """After a move the new holder is the recovery server."""
    made = await begin(scene, 24, "n3")
    await scene.restart("n3", kept=False)
    assert await look(scene, 2 * UNUSED) > 0
    await scene.crash("n1")
    led = [g for g in made if (r := scene.world.hosts["n3"].record(g)) and r.epoch.node == "n1"]
    assert led
    for group in led:
        assert await scene.at("n3").acquire(group, None) is not None
        loaded = scene.at("n3").load(group, KEY)
        assert loaded is not None
        assert loaded.elements == {"a": ("value", b"1")}


@simulated(options=Options(backups=1))
async def test_a_group_in_use_is_never_moved(scene: Scene) -> None:
    """Not while its sessions were used within two minutes; the others go."""
    made = await begin(scene, 20, "n3")
    used = made[:10]
    await scene.restart("n3", kept=False)
    for _ in range(10):
        for group in used:
            scene.at("n1").touch(group, KEY)
        await look(scene, 50)
    assert all(holders(scene, group) == {"n1", "n2"} for group in used)
    assert held(scene)["n3"] > 0


@simulated(nodes=4, options=Options(backups=1, heal_after=3_000))
async def test_nothing_is_moved_while_somebody_is_awaited(scene: Scene) -> None:
    """System 7: a delay runs, so copies stay where they are."""
    await begin(scene, 20, "n3", "n4")
    await scene.restart("n3", kept=False)
    assert await look(scene, 600) == 0
    await scene.restart("n4")
    assert await look(scene, 2 * UNUSED) > 0


@simulated(options=Options(backups=1))
async def test_nothing_is_moved_while_a_node_drains(scene: Scene) -> None:
    await begin(scene, 20, "n3")
    await scene.restart("n3", kept=False)
    scene.world._announce(scene.world.hosts["n2"].engines[0], "returning")
    await asyncio.sleep(1)
    assert await look(scene, 2 * UNUSED) == 0


@simulated(options=Options(backups=1, rebalance=2))
async def test_the_budget_is_kept(scene: Scene) -> None:
    """`rebalance` is what one node moves in a second."""
    await begin(scene, 60, "n3")
    await scene.restart("n3", kept=False)
    await asyncio.sleep(UNUSED)
    for _ in range(40):
        before = held(scene)["n3"]
        await look(scene, 1)
        assert held(scene)["n3"] - before <= 4, "two nodes, two each"
    assert held(scene)["n3"] > 10


@simulated(options=Options(backups=1, rebalance=0))
async def test_it_can_be_switched_off(scene: Scene) -> None:
    await begin(scene, 20, "n3")
    await scene.restart("n3", kept=False)
    assert await look(scene, 2 * UNUSED) == 0


@simulated(options=Options(backups=1))
async def test_a_new_holder_that_dies_in_the_middle_leaves_the_group_whole(scene: Scene) -> None:
    """The old copy is given up only when the new one is there."""
    made = await begin(scene, 20, "n3")
    await scene.restart("n3", kept=False)
    await asyncio.sleep(UNUSED)
    scene.catch_pushes("n3")
    looking = scene.start(look(scene, 20, "n1", "n2"))
    await asyncio.sleep(10)
    await scene.crash("n3")
    await looking
    assert all(holders(scene, group) == {"n1", "n2"} for group in made)


@pytest.mark.parametrize(
    ("held", "weights", "even"),
    [
        ({"a": 100, "b": 100, "c": 0}, {"a": 1, "b": 1, "c": 1}, False),
        ({"a": 100, "b": 96, "c": 104}, {"a": 1, "b": 1, "c": 1}, True),
        ({"a": 100, "b": 50}, {"a": 2, "b": 1}, True),
        ({"a": 10, "b": 10, "c": 2}, {"a": 1, "b": 1, "c": 0}, False),
        ({"a": 1, "b": 2, "c": 1}, {"a": 1, "b": 1, "c": 1}, True),
        ({"a": 0, "b": 0}, {"a": 1, "b": 1}, True),
    ],
)
def test_a_share_follows_the_weight(
    held: dict[str, int], weights: dict[str, int], *, even: bool
) -> None:
    """A spare should hold none; a copy more or less is even."""
    assert Shares(held, weights).even is even
