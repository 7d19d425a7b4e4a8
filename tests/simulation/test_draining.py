"""Planned stops: everything that a node leads is led by others before it goes (G11)."""

from __future__ import annotations

import asyncio

from sessionha.peer.messages import Batch, Claim, Create, Push, SessionChange
from sessionha.state.draining import Draining, Left
from sessionha.state.node import Options
from sessionha.view import Drains
from tests.simulation.scenes import GROUP, KEY, Scene, simulated

HEAL_AFTER = 30.0


def now(scene: Scene, node: str) -> int:
    return scene.world.hosts[node].clock.now()


async def repair(scene: Scene) -> None:
    for host in scene.world.living:
        await host.engines[0].upkeep.repair()


async def stop(scene: Scene, node: str, how: Drains = "returning") -> bool:
    """A planned stop; what follows from it is known to all."""
    done = await scene.world.drain(node, how)
    await scene.gone_from_view(node)
    return done


async def start(scene: Scene, node: str, *, kept: bool = True) -> None:
    await scene.restart(node, kept=kept)


@simulated(nodes=2)
async def test_a_pair_restarted_one_after_another_without_a_request_loses_nothing(
    scene: Scene,
) -> None:
    """G11, system 7 (f): not even where neither finds its store again."""
    await scene.create("n1", a="1")
    for node in ("n1", "n2", "n1"):
        assert await stop(scene, node)
        await start(scene, node, kept=False)
    assert await scene.see("n1") == {"a": "1"}


@simulated(nodes=5, options=Options(backups=2, heal_after=HEAL_AFTER))
async def test_five_restarts_in_turn_copy_nothing_to_a_third_node(scene: Scene) -> None:
    """System 7 (f): the seats are kept, and so is the placement."""
    await scene.create("n1", a="1")
    await scene.put("n1", a="2")
    before = scene.copies().keys()
    for node in ("n1", "n2", "n3", "n4", "n5"):
        assert await stop(scene, node)
        await repair(scene)
        await start(scene, node)
        await repair(scene)
        assert scene.copies().keys() == before
    assert await scene.see("n5") == {"a": "2"}


@simulated()
async def test_the_backup_serves_at_once_when_the_primary_has_gone(scene: Scene) -> None:
    """Nothing is promoted: no client waits for that."""
    await scene.create("n1", a="1")
    assert await stop(scene, "n1")
    held = scene.at("n2").held(GROUP, scene.cookie)
    assert held is not None
    assert held.holders == ("n2",)
    assert scene.at("n2").node.counters.promotions == 0


@simulated()
async def test_who_goes_for_good_leaves_as_many_copies_as_there_were(scene: Scene) -> None:
    """Draining is no restart: nobody waits for it, and no copy is given up before its replacement
    exists."""
    await scene.create("n1", a="1")
    other = SessionChange(b"\x02" * 16, create=Create(60_000, 0), puts=(("b", "value", b"1"),))
    await scene.at("n1").commit(Batch(GROUP, (other,)), fresh=False)
    looking_after = asyncio.ensure_future(_look_after(scene))
    assert await stop(scene, "n1", "leaving")
    looking_after.cancel()
    assert scene.copies().keys() == {"n2", "n3"}
    await scene.crash("n2")
    assert await scene.see("n3") == {"a": "1"}


@simulated()
async def test_a_backup_that_goes_for_good_is_replaced_without_any_delay(scene: Scene) -> None:
    await scene.create("n1", a="1")
    looking_after = asyncio.ensure_future(_look_after(scene))
    assert await stop(scene, "n2", "leaving")
    looking_after.cancel()
    assert scene.copies().keys() == {"n1", "n3"}
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.seats == ("n1", "n3")


async def _look_after(scene: Scene) -> None:
    while True:
        await asyncio.sleep(0.05)
        await repair(scene)


@simulated()
async def test_a_request_during_the_hand_over_is_served_and_does_not_keep_the_group(
    scene: Scene,
) -> None:
    """G11: it brings the group back, and that is handed over again."""
    await scene.create("n1", a="1")
    draining = Draining(scene.at("n1"))
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    await scene.put("n1", a="2")
    assert scene.at("n1").held(GROUP, scene.cookie) is not None
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    assert draining.moved == 2
    assert scene.at("n2").held(GROUP, scene.cookie) is not None
    assert await scene.see("n2") == {"a": "2"}


@simulated()
async def test_a_commit_that_began_before_the_hand_over_is_merged_by_who_took_over(
    scene: Scene,
) -> None:
    await scene.create("n1", a="1")
    assert await Draining(scene.at("n1")).hand_over(now(scene, "n1") + 5_000)
    receipt = await scene.write("n1", b="2")
    assert receipt.holders[0] == "n2"
    assert await scene.see("n2") == {"a": "1", "b": "2"}


@simulated()
async def test_a_group_without_a_backup_gets_one_first(scene: Scene) -> None:
    """The node that held its copy is dead, and nothing was written since."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    assert await stop(scene, "n1")
    scene.world.restart("n1", kept=False)
    await scene.members("n1")
    assert await scene.see("n3") == {"a": "1"}


@simulated()
async def test_a_claim_that_is_lost_is_made_again(scene: Scene) -> None:
    """By a node that has no copy either: nobody has to promote while the primary lives."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    scene.lose(Claim, "n3", "n1", times=1)
    assert await Draining(scene.at("n1")).hand_over(now(scene, "n1") + 10_000)
    assert scene.at("n3").node.counters.promotions == 0
    assert scene.at("n3").held(GROUP, scene.cookie) is not None


@simulated()
async def test_who_is_full_is_not_asked_for_long(scene: Scene) -> None:
    await scene.create("n1", a="1")
    memory = scene.world.hosts["n2"].memory
    memory.size = max(int(memory.used / 0.99), 1)
    assert await Draining(scene.at("n1")).hand_over(now(scene, "n1") + 10_000)
    assert scene.at("n3").held(GROUP, scene.cookie) is not None


@simulated(nodes=2)
async def test_what_nobody_takes_is_told_with_its_sessions(scene: Scene) -> None:
    """A node that is alone waits for nobody."""
    await scene.create("n1", a="1")
    await scene.log_out("n1")
    for key in (KEY[:-1] + b"\x02", KEY[:-1] + b"\x03"):
        change = SessionChange(key, create=Create(60_000, 0))
        await scene.at("n1").commit(Batch(GROUP, (change,)), fresh=False)
    draining = Draining(scene.at("n1"))
    assert await draining.left() == Left(groups=1, sessions=2, alone=0)
    await scene.crash("n2")
    began = scene.world.now
    assert not await draining.hand_over(now(scene, "n1") + 10_000)
    assert scene.world.now == began
    assert await draining.left() == Left(groups=1, sessions=2, alone=2)


@simulated()
async def test_a_taker_that_dies_half_way_keeps_nothing_from_being_handed_over(
    scene: Scene,
) -> None:
    """It was promised the group and never told anybody: another one promotes."""
    await scene.create("n1", a="1")
    scene.lose(Push, "n2", "n1")
    handing = scene.start(Draining(scene.at("n1")).hand_over(now(scene, "n1") + 20_000))
    await asyncio.sleep(0.15)
    await scene.crash("n2")
    assert await handing is True
    assert await scene.see("n3") == {"a": "1"}
