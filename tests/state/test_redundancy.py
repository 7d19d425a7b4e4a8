"""How many copies groups have, and what would be lost if nodes stopped."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from sessionha.errors import CommitUnconfirmed
from sessionha.peer.messages import Batch, Health, Push, SessionChange, Share, Weight
from sessionha.state import redundancy
from sessionha.state.node import Options
from sessionha.state.redundancy import RESTS, Redundancy
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated
from tests.simulation.test_delay import Shop

BYTES = len("a") + len("1")
"""Of a session as these groups have."""


async def create(scene: Scene, node: str, *groups: bytes) -> None:
    change = SessionChange(KEY, create=LIFETIMES, puts=(("a", "value", b"1"),))
    for group in groups:
        await scene.at(node).commit(Batch(group, (change,)), fresh=True)


def named(*numbers: int) -> tuple[bytes, ...]:
    """Groups in different domains."""
    return tuple(bytes([number]) + bytes(11) for number in numbers)


def share(groups: int) -> Share:
    return Share(groups, groups * BYTES)


async def counted(scene: Scene, node: str) -> Health:
    """The numbers once everything was counted in the present view."""
    counts = scene.at(node).redundancy
    for _ in range(100):
        await asyncio.sleep(0.25)
        await counts.look()
        if counts.health().complete:
            return counts.health()
    raise AssertionError("never complete")


@simulated(nodes=4, options=Options(backups=2, heal_after=1e9))
async def test_groups_are_redundant_degraded_or_at_risk(scene: Scene) -> None:
    """System 6, 7th: health in groups and bytes; each group is counted by one node."""
    await create(scene, "n1", *named(0, 1, 128, 255))
    found = await counted(scene, "n1")
    assert (found.redundant, found.degraded, found.at_risk) == (share(4), Share(), Share())
    for node in ("n2", "n3", "n4"):
        assert (await counted(scene, node)).redundant == Share(), "n1 counts them"
    with_n2 = [g for g in named(0, 1, 128, 255) if "n2" in scene.at("n1").held(g, None).holders]  # type: ignore[union-attr]
    await scene.crash("n2")
    found = await counted(scene, "n1")
    assert found.degraded == share(len(with_n2))
    assert found.redundant == share(4 - len(with_n2))
    await scene.crash("n3", "n4")
    found = await counted(scene, "n1")
    assert (found.redundant, found.degraded, found.at_risk) == (Share(), Share(), share(4))


@simulated(options=Options(backups=1, heal_after=1e9))
async def test_a_group_without_a_primary_is_counted_by_the_holder_that_is_left(
    scene: Scene,
) -> None:
    await create(scene, "n1", *named(0, 1, 2, 3))
    await scene.crash("n1")
    found = [await counted(scene, node) for node in ("n2", "n3")]
    assert found[0].at_risk.plus(found[1].at_risk) == share(4)
    await scene.restart("n1", kept=True)
    assert (await counted(scene, "n1")).old == 4, "its copies are from before its absence"


@simulated(nodes=2, options=Options(backups=1))
async def test_a_look_reads_a_bounded_number_of_groups(scene: Scene) -> None:
    """However many there are: a look is some milliseconds, and the numbers come with time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redundancy, "AT_ONCE", 2)
        patch.setattr(redundancy, "IN_HASTE", 3)
        await create(scene, "n1", *named(*range(20)))
        counts = scene.at("n1").redundancy
        seen = []
        while not counts.health().complete:
            await counts.look()
            seen.append(counts.health().redundant.groups)
        assert seen == [5, 11, 17, 20], "six at a time, the last domain once it is passed"


@simulated(nodes=2, options=Options(backups=1))
async def test_what_was_counted_rests_for_a_while(scene: Scene) -> None:
    """An idle node reads nothing; what is new is counted with the next round, or when copies were
    made."""
    await create(scene, "n1", *named(0))
    counts = scene.at("n1").redundancy
    await counted(scene, "n1")
    await create(scene, "n1", *named(1))
    await counts.look()
    assert counts.health().redundant == share(1)
    await asyncio.sleep(RESTS / 1000)
    await counts.look()
    assert counts.health().redundant == share(2)
    await create(scene, "n1", *named(2))
    scene.at("n1").node.counters.refilled += 1
    await counts.look()
    assert counts.health().redundant == share(3)


