"""What simulated worlds and reviews showed and is mended: each as a scenario that failed."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.errors import CommitUnconfirmed, SessionUnavailable
from sessionha.peer.messages import Batch, Push, SessionChange
from sessionha.state.node import Options
from tests.simulation.histories import Plan, agreed
from tests.simulation.loop import run
from tests.simulation.scenes import KEY, LIFETIMES, Scene, simulated, trace_under
from tests.simulation.world import Faults, World


def test_a_store_that_fills_during_a_commit_makes_its_outcome_unknown() -> None:
    """Section 2: *fail* means surely no effect."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        memory = scene.world.hosts["n1"].memory
        size = memory.size
        write = scene.start(scene.write("n1", a="2"))
        await asyncio.sleep(0)
        memory.size = memory.used  # the file system is full, say
        try:
            await write
        except CommitUnconfirmed:
            pass
        finally:
            memory.size = size
        assert await scene.see("n1") == {"a": "2"}

    scenario()


def test_who_returns_first_does_not_go_on_without_those_who_went_on_without_it() -> None:
    """Available mode: a node goes on alone only after `discovery_time`; R12: not before those
    that may have something newer were asked."""

    async def scenario() -> None:
        world = World(1, nodes=3, views="available", faults=Faults())
        scene = Scene(world)
        try:
            await agreed(world)
            old = (await scene.create("n1", a="1")).position
            world.crash("n1")
            await asyncio.sleep(1.0)
            await scene.put("n2", a="2")
            world.crash("n2")
            world.crash("n3")
            world.restart("n1", kept=True)
            again = asyncio.get_running_loop()
            again.call_later(0.1, lambda: world.restart("n2", kept=True))
            again.call_later(0.1, lambda: world.restart("n3", kept=True))
            await asyncio.sleep(0.05)
            try:
                assert await scene.see("n1", floor=old) == {"a": "2"}
            except SessionUnavailable:
                await agreed(world)
                assert await scene.see("n1", floor=old) == {"a": "2"}
        finally:
            world.stop()

    run(scenario())


def test_topology_managers_do_the_same_whatever_the_hashes_are() -> None:
    """One seed is one world also where nodes agree by themselves."""
    plan = Plan(nodes=4, troubles="crash", views="available", requests=10)
    assert len({trace_under(hashes, 7, plan) for hashes in (1, 2, 3)}) == 1


def test_a_commit_outlives_a_pause_of_its_primary() -> None:
    """A primary that stood still is no member until the others have said that it is; what it was
    committing then goes on, and is not called unknown."""

    async def scenario() -> None:
        world = World(1, nodes=3, views="available", faults=Faults())
        scene = Scene(world)
        try:
            await agreed(world)
            await scene.create("n1", a="1")
            scene.lose(Push, "n1", "n2", times=2)
            write = scene.start(scene.write("n1", a="2"))
            await asyncio.sleep(0.01)
            world.pause("n1")
            await asyncio.sleep(0.55)
            world.resume("n1")
            await write
            assert await scene.see("n1") == {"a": "2"}
        finally:
            world.stop()

    run(scenario())


@pytest.mark.parametrize("later", [0.0, 0.005, 0.015, 0.025, 0.035, 0.045])
@pytest.mark.parametrize("nodes", [("n2", "n3"), ("n3", "n2")], ids="-".join)
def test_survivors_that_are_asked_at_once_do_not_fence_each_other(
    later: float, nodes: tuple[str, str]
) -> None:
    """Who is not the natural successor asks that one first, so no commit is cut off by a second
    promotion."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        await scene.crash("n1")
        scene.world.faults.delay = (0.01, 0.01)
        first = scene.start(scene.put(nodes[0], b="2"))
        await asyncio.sleep(later)
        await scene.put(nodes[1], c="3")
        await first
        assert await scene.see("n2") == {"a": "1", "b": "2", "c": "3"}

    scenario()


def test_nobody_is_told_of_an_end_that_may_yet_be_undone() -> None:
    """I7: a request that meets a log-out under way waits for its copies; when its node dies first,
    the session lives, and nobody was told otherwise."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        scene.lose(Push, "n1", "n2")
        log_out = scene.start(scene.log_out("n1"))
        await asyncio.sleep(0.01)
        late = scene.start(scene.write("n1", a="2"))
        await asyncio.sleep(0.1)
        assert not late.done()
        await scene.crash("n1")
        assert await scene.see("n2") == {"a": "1"}
        for request in (log_out, late):
            request.cancel()

    scenario()


def test_who_meets_a_log_out_whose_copies_do_not_answer_is_not_told_of_it() -> None:
    """The outcome of the log-out is unknown, and so is not what the other request is told."""

    @simulated(options=Options(commit_timeout=0.5))
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        scene.lose(Push, "n1", "n2")
        log_out = scene.start(scene.log_out("n1"))
        await asyncio.sleep(0.01)
        with pytest.raises(SessionUnavailable, match="just being ended"):
            await scene.write("n1", a="2")
        with pytest.raises(CommitUnconfirmed):
            await log_out

    scenario()


ONE = Options(backups=1, heal_after=30.0, rebalance=0, drill=0)


async def refuse_another_group(scene: Scene, node: str, by: str) -> None:
    """A node has no room for a copy of a group that another one leads, for a moment."""
    memory = scene.world.hosts[node].memory
    size, memory.size = memory.size, 1
    change = SessionChange(KEY, create=LIFETIMES, puts=(("b", "value", b"1"),))
    await scene.at(by).commit(Batch(b"\x0c" * 12, (change,)), fresh=True)
    memory.size = size


@simulated(nodes=2, options=ONE)
async def test_a_copy_stays_where_it_is_though_its_node_had_no_room_for_another_group(
    scene: Scene,
) -> None:
    """G1: what was acknowledged with a copy survives one crash: the first write after a hand-over
    forms C anew, and must not leave out who has the group already."""
    assert (await scene.create("n1", a="1")).copies == 1
    await refuse_another_group(scene, "n1", by="n2")
    assert await scene.see("n2") == {"a": "1"}
    assert (await scene.write("n2", b="2")).copies == 1
    assert scene.copies().keys() == {"n1", "n2"}
    await scene.crash("n2")
    scene.world.forgotten.add("n2")
    assert await scene.see("n1") == {"a": "1", "b": "2"}


@simulated(nodes=3, options=ONE)
async def test_a_view_changes_and_a_copy_stays_though_its_node_had_no_room_for_another_group(
    scene: Scene,
) -> None:
    """G1, as before: here a change of the view lets C be formed anew."""
    receipt = await scene.create("n1", a="1")
    backup = receipt.holders[1]
    [other] = {"n2", "n3"} - {backup}
    scene.at("n1").replication.refused(backup, None, "full")
    await scene.crash(other)
    assert (await scene.write("n1", b="2")).holders == ("n1", backup)
    await scene.crash("n1")
    scene.world.forgotten |= {"n1", other}
    assert await scene.see(backup) == {"a": "1", "b": "2"}
