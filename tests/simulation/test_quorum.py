"""State managers on views that a majority decides: nothing is served that is not current."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sessionha.errors import SessionUnavailable
from sessionha.state.node import Options
from tests.simulation.histories import Plan, agreed, play
from tests.simulation.loop import run
from tests.simulation.scenes import Scene
from tests.simulation.seeds import IN_QUORUM, swarm
from tests.simulation.world import Faults, World


def three(scenario: Callable[[Scene], Awaitable[None]], **also: Any) -> Callable[[], None]:
    """Three nodes that vote, without chance."""

    async def play_it() -> None:
        options = Options(quorum=True, member_timeout=0.3)
        faults = Faults()
        world = World(1, nodes=3, views="quorum", faults=faults, options=options, **also)
        try:
            await agreed(world)
            await scenario(Scene(world))
        finally:
            world.stop()

    def test() -> None:
        run(play_it())

    test.__doc__, test.__name__ = scenario.__doc__, scenario.__name__
    return test


async def left_out(scene: Scene, node: str) -> None:
    """Wait until the others have a view without the node."""
    others = [host for name, host in scene.world.hosts.items() if name != node]
    for _ in range(500):
        if all(host.view().member(node) is None for host in others):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it was never left out")


@three
async def test_a_primary_that_was_cut_off_serves_no_old_state(scene: Scene) -> None:
    """R9: when the others go on without it, its lease is over."""
    old = (await scene.create("n1", a="1")).position
    scene.world.split({"n1"})
    await left_out(scene, "n1")
    await scene.put("n2", a="2")
    with pytest.raises(SessionUnavailable):
        await scene.see("n1", floor=old)
    scene.world.join()
    await agreed(scene.world)
    assert await scene.see("n1", floor=old) == {"a": "2"}


@three
async def test_a_primary_that_stood_still_serves_no_old_state(scene: Scene) -> None:
    """R9: a lease runs on while its node does not, so there is nothing to check after a pause."""
    old = (await scene.create("n1", a="1")).position
    scene.world.pause("n1")
    await left_out(scene, "n1")
    await scene.put("n2", a="2")
    scene.world.resume("n1")
    assert await scene.see("n1", floor=old) == {"a": "2"}


@three
async def test_a_minority_says_so_in_time_and_a_majority_goes_on(scene: Scene) -> None:
    """G9: 503 within `member_timeout`, also for new sessions; nothing of the others is lost."""
    await scene.create("n1", a="1")
    scene.world.split({"n1"})
    await left_out(scene, "n1")
    loop = asyncio.get_running_loop()
    for asked in (scene.see("n1"), Scene(scene.world).create("n1", b="1")):
        since = loop.time()
        with pytest.raises(SessionUnavailable):
            await asked
        assert loop.time() - since < 0.4
    await scene.put("n3", a="2")
    scene.world.join()
    await agreed(scene.world)
    assert await scene.see("n1") == {"a": "2"}


@three
async def test_an_old_copy_waits_for_who_may_have_a_newer_one(scene: Scene) -> None:
    """R4a: also at or above the floor, for another client of the session may have seen more."""
    old = (await scene.create("n1", a="1")).position
    scene.world.split({"n1"})
    await left_out(scene, "n1")
    await scene.put("n2", a="2")
    await scene.put("n3", a="3")
    scene.world.join()
    await agreed(scene.world)
    holders = [node for node in ("n2", "n3") if scene.copies().get(node)]
    assert holders
    assert await scene.see("n1", floor=old) == {"a": "3"}


@three
async def test_a_primary_reaches_its_backup_by_one_hop(scene: Scene) -> None:
    """R1: a link that stays broken costs neither a member nor a copy, and no more than a moment."""
    receipt = await scene.create("n1", a="1")
    backup = receipt.holders[1]
    scene.world.broken |= {("n1", backup), (backup, "n1")}
    receipt = await scene.put("n1", a="2")
    assert receipt.holders == ("n1", backup)
    assert receipt.copies == 1
    assert scene.world.now < 2.0
    assert await scene.see(backup) == {"a": "2"}
    assert set(scene.world.hosts["n1"].view().nodes) == {"n1", "n2", "n3"}


@three
async def test_two_that_only_a_returning_node_reaches_admit_it(scene: Scene) -> None:
    """R1: it is no member and has no vote, and passes on what the two decide that have."""
    scene.world.crash("n2")
    await left_out(scene, "n2")
    scene.world.broken |= {("n1", "n3"), ("n3", "n1")}
    await asyncio.sleep(2)
    with pytest.raises(SessionUnavailable):
        await scene.create("n1", a="1")
    scene.world.restart("n2", kept=False)
    await agreed(scene.world)
    assert set(scene.world.hosts["n1"].view().nodes) == {"n1", "n2", "n3"}
    assert len((await scene.create("n1", a="1")).holders) == 2


@partial(three, witness="n3", upkeep=True)
async def test_of_a_pair_with_a_witness_either_goes_on(scene: Scene) -> None:
    """Contract, section 2: it has no data, is never in C, is asked for no copies, and its vote is
    enough for one of the pair that is cut off from the other; so it is when that one is dead."""
    await scene.create("n1", a="1")
    assert set(scene.copies()) == {"n1", "n2"}
    old = (await scene.put("n1", a="2")).position
    scene.world.split({"n1"})
    await left_out(scene, "n1")
    with pytest.raises(SessionUnavailable):
        await scene.see("n1", floor=old)
    assert (await scene.put("n2", a="3")).copies == 0
    scene.world.join()
    await agreed(scene.world)
    assert (await scene.put("n2", a="4")).copies == 1
    for dead, alive in (("n3", "n2"), ("n2", "n1")):
        scene.world.crash(dead)
        await left_out(scene, dead)
        await scene.put(alive, a=f"without {dead}")
        scene.world.restart(dead, kept=True)
        await agreed(scene.world)
        for node in ("n1", "n2"):
            assert await scene.see(node) == {"a": f"without {dead}"}
    assert set(scene.copies()) == {"n1", "n2"}
    await asyncio.sleep(2)
    before = len(scene.world.lines)
    await asyncio.sleep(3)
    assert not [line for line in scene.world.lines[before:] if " Push " in line], "nothing to heal"


@pytest.mark.parametrize("kind", IN_QUORUM)
def test_each_kind_of_trouble_alone(kind: str) -> None:
    """Quorum mode: all invariants, and every local read is current."""
    play(6000, Plan(engines=2, troubles=kind, upkeep=True, views="quorum", requests=30))


@pytest.mark.parametrize("seed", range(6))
def test_no_kind_of_trouble_loses_anything_acknowledged(seed: int) -> None:
    """Quorum mode: G1 to G6 whatever happens, partitions included."""
    plan = replace(swarm(7000 + seed), nodes=3 + seed % 3, views="quorum", requests=30)
    troubles = "crash+split+pause+weather+majority+restart+cut+engine"
    play(7000 + seed, replace(plan, troubles=troubles))
