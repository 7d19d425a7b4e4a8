"""When a node has caught up: probes call it ready from then on."""

from __future__ import annotations

import asyncio

from sessionha.peer.messages import Batch, SessionChange
from sessionha.state.catching import LONGEST
from sessionha.state.node import Options
from tests.simulation.scenes import KEY, LIFETIMES, Scene, simulated

OPTIONS = Options(backups=1, heal_after=1e9, rebalance=0, drill=0)


async def create(scene: Scene, count: int) -> None:
    change = SessionChange(KEY, create=LIFETIMES, puts=(("a", "value", b"1"),))
    for number in range(count):
        await scene.at("n1").commit(Batch(bytes([number]) + bytes(11), (change,)), fresh=True)


def caught_up(scene: Scene, node: str, engine: int = 0) -> bool:
    return scene.at(node, engine).catching_up.is_over


async def look(scene: Scene, *, healing: bool) -> None:
    """What the leaders do several times a second."""
    await asyncio.sleep(0.25)
    for host in scene.world.living:
        upkeep = host.engines[0].upkeep
        if healing:
            await upkeep.repair()
        await scene.at(host.name).redundancy.look(upkeep.course())
    for host in scene.world.living:
        await scene.at(host.name).catching_up.look()


@simulated(options=OPTIONS, engines=2)
async def test_a_node_that_returns_has_caught_up_when_the_others_have_refilled_it(
    scene: Scene,
) -> None:
    """System 7, the fourth: ready means caught up, not merely alive; all its engines say so."""
    await create(scene, 20)
    await look(scene, healing=True)
    assert all(caught_up(scene, node) for node in ("n1", "n2", "n3"))
    await scene.crash("n2")
    await scene.restart("n2", kept=False)
    assert scene.at("n2").node.membership.is_member()
    await look(scene, healing=False)
    assert not caught_up(scene, "n2")
    assert caught_up(scene, "n1")
    await look(scene, healing=True)
    assert scene.at("n1").node.counters.refilled > 0
    assert caught_up(scene, "n2")
    assert caught_up(scene, "n2", engine=1)


@simulated(options=OPTIONS)
async def test_who_cannot_be_brought_up_to_date_is_not_awaited_for_ever(scene: Scene) -> None:
    await create(scene, 4)
    await look(scene, healing=False)
    assert not caught_up(scene, "n1")
    await asyncio.sleep(LONGEST / 1000)
    await look(scene, healing=False)
    assert caught_up(scene, "n1")


@simulated(options=OPTIONS, engines=2)
async def test_the_other_engines_learn_it_once_the_store_has_room(scene: Scene) -> None:
    memory = scene.world.hosts["n1"].memory
    size, memory.size = memory.size, 1
    await look(scene, healing=True)
    await asyncio.sleep(LONGEST / 1000)
    await look(scene, healing=True)
    assert caught_up(scene, "n1")
    assert not caught_up(scene, "n1", engine=1)
    memory.size = size
    await look(scene, healing=True)
    assert caught_up(scene, "n1", engine=1)
