"""Planned stops: everything that a node leads is led by others before it goes (G11)."""

from __future__ import annotations

import asyncio
import logging
from unittest import mock

import pytest

from sessionha.peer.messages import Batch, Claim, Create, DrainProgress, Push, SessionChange
from sessionha.state.draining import Draining, Left
from sessionha.state.node import Options
from sessionha.stopping import Stopping
from sessionha.view import Drains
from tests.simulation.scenes import GROUP, KEY, Scene, simulated

HEAL_AFTER = 30.0

ONE = Options(backups=1, heal_after=HEAL_AFTER, rebalance=0, drill=0)


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


# --- groups that nobody leads -----------------------------------------------------------------


@pytest.mark.parametrize("how", ["returning", "leaving"])
def test_who_has_the_last_copy_of_a_dead_primary_hands_it_over(how: Drains) -> None:
    """Within `heal_after` nobody else has a reason to promote."""

    @simulated(options=ONE)
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        await scene.crash("n1")
        assert await stop(scene, "n2", how)
        assert scene.copies().keys() == {"n3"}
        assert await scene.see("n3") == {"a": "1"}

    scenario()


@simulated(options=ONE)
async def test_who_has_the_last_copy_hands_it_over(scene: Scene) -> None:
    """Not even the loss of its store loses anything then."""
    await scene.create("n1", a="1")
    await scene.crash("n1")
    assert await stop(scene, "n2")
    await start(scene, "n2", kept=False)
    assert await scene.see("n2") == {"a": "1"}


@simulated(options=ONE)
async def test_a_taker_that_dies_before_the_giver_stops_took_the_group_in_vain(
    scene: Scene,
) -> None:
    """The giver is its backup by then, and looks again before it goes."""
    await scene.create("n1", a="1")
    draining = Draining(scene.at("n1"))
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    assert scene.copies().keys() == {"n1", "n2"}
    await scene.crash("n2")
    assert await draining.left() == Left(groups=1, sessions=1, alone=1)
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    assert scene.copies().keys() == {"n1", "n3"}


@simulated(options=ONE)
async def test_what_was_given_and_came_back_is_given_again_though_its_claimant_died(
    scene: Scene,
) -> None:
    """The word of who took it first says nothing of what happened since."""
    await scene.create("n1", a="1")
    draining = Draining(scene.at("n1"))
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    await scene.put("n1", a="2")
    scene.lose(Push, "n2", "n1")
    claim = scene.start(scene.see("n2"))
    await asyncio.sleep(0.15)
    await scene.crash("n2")
    claim.cancel()
    scene.world.held_back = None
    assert await draining.left() == Left(groups=1, sessions=1, alone=1)
    assert await draining.hand_over(now(scene, "n1") + 5_000)
    assert await scene.see("n3") == {"a": "2"}