@simulated(engines=2)
async def test_every_engine_and_every_member_knows_the_numbers(scene: Scene) -> None:
    await create(scene, "n1", *named(0, 1))
    await counted(scene, "n1")
    assert scene.at("n1", 1).redundancy.health().redundant == share(2)
    scene.world.crash("n3")
    found = await scene.at("n2").redundancy.everywhere()
    assert found["n3"] is None
    assert found["n1"] == scene.at("n1").redundancy.health()


# --- what only some nodes have -------------------------------------------------------------------


def redundancy_at(scene: Scene, node: str) -> Redundancy:
    return scene.at(node).redundancy


def weight(groups: int) -> Weight:
    return Weight(groups, groups, groups * BYTES)


@simulated(options=Options(backups=1, heal_after=1e9))
async def test_with_a_copy_elsewhere_a_node_is_safe_to_stop(scene: Scene) -> None:
    """Whoever is asked; and not any more when the other holder is gone."""
    await create(scene, "n1", *named(0, 1, 2, 3))
    for asked in scene.world.hosts:
        found = await redundancy_at(scene, asked).safety("n1", zones=False)
        assert found == (Weight(), {}, (), ())
    with_n2 = [g for g in named(0, 1, 2, 3) if "n2" in scene.at("n1").held(g, None).holders]  # type: ignore[union-attr]
    assert 0 < len(with_n2) < 4
    await scene.crash("n2")
    found = await redundancy_at(scene, "n3").safety("n1", zones=False)
    assert found.alone == weight(len(with_n2))


@simulated(nodes=4, options=Options(backups=1, heal_after=1e9))
async def test_a_zone_takes_with_it_what_only_its_nodes_have(scene: Scene) -> None:
    """Also groups of which the node itself has no copy."""
    world = scene.world
    zones = {"n1": "a", "n2": "b", "n3": "b", "n4": "c"}
    world.zones.update(zones)
    world._decide(tuple(world._member(world.hosts[m.node], m.joined) for m in world.truth.members))
    await scene.members(*zones)
    await create(scene, "n1", *named(*range(40)))
    await create(scene, "n2", *named(*range(100, 140)))
    found = await redundancy_at(scene, "n4").safety("n1", zones=True)
    pairs = [
        set(record.holders)
        for group in (*named(*range(40)), *named(*range(100, 140)))
        for record in [scene.world.hosts["n1" if group[0] < 100 else "n2"].record(group)]
        if record is not None
    ]
    assert found.alone == Weight()
    for zone in "abc":
        gone = {"n1", *(name for name in zones if zones[name] == zone)}
        assert found.zones[zone] == weight(sum(pair <= gone for pair in pairs))
    assert found.zones["b"].groups > 0


@simulated(options=Options(backups=1, heal_after=1e9))
async def test_who_does_not_answer_counts_as_stopped(scene: Scene) -> None:
    """Its death may not be known yet: what only it and the node have would be lost."""
    mine, theirs = named(0, 1, 2, 3), named(100, 101, 102, 103)
    await create(scene, "n1", *mine)
    await create(scene, "n2", *theirs)
    records = [scene.world.hosts["n1"].record(group) for group in (*mine, *theirs)]
    both = sum(record is not None and set(record.holders) == {"n1", "n2"} for record in records)
    scene.world.pause("n2")
    found = await redundancy_at(scene, "n3").safety("n1", zones=False)
    assert found.silent == ("n2",)
    assert found.alone == weight(both)


@simulated(nodes=2)
async def test_destroyed_sessions_are_not_lost(scene: Scene) -> None:
    await create(scene, "n1", *named(0))
    await scene.crash("n2")
    change = SessionChange(KEY, destroy=True)
    await scene.at("n1").commit(Batch(named(0)[0], (change,)), fresh=False)
    found = await redundancy_at(scene, "n1").safety("n1", zones=False)
    assert found.alone == Weight(1, 0, 0)