@simulated(options=ONE)
async def test_a_copy_that_may_be_old_is_told_and_waits_for_nobody(scene: Scene) -> None:
    """Its primary is away, and may have a newer one: so nobody can serve it."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await scene.write("n1", a="2")
    await scene.crash("n1")
    await start(scene, "n2")
    draining, began = Draining(scene.at("n2")), scene.world.now
    assert not await draining.hand_over(now(scene, "n2") + 10_000)
    assert scene.world.now - began < 1.0
    assert await draining.left() == Left(groups=1, sessions=1, alone=1)


@simulated(nodes=4, options=Options(backups=2, heal_after=HEAL_AFTER))
async def test_a_copy_of_what_another_leads_stays_a_copy(scene: Scene) -> None:
    """Who returns keeps it, and nothing moves."""
    await scene.create("n1", a="1")
    before = scene.copies().keys()
    backup = next(name for name in sorted(before) if name != "n1")
    draining = Draining(scene.at(backup))
    assert await draining.hand_over(now(scene, backup) + 5_000)
    assert (draining.moved, scene.copies().keys()) == (0, before)
    assert await draining.left() == Left()
    assert await draining.left(for_good=True) == Left(copies=1)


# --- as the engines of a node carry it out ------------------------------------------------------


def stopping(
    scene: Scene, node: str, engine: int = 0, *, delay: float = 0.0, timeout: float = 20.0
) -> Stopping:
    """The planned stop of a node at one of its engines, which looks after those of the others."""
    each = scene.world.hosts[node].engines[engine]
    assert each.topology is not None
    found = Stopping(each.state, each.topology, delay, timeout)
    scene.world.own(each, _keep_looking(found))
    return found


async def _keep_looking(one: Stopping) -> None:
    while True:
        await asyncio.sleep(0.5)
        one.look()


async def done(one: Stopping, phase: str = "done") -> DrainProgress:
    """Wait until it is in this phase: what it tells then."""
    async with asyncio.timeout(60):
        while one.progress().phase != phase:  # noqa: ASYNC110 (as who asks does)
            await asyncio.sleep(0.01)
    return one.progress()


def serves(scene: Scene, node: str) -> bool:
    return scene.at(node).held(GROUP, scene.cookie) is not None


async def announce(scene: Scene, how: Drains, *nodes: str) -> None:
    for name in nodes:
        topology = scene.world.hosts[name].engines[0].topology
        assert topology is not None
        topology.drain(how)
    await asyncio.sleep(1.0)


@simulated(options=ONE, views="available")
async def test_who_asks_again_gets_handed_over_what_came_back(scene: Scene) -> None:
    """By way of a balancer that does not look at /readyz."""
    await scene.create("n1", a="1")
    stop = stopping(scene, "n1")
    stop.begin("returning")
    assert (await done(stop)).moved == 1
    await scene.put("n1", a="2")
    assert serves(scene, "n1")
    stop.begin("returning")
    assert stop.progress().phase == "announced"
    assert await done(stop) == DrainProgress("n1", "returning", "done", moved=2)
    assert not serves(scene, "n1")


@simulated(options=ONE, views="available")
async def test_who_asks_again_when_others_are_back_gets_it_handed_over(scene: Scene) -> None:
    await scene.create("n1", a="1")
    await announce(scene, "returning", "n2", "n3")
    stop = stopping(scene, "n1")
    stop.begin("returning")
    assert (await done(stop)).groups == 1
    await announce(scene, "", "n2", "n3")
    stop.begin("returning")
    assert (await done(stop)).groups == 0
    assert not serves(scene, "n1")


def test_copies_that_could_not_be_made_elsewhere_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Who goes for good would take one of two copies along: here nobody else has any room."""

    @simulated(options=ONE, views="available", upkeep=True)
    async def scenario(scene: Scene) -> None:
        receipt = await scene.create("n1", a="x" * 50_000)
        backup = receipt.holders[1]
        [other] = {"n2", "n3"} - {backup}
        scene.world.hosts[other].memory.size = 1
        stop = stopping(scene, backup, timeout=5.0)
        stop.begin("leaving")
        told = await done(stop)
        assert (told.groups, told.copies) == (0, 1)
        assert scene.copies().keys() == {"n1", backup}

    with caplog.at_level(logging.WARNING, "sessionha.engine"):
        scenario()
    assert "its copies of 1 groups of sessions: they could not be made elsewhere" in caplog.text


@simulated(options=ONE, views="available", upkeep=True)
async def test_what_comes_back_while_copies_are_made_is_handed_over_again(scene: Scene) -> None:
    await scene.create("n1", a="1")
    stop = stopping(scene, "n1")
    stop.begin("leaving")
    await done(stop, "copying")
    await scene.put("n1", a="2")
    told = await done(stop)
    assert (told.groups, told.copies) == (0, 0)
    assert scene.copies().keys() == {"n2", "n3"}


@simulated(options=ONE, views="available")
async def test_what_comes_back_in_the_last_moment_is_handed_over_again(scene: Scene) -> None:
    """A balancer that does not look at `/readyz` sends a request after the last group has gone."""
    await scene.create("n1", a="1")
    hand_over, late = Draining.hand_over, [scene.put("n1", a="2")]

    async def and_back(self: Draining, until: int) -> bool:
        handed_over = await hand_over(self, until)
        for request in late:
            await request
        late.clear()
        return handed_over

    stop = stopping(scene, "n1")
    with mock.patch.object(Draining, "hand_over", and_back):
        stop.begin("returning")
        told = await done(stop)
    assert (told.groups, told.moved) == (0, 2)
    assert not serves(scene, "n1")


@simulated(options=ONE, views="available", engines=2)
async def test_what_one_engine_carries_out_another_may_call_off(scene: Scene) -> None:
    """A word to the node arrives at any of its engines. The next drain begins from the start."""
    await scene.create("n1", a="1")
    first, second = (stopping(scene, "n1", each, delay=2.0) for each in (0, 1))
    first.begin("returning")
    await asyncio.sleep(0.5)
    second.begin("")
    await asyncio.sleep(5.0)
    assert serves(scene, "n1")
    assert first.progress() == second.progress() == DrainProgress("n1")
    view = scene.at("n2").node.membership.view()
    assert all(member.ready for member in view.members)
    first.begin("returning")
    assert (await done(second)).moved == 1
    assert not serves(scene, "n1")


@simulated(options=ONE, views="available", engines=2, upkeep=True)
async def test_what_one_engine_carries_out_no_other_begins_again(scene: Scene) -> None:
    """Unless it is to be another kind of stop: then the later word counts."""
    await scene.create("n1", a="1")
    first, second = (stopping(scene, "n1", each, delay=2.0) for each in (0, 1))
    first.begin("returning")
    await asyncio.sleep(1.0)
    second.begin("returning")
    await asyncio.sleep(1.1)
    assert (await done(first)).how == "returning"
    second.begin("leaving")
    await done(second)
    await asyncio.sleep(5.0)
    assert first.progress().how == "leaving"


@simulated(options=ONE, views="available", engines=2)
async def test_what_an_engine_began_that_was_killed_another_carries_out(scene: Scene) -> None:
    await scene.create("n1", a="1")
    first, second = (stopping(scene, "n1", each, delay=2.0) for each in (0, 1))
    first.begin("returning")
    await asyncio.sleep(0.5)
    scene.world.kill_engine(scene.world.hosts["n1"].engines[0])
    assert (await done(second)).moved == 1
    assert not serves(scene, "n1")


@simulated(options=ONE, views="available", engines=2)
async def test_a_stop_that_nobody_asked_for_ends_with_its_engine(scene: Scene) -> None:
    """Its server meant to end all of them, and was killed with it, or has changed its mind: the
    node takes clients again."""
    await scene.create("n1", a="1")
    first, second = (stopping(scene, "n1", each, delay=2.0) for each in (0, 1))
    going = scene.start(first.carry_out("returning", patiently=True, within=20.0))
    await asyncio.sleep(0.5)
    going.cancel()
    scene.world.kill_engine(scene.world.hosts["n1"].engines[0])
    await asyncio.sleep(5.0)
    assert second.progress() == DrainProgress("n1")
    assert serves(scene, "n1")


@simulated(options=ONE, views="available", engines=2)
async def test_an_engine_that_ends_leaves_a_wished_stop_to_the_others(scene: Scene) -> None:
    """A worker that is recycled meanwhile."""
    await scene.create("n1", a="1")
    first, second = (stopping(scene, "n1", each, delay=2.0) for each in (0, 1))
    first.begin("returning")
    await asyncio.sleep(0.5)
    first.leave()
    scene.world.kill_engine(scene.world.hosts["n1"].engines[0])
    assert (await done(second)).moved == 1