ONE = Options(backups=1, heal_after=30.0, rebalance=0, drill=0)


async def alone(scene: Scene, asked: str, node: str) -> int:
    """Sessions that would be lost if the node stopped now."""
    return (await scene.at(asked).redundancy.safety(node, zones=False)).alone.sessions


async def left_open(scene: Scene) -> None:
    """n1 names n3 a holder in the place of n2, which is away, and n3 does not hear of it."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    scene.lose(Push, "n1", "n3")
    with pytest.raises(CommitUnconfirmed):
        await scene.write("n1", a="2")
    scene.world.held_back = None


@simulated(options=ONE)
async def test_a_copy_that_was_never_made_is_none(scene: Scene) -> None:
    """A round that is still open may be the one that makes it."""
    await left_open(scene)
    assert scene.copies().keys() == {"n1"}
    assert await alone(scene, "n3", "n1") == 1
    counts = scene.at("n1").redundancy
    await counted(scene, "n1")
    await asyncio.sleep(RESTS / 1000)
    await counts.look()
    assert counts.health().at_risk.groups == 1
    await scene.see("n1")
    assert await alone(scene, "n3", "n1") == 0


@simulated(options=replace(ONE, heal_after=math.inf))
async def test_what_a_request_left_open_is_finished_without_another_one(scene: Scene) -> None:
    """Also where no delay ever ends: the copy was promised, and nothing else looks for it."""
    await left_open(scene)
    Shop(scene).begin()
    await asyncio.sleep(5)
    assert scene.copies().keys() == {"n1", "n3"}
    assert await alone(scene, "n3", "n1") == 0


@simulated(engines=2, options=ONE)
async def test_what_a_worker_left_open_is_finished_by_another_one(scene: Scene) -> None:
    """It is killed between its transaction, which names n3 a holder, and its push to n3."""
    Shop(scene).begin()
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(2)
    engines = scene.world.hosts["n1"].engines
    [worker] = [engine for engine in engines if not engine.state.node.store.try_lead()]
    worker.doom = "between"
    write = scene.start(scene.write("n1", engine=engines.index(worker), a="2"))
    await asyncio.sleep(5)
    assert worker not in engines
    write.cancel()
    assert scene.copies().keys() == {"n1", "n3"}


@simulated(nodes=2, engines=2, options=ONE)
async def test_what_a_worker_left_open_is_finished_though_another_one_has_its_slot(
    scene: Scene,
) -> None:
    """Its server starts one in its place before anybody looks."""
    Shop(scene).begin()
    await scene.create("n1", a="1")
    await asyncio.sleep(2)
    host = scene.world.hosts["n1"]
    [worker] = [engine for engine in host.engines if not engine.state.node.store.try_lead()]
    slot = worker.state.node.store.slot
    scene.lose(Push, "n1", "n2", times=1)
    write = scene.start(scene.write("n1", engine=host.engines.index(worker), a="2"))
    await asyncio.sleep(0.01)
    scene.world.kill_engine(worker)
    write.cancel()
    assert scene.world.start_engine("n1").state.node.store.slot == slot
    await asyncio.sleep(5)
    record = host.record(GROUP)
    assert record is not None
    assert record.acked == record.version


@simulated(nodes=4, options=replace(ONE, backups=2))
async def test_a_copy_that_a_dead_primary_only_meant_to_have_is_none(scene: Scene) -> None:
    """It dies when one backup has the step that names another, and the other has not."""
    receipt = await scene.create("n1", a="1")
    first, second = receipt.holders[1:]
    [third] = {"n2", "n3", "n4"} - {first, second}
    await scene.crash(second)
    scene.lose(Push, "n1", third)
    write = scene.start(scene.write("n1", a="2"))
    await asyncio.sleep(0.05)
    await scene.crash("n1")
    write.cancel()
    scene.world.held_back = None
    record = scene.world.hosts[first].record(GROUP)
    assert record is not None
    assert third in record.holders
    assert await alone(scene, third, first) == 1
    assert await scene.see(third) == {"a": "2"}
    assert await alone(scene, third, first) == 0
