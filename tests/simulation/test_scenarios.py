"""The hazards of the contract, each as a scenario of a few lines."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from sessionha.errors import (
    CommitUnconfirmed,
    SessionRevoked,
    SessionUnavailable,
    StaleSession,
)
from sessionha.identity import NO_POSITION, NO_VIEW, Position
from sessionha.peer.base import Sender
from sessionha.peer.messages import Behind, Committed, Fetch, Fetched, Push, Pushed, Refused, Touch
from sessionha.state.base import Receipt
from sessionha.state.node import Options
from sessionha.state.records import get_session
from sessionha.store.memory import MemoryReader
from tests.simulation.loop import run
from tests.simulation.scenes import GROUP, KEY, Scene, simulated
from tests.simulation.world import Faults, World


def known(scene: Scene, node: str) -> Sender:
    """A node as its peers know it."""
    return Sender(node, scene.world.hosts[node].incarnation)


def accept(scene: Scene, node: str, sender: str, push: object) -> object:
    """What a node answers to a push that arrives now."""
    return scene.at(node).replication.accept(known(scene, sender), push)  # type: ignore[arg-type]


async def promote(scene: Scene, node: str) -> None:
    """A full promotion, whoever lives."""
    deadline = scene.at(node).node.clock.now() + 3_000
    await scene.at(node).ownership._promote(GROUP, None, deadline)


# --- primaries -----------------------------------------------------------------------------------


@simulated()
async def test_a_paused_primary_confirms_and_serves_nothing_when_it_returns(scene: Scene) -> None:
    """Hazard "stale primary after a pause": R1, R3, R6."""
    await scene.create("n1", a="1")
    old = scene.cookie
    await scene.exclude("n1")
    await scene.put("n2", a="2")
    scene.world.faults.learning = (0.5, 0.5)
    scene.world.resume("n1")
    assert await scene.see("n1", floor=old) == {"a": "1"}, "it cannot know yet (R9 bounds this)"
    stale = scene.start(scene.write("n1", b="lost"))
    await asyncio.sleep(0.4)
    assert not stale.done(), "nobody who holds a copy accepts its push"
    scene.world.faults.learning = (0.0, 0.0)
    with pytest.raises(CommitUnconfirmed):
        await stale
    await scene.members("n1")
    assert await scene.see("n1", floor=old) == {"a": "2"}
    assert await scene.see("n2", floor=old) == {"a": "2"}


@simulated()
async def test_a_change_lost_with_its_epoch_is_not_confirmed_by_a_later_one(scene: Scene) -> None:
    """R1, R3: a node that lost a group and got it back settles the newer history, which does not
    contain what it wrote before; system 5 (m): never a 200 for what is not there."""
    await scene.create("n1", a="1")
    old = scene.cookie
    await scene.exclude("n1")
    await scene.put("n2", a="2")
    scene.world.faults.learning = (0.05, 0.05)
    scene.world.resume("n1")
    await scene.see("n1", floor=old)
    stale = scene.start(scene.write("n1", b="lost"))
    await scene.members("n1")
    scene.lose(Pushed, "n2", "n1", 1)
    await scene.put("n1", c="3")
    with pytest.raises(CommitUnconfirmed):
        await stale
    assert await scene.see("n3") == {"a": "2", "c": "3"}


@simulated()
async def test_what_an_earlier_primary_sent_and_comes_late_changes_nothing(scene: Scene) -> None:
    """Hazard "changes out of order": R3, a node refuses every epoch below the one it promised."""
    await scene.create("n1", a="1")
    sent = scene.overhear_pushes("n2")
    await scene.put("n1", a="2")
    await scene.put("n2", a="3")
    assert len(sent) == 1
    assert isinstance(accept(scene, "n2", "n1", sent[0]), Refused)
    assert await scene.see("n3") == {"a": "3"}


@simulated()
async def test_of_two_claimants_both_get_the_group_one_after_the_other(scene: Scene) -> None:
    """Hazard "two claimants": R5."""
    await scene.create("n1", a="1")
    seen = await asyncio.gather(scene.see("n2"), scene.see("n3"))
    assert [*seen] == [{"a": "1"}, {"a": "1"}]
    primaries = [
        name for name in scene.world.hosts if scene.at(name).held(GROUP, scene.cookie) is not None
    ]
    assert len(primaries) == 1


@simulated()
async def test_two_claimants_of_a_dead_primary_agree(scene: Scene) -> None:
    """Hazard "two claimants": R3, R4; system 5 (f)."""
    await scene.create("n1", a="1")
    await scene.crash("n1")
    await asyncio.gather(scene.put("n2", b="2"), scene.put("n3", c="3"))
    assert await scene.see("n2") == {"a": "1", "b": "2", "c": "3"}


@simulated(engines=2)
async def test_a_hand_over_waits_for_commits_under_way(scene: Scene) -> None:
    """R5: nothing that a request is committing is lost by a hand-over."""
    await scene.create("n1", a="1")
    await asyncio.sleep(0.2)
    names = [f"e{index}" for index in range(6)]
    commits = [scene.start(scene.write("n1", i % 2, **{name: "x"})) for i, name in enumerate(names)]
    seen = await scene.see("n3")
    assert seen is not None
    assert set(seen) == {"a", *names}
    await asyncio.gather(*commits)


@pytest.mark.parametrize("seed", range(6))
def test_a_crowd_of_one_browser_moves_its_group_without_a_promotion(seed: int) -> None:
    """R5, system 5 (i): thirty requests at once through three living nodes. A promotion would
    fence commits under way, and each of them would be answered with 503 for no reason."""

    async def play() -> None:
        world = World(seed, 3, faults=Faults(delay=(0.001, 0.02)))
        scene = Scene(world)
        chance = random.Random(seed)
        await scene.create("n1", a="1")
        cookie = scene.cookie

        async def request(turn: int) -> None:
            node = f"n{turn % 3 + 1}"
            await asyncio.sleep(chance.uniform(0, 0.01))
            await scene.see(node, floor=cookie)
            await asyncio.sleep(chance.uniform(0, 0.02))
            await scene.write(node, 0, **{f"t{turn}": "x"})

        await asyncio.gather(*(request(turn) for turn in range(30)))
        seen = await scene.see("n2")
        assert seen is not None
        assert set(seen) == {"a", *(f"t{turn}" for turn in range(30))}
        counts = [engine.state.node.counters for host in world.living for engine in host.engines]
        assert sum(count.handovers for count in counts) > 1
        assert sum(count.promotions + count.unconfirmed for count in counts) == 0
        world.stop()
        assert not world.errors

    run(play())


@pytest.mark.parametrize("kept", [True, False])
def test_a_commit_that_a_promotion_overtakes_is_confirmed_when_it_is_adopted(kept: bool) -> None:
    """R1, R3: whether the node that committed keeps a copy then, or is told to give it up."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        scene.lose(Push, "n1", "n2")
        commit = scene.start(scene.write("n1", b="2"))
        await asyncio.sleep(0.01)
        if not kept:
            scene.catch_pushes("n1")
        promoting = scene.start(promote(scene, "n3"))
        if not kept:
            await asyncio.sleep(1)
            question = Fetch(GROUP, NO_POSITION)
            fetched = scene.at("n3").ownership.on_fetch(known(scene, "n2"), question)
            assert isinstance(fetched, Fetched)
            assert fetched.content is not None
            elsewhere = msgspec.structs.replace(fetched.content, holders=("n3", "n2"))
            for node in ("n2", "n1"):
                assert isinstance(accept(scene, node, "n3", elsewhere), Pushed)
        receipt = await commit
        assert isinstance(receipt, Receipt)
        assert receipt.position.version == 2
        assert receipt.holders == ("n3", "n1" if kept else "n2")
        if kept:
            await promoting
            assert await scene.see("n3") == {"a": "1", "b": "2"}
        else:
            promoting.cancel()

    scenario()


@simulated(nodes=5, options=Options(backups=2))
async def test_a_commit_that_a_promotion_adopts_waits_for_all_of_the_new_c(scene: Scene) -> None:
    """R1: two of three have it, and a partition could leave both of them on the smaller side, while
    the larger one goes on from a third copy that is in sync, and without it."""
    await scene.create("n1", a="1")
    left = {"n2", "n3"}
    scene.world.held_back = lambda _, to, message: isinstance(message, Push) and to in left
    commit = scene.start(scene.write("n1", b="2"))
    await asyncio.sleep(0.01)
    promoting = scene.start(promote(scene, "n4"))
    with pytest.raises(CommitUnconfirmed):
        await commit
    assert scene.copies() == {"n1": 3, "n2": 1, "n3": 1, "n4": 3}
    promoting.cancel()


@simulated(engines=2)
async def test_engines_that_ask_at_once_do_not_depose_each_other(scene: Scene) -> None:
    """R5: while every primary lives, a group goes by hand-over. A promotion would fence a sibling
    of the claimant in the middle of its commit, whose outcome would be unknown for no reason."""
    await scene.create("n1", a="1")
    places = [(node, engine) for node in ("n1", "n3") for engine in (0, 1)]

    async def requests(node: str, engine: int) -> None:
        for number in range(20):
            await scene.put(node, engine, **{f"{node}{engine}": str(number)})
            await asyncio.sleep(0.03)  # and nobody has it twice in a row

    await asyncio.gather(*(requests(*place) for place in places))
    last = {f"{node}{engine}": "19" for node, engine in places}
    assert await scene.see("n2") == {"a": "1", **last}
    engines = [engine for host in scene.world.hosts.values() for engine in host.engines]
    counts = [engine.state.node.counters for engine in engines]
    assert sum(count.handovers for count in counts) > 10
    assert sum(count.promotions + count.unconfirmed for count in counts) == 0


@simulated()
async def test_a_group_rests_where_it_went(scene: Scene) -> None:
    """R5: at least 100 ms, so that nodes do not pull it to and fro."""
    await scene.create("n1", a="1")
    await scene.see("n2")
    before = scene.world.now
    await scene.see("n3")
    assert scene.world.now - before >= 0.09


@simulated()
async def test_the_batch_of_a_request_follows_the_group(scene: Scene) -> None:
    """R5: a request whose node lost the group sends its batch to the new primary."""
    await scene.create("n1", a="1")
    await scene.see("n2")
    receipt = await scene.write("n1", b="2")
    assert receipt.holders[0] == "n2"
    assert scene.at("n1").node.counters.forwards == 1
    assert await scene.see("n2") == {"a": "1", "b": "2"}


@simulated()
async def test_a_forwarded_batch_without_an_answer_is_unknown(scene: Scene) -> None:
    """Hazard "acknowledgement lost", forwarded: it is never sent a second time."""
    await scene.create("n1", a="1")
    await scene.see("n2")
    scene.lose(Committed, "n2", "n1", 1)
    with pytest.raises(CommitUnconfirmed):
        await scene.write("n1", b="2")
    assert scene.at("n1").node.counters.forwards == 1
    assert await scene.see("n3") == {"a": "1", "b": "2"}


# --- changes -------------------------------------------------------------------------------------


@simulated(engines=2)
async def test_changes_that_overtake_each_other_end_in_order(scene: Scene) -> None:
    """Hazard "changes out of order": system 2 (f), versions 5, 7, 6 are the state of 7."""
    await scene.create("n1", a="1")
    for version in range(2, 5):
        await scene.write("n1", a=str(version))
    caught = scene.catch_pushes("n2")
    commits = [scene.start(scene.write("n1", a=str(version))) for version in range(5, 8)]
    await asyncio.sleep(0.01)
    five, six, seven = caught[:3]
    assert [push.version for push in (five, six, seven)] == [5, 6, 7]
    assert accept(scene, "n2", "n1", five) == Pushed(5)
    assert isinstance(accept(scene, "n2", "n1", seven), Behind)
    assert accept(scene, "n2", "n1", six) == Pushed(6)
    assert accept(scene, "n2", "n1", six) == Pushed(6), "twice: ignored"
    assert accept(scene, "n2", "n1", seven) == Pushed(7)
    assert accept(scene, "n2", "n1", six) == Pushed(7), "late: ignored"
    scene.world.held_back = None
    await asyncio.gather(*commits)
    assert scene.world.hosts["n1"].content(GROUP) == scene.world.hosts["n2"].content(GROUP)


@simulated()
async def test_a_copy_without_the_base_gets_what_it_lacks(scene: Scene) -> None:
    """Hazard "missing base": R8; system 2 (f), a lost change is caught up."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    with pytest.raises(CommitUnconfirmed):
        await scene.write("n1", b="2")
    scene.world.held_back = None
    receipt = await scene.put("n1", c="3")
    assert receipt.copies == 1
    assert scene.world.hosts["n1"].content(GROUP) == scene.world.hosts["n2"].content(GROUP)


@simulated()
async def test_a_deleted_element_does_not_return_with_a_late_copy(scene: Scene) -> None:
    """R8: who got the whole group can still tell another copy what was deleted before."""
    await scene.create("n1", a="1", b="2")
    await scene.exclude("n2")
    await scene.delete("n1", "b")
    assert set(scene.copies()) == {"n1", "n2", "n3"}
    await scene.crash("n1")
    scene.world.resume("n2")
    await scene.members("n2", "n3")
    scene.world.forgotten.add("n1")
    receipt = await scene.put("n3", c="3")
    assert receipt.holders == ("n3", "n2")
    assert scene.world.hosts["n3"].content(GROUP) == scene.world.hosts["n2"].content(GROUP)
    assert await scene.see("n2") == {"a": "1", "c": "3"}


@simulated()
async def test_a_lost_acknowledgement_costs_a_second_push(scene: Scene) -> None:
    """Hazard "acknowledgement lost": pushes are idempotent."""
    await scene.create("n1", a="1")
    scene.lose(Pushed, "n2", "n1", 1)
    receipt = await scene.put("n1", a="2")
    assert (receipt.copies, receipt.position.version) == (1, 2)
    assert scene.copies() == {"n1": 2, "n2": 2}


@simulated()
async def test_a_browser_that_missed_a_response_is_served_everything(scene: Scene) -> None:
    """Hazard "response lost": an older cookie is a lower floor, and no more (R16)."""
    receipt = await scene.create("n1", a="1")
    await scene.put("n1", a="2")
    await scene.crash("n1")
    assert await scene.see("n3", floor=receipt.position) == {"a": "2"}


@simulated()
async def test_requests_with_older_cookies_do_not_undo_each_other(scene: Scene) -> None:
    """Hazard "concurrent requests with older cookies": both changes are there, in any order."""
    await scene.create("n1", a="1")
    await asyncio.gather(
        scene.put("n1", b="2"), scene.put("n2", c="3"), scene.put("n3", d="4")
    )  # fmt: skip
    assert await scene.see("n1") == {"a": "1", "b": "2", "c": "3", "d": "4"}


@simulated()
async def test_a_backup_that_dies_during_a_commit_is_replaced_in_it(scene: Scene) -> None:
    """Hazard "list of backups changed during a request": R1, and the receipt tells who has it."""
    receipt = await scene.create("n1", a="1")
    assert receipt.holders == ("n1", "n2")
    scene.world.crash("n2")
    receipt = await scene.write("n1", a="2")
    assert receipt.holders == ("n1", "n3")
    assert receipt.position.version == 2, "the change's own, whatever was settled with it"
    assert scene.copies() == {"n1": 3, "n3": 3}


@simulated(nodes=4, options=Options(backups=1, heal_after=0.1))
async def test_a_copy_is_given_up_only_when_its_replacement_is_there(scene: Scene) -> None:
    """R1: the leaving holder is told last, so at no time there are fewer copies than told."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n3")
    claimed = scene.start(scene.see("n3"))
    await claimed
    assert await scene.see("n3") == {"a": "1"}
    assert scene.copies() == {"n1": 2, "n3": 2}, "n2 was told after n1 had it"
    scene.catch_pushes("n3")
    taken = scene.start(scene.see("n2"))
    await asyncio.sleep(0.5)
    assert "n1" in scene.copies(), "its replacement n3 has not confirmed yet"
    scene.world.held_back = None
    await taken
    assert set(scene.copies()) == {"n2", "n3"}


@simulated(engines=2)
async def test_a_receipt_does_not_tell_what_a_sibling_is_still_writing(scene: Scene) -> None:
    """R1, R16: a cookie above what is confirmed would refuse the browser after a failover."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    first = scene.start(scene.write("n1", 0, b="2"))
    await asyncio.sleep(0.001)
    scene.world.held_back = None
    second = scene.start(scene.write("n1", 1, c="3"))
    done = [await first, await second]
    for receipt in done:
        assert scene.copies()["n2"] >= receipt.position.version  # type: ignore[attr-defined]


# --- the end of sessions -------------------------------------------------------------------------


@simulated()
async def test_a_slow_request_does_not_undo_a_log_out(scene: Scene) -> None:
    """Hazard "log-out against a slow request": G6; system 5 (j)."""
    await scene.create("n1", a="1")
    await scene.log_out("n1")
    with pytest.raises(SessionRevoked):
        await scene.write("n1", a="2")
    with pytest.raises(SessionRevoked):
        await scene.write("n3", a="3")
    assert await scene.see("n1") is None


@simulated()
async def test_logged_out_stays_logged_out_after_a_failover(scene: Scene) -> None:
    """G6; system 5 (j)."""
    receipt = await scene.create("n1", a="1")
    await scene.log_out("n1")
    await scene.crash("n1")
    assert await scene.see("n3", floor=receipt.position) is None
    assert await scene.see("n2", floor=receipt.position) is None


@simulated()
async def test_a_copy_from_before_the_log_out_does_not_return(scene: Scene) -> None:
    """Hazard "log-out against replication": a holder that missed it is told by the tombstone."""
    receipt = await scene.create("n1", a="1")
    await scene.exclude("n2")
    await scene.log_out("n1")
    scene.world.resume("n2")
    await scene.members("n2")
    assert await scene.see("n2", floor=receipt.position) is None


@simulated()
async def test_touches_lost_on_the_way_shorten_a_session_by_no_more_than_themselves(
    scene: Scene,
) -> None:
    """Hazard "touches lost at failover": G10, the deadline is that of the last one that arrived."""
    await scene.create("n1", a="1")
    scene.lose(Touch, "n1", "n2")
    await asyncio.sleep(60)
    scene.at("n1").touch(GROUP, KEY)
    await asyncio.sleep(1)
    scene.world.held_back = None
    await asyncio.sleep(59)
    scene.at("n1").touch(GROUP, KEY)
    await asyncio.sleep(1)
    assert abs(_idle_left(scene, "n2") - _idle_left(scene, "n1")) < 5
    scene.lose(Touch, "n1", "n2")
    await asyncio.sleep(60)
    scene.at("n1").touch(GROUP, KEY)
    await scene.crash("n1")
    assert await scene.see("n2") == {"a": "1"}
    loaded = scene.at("n2").load(GROUP, KEY)
    assert loaded is not None
    assert 1_800_000 - 62_000 <= loaded.idle_left <= 1_800_000


def _idle_left(scene: Scene, node: str) -> int:
    host = scene.world.hosts[node]
    with MemoryReader(host.memory) as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    return session.deadline - host.clock.now()


# --- nodes that come and go ----------------------------------------------------------------------


@simulated()
async def test_old_data_that_returns_is_never_served_as_current(scene: Scene) -> None:
    """Hazard "rejoin with old data": R6; system 5 (h)."""
    receipt = await scene.create("n1", a="1")
    await scene.crash("n1")
    await scene.put("n2", a="2")
    await scene.restart("n1", kept=True)
    assert scene.copies()["n1"] == 1
    assert scene.at("n1").held(GROUP, None) is None
    assert await scene.see("n1", floor=receipt.position) == {"a": "2"}


@simulated()
async def test_exclusions_one_after_the_other_lose_nothing(scene: Scene) -> None:
    """Hazard "successive exclusions without any crash": R4, R6."""
    await scene.create("n1", a="0")
    for number in range(1, 13):
        name = f"n{number % 3 + 1}"
        scene.world.expel(name)
        await scene.members("n1", "n2", "n3")
        node = f"n{(number + 1) % 3 + 1}"
        assert await scene.see(node) == {"a": str(number - 1)}
        assert (await scene.put(node, a=str(number))).copies == 1


@simulated()
async def test_a_node_that_lost_its_store_is_a_new_member(scene: Scene) -> None:
    """Hazard "same name, new process": R7, it answers "none" and is brought up to date."""
    await scene.create("n1", a="1")
    before = scene.world.hosts["n2"].incarnation
    await scene.crash("n2")
    await scene.restart("n2", kept=False)
    assert scene.world.hosts["n2"].incarnation != before
    assert scene.copies() == {"n1": 1}
    receipt = await scene.put("n1", a="2")
    assert receipt.holders == ("n1", "n2")
    await scene.crash("n1")
    assert await scene.see("n2") == {"a": "2"}


@simulated()
async def test_a_primary_that_lost_its_store_before_anyone_noticed_is_refused(scene: Scene) -> None:
    """Hazard "same name, new process": what was sent to the old incarnation does not count."""
    await scene.create("n1", a="1")
    scene.world.crash("n1")
    scene.world.restart("n1", kept=False)
    await scene.members("n1")
    assert await scene.see("n1") == {"a": "1"}


@simulated(nodes=2)
async def test_a_cold_start_with_kept_stores_goes_on(scene: Scene) -> None:
    """Hazard "cold start": R7, R13, a restart of everything is a pause."""
    await scene.create("n1", a="1")
    scene.world.crash("n1")
    scene.world.crash("n2")
    await asyncio.sleep(1)
    await scene.restart("n2", "n1", kept=True)
    assert await scene.see("n2") == {"a": "1"}
    assert await scene.see("n1") == {"a": "1"}


@simulated(nodes=2)
async def test_promoting_a_copy_in_quarantine_does_not_drop_the_others(scene: Scene) -> None:
    """G1: after a restart of everything one more crash takes no session away."""
    await scene.create("n1", a="1")
    for name in ("n1", "n2"):
        scene.world.expel(name)
        await scene.members("n1", "n2")
    assert await scene.see("n1") == {"a": "1"}
    await scene.crash("n1")
    scene.world.forgotten.add("n1")
    assert await scene.see("n2") == {"a": "1"}


@simulated(nodes=2)
async def test_a_restarted_primary_syncs_before_it_serves(scene: Scene) -> None:
    """R13: a change without an outcome is pushed, never silently rolled back."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    commit = scene.start(scene.write("n1", a="2"))
    await asyncio.sleep(0.01)
    scene.world.crash("n1")
    commit.cancel()
    scene.world.restart("n1", kept=True)
    assert scene.at("n1").held(GROUP, None) is None
    scene.world.held_back = None
    assert await scene.see("n1") == {"a": "2"}
    assert scene.copies() == {"n1": 2, "n2": 2}


# --- engines -------------------------------------------------------------------------------------


@simulated(engines=2)
async def test_a_sibling_never_serves_what_is_not_acknowledged(scene: Scene) -> None:
    """Hazard "dirty read of an uncommitted change"."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    commit = scene.start(scene.write("n1", 0, a="2"))
    await asyncio.sleep(0.05)
    assert scene.at("n1", 1).held(GROUP, None) is None
    reading = scene.start(scene.see("n1", 1))
    await asyncio.sleep(0.1)
    assert not reading.done()
    scene.world.held_back = None
    assert await reading == {"a": "2"}
    await commit


@simulated(engines=2)
async def test_a_sibling_finishes_what_a_dead_engine_began(scene: Scene) -> None:
    """Hazard "dirty read": the engine dies between the two transactions of a commit (R13)."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    commit = scene.start(scene.write("n1", 0, a="2"))
    await asyncio.sleep(0.01)
    commit.cancel()
    scene.world.kill_engine(scene.world.hosts["n1"].engines[0])
    scene.world.held_back = None
    assert await scene.see("n1", 0) == {"a": "2"}
    assert scene.copies() == {"n1": 2, "n2": 2}


@simulated()
async def test_a_cancelled_request_leaves_no_half_round(scene: Scene) -> None:
    """Hazard "cancellation in the middle of a round": R17."""
    await scene.create("n1", a="1")
    scene.catch_pushes("n2")
    commit = scene.start(scene.write("n1", a="2"))
    await asyncio.sleep(0.01)
    commit.cancel()
    scene.world.held_back = None
    await asyncio.sleep(1)
    assert scene.copies() == {"n1": 2, "n2": 2}
    assert scene.at("n1").held(GROUP, None) is not None


@simulated()
async def test_a_cancelled_acquisition_goes_on_for_others(scene: Scene) -> None:
    """R17: acquisitions run in tasks of their own."""
    await scene.create("n1", a="1")
    first = scene.start(scene.see("n2"))
    second = scene.start(scene.see("n2"))
    await asyncio.sleep(0.001)
    first.cancel()
    assert await second == {"a": "1"}


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [("n1", "n2"), ("n2", "n1")])
def test_a_cut_in_one_direction_confirms_nothing(source: str, target: str) -> None:
    """Hazard "one-way cuts": no private decision of the primary drops a backup (R1)."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        scene.world.cut.add((source, target))
        with pytest.raises(CommitUnconfirmed) as unknown:
            await scene.write("n1", a="2")
        assert unknown.value.missing == ("n2",)
        assert target in scene.world.hosts["n1"].membership.suspected or source == "n2"
        scene.world.cut.clear()
        assert await scene.see("n1") == {"a": "2"}
        assert scene.copies() == {"n1": 2, "n2": 2}

    scenario()


@simulated()
async def test_a_request_refused_by_one_node_is_served_by_another(scene: Scene) -> None:
    """Hazard "retry through another router" (R14): a refusal changed nothing."""
    await scene.create("n1", a="1")
    await asyncio.sleep(0.2)
    scene.world.cut |= {("n3", "n1"), ("n3", "n2")}
    with pytest.raises(SessionUnavailable):
        await scene.put("n3", a="2")
    assert await scene.see("n2") == {"a": "1"}
    assert (await scene.put("n2", a="2")).copies == 1


# --- room ----------------------------------------------------------------------------------------


@simulated(size=20_000)
async def test_a_full_backup_says_so_and_another_is_chosen(scene: Scene) -> None:
    """Section 8: copies in sync are never silently evicted; CannotHold is recorded first (R1)."""
    await scene.create("n1", a="1")
    _fill(scene.world, "n2")
    receipt = await scene.put("n1", a="2" * 50)
    assert receipt.holders == ("n1", "n3")
    left = scene.world.hosts["n2"].record(GROUP)
    assert left is None or left.synced == NO_VIEW, "it counts no more"
    await scene.crash("n1")
    assert await scene.see("n2") == {"a": "2" * 50}


def _fill(world: World, node: str) -> None:
    memory = world.hosts[node].memory
    store = world.hosts[node].engines[0].state.node.store
    with store.write() as writer:
        writer.put(b"\x00ballast", b"x" * (int(memory.size * 0.8) - memory.used))


@simulated(nodes=2, options=Options(backups=1, min_copies=1, commit_timeout=0.5))
async def test_below_min_copies_nothing_is_written(scene: Scene) -> None:
    """G1, section 3: 503 with the outcome *fail*."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    with pytest.raises(SessionUnavailable) as refused:
        await scene.write("n1", a="2")
    assert not isinstance(refused.value, CommitUnconfirmed)
    assert await scene.see("n1") == {"a": "1"}
    await scene.restart("n2", kept=False)
    assert (await scene.put("n1", a="3")).copies == 1


@simulated(nodes=2)
async def test_fewer_copies_are_told(scene: Scene) -> None:
    """G1: the receipt has the number of copies, 0 when a pair has lost one."""
    assert (await scene.create("n1", a="1")).copies == 1
    await scene.crash("n2")
    assert (await scene.put("n1", a="2")).copies == 0
    await scene.restart("n2")
    assert (await scene.put("n1", a="3")).copies == 1


# --- giving up -----------------------------------------------------------------------------------


@simulated()
async def test_gone_needs_the_word_of_everybody(scene: Scene) -> None:
    """R12: a member that is away may hold what nobody here has."""
    await scene.create("n1", a="1")
    await scene.crash("n1", "n2")
    with pytest.raises(SessionUnavailable):
        await scene.see("n3")
    await scene.restart("n2", kept=True)
    assert await scene.see("n3") == {"a": "1"}


@simulated()
async def test_gone_is_proven_when_all_came_back_empty(scene: Scene) -> None:
    """R12: a blank store counts as "none"."""
    await scene.create("n1", a="1")
    await scene.crash("n1", "n2")
    await scene.restart("n1", "n2", kept=False)
    assert await scene.see("n3") is None
    assert scene.at("n3").node.counters.gone == 1


@simulated()
async def test_a_member_that_returns_during_the_question_is_asked_too(scene: Scene) -> None:
    """R12: who was asked and who is proven empty are one view."""
    await scene.create("n1", a="1")
    await scene.crash("n1", "n2")
    await scene.restart("n2", kept=False)
    scene.world.faults.delay = (0.4, 0.4)
    search = scene.start(scene.see("n3"))
    await asyncio.sleep(0.1)
    scene.world.restart("n1", kept=True)
    await scene.members("n1")
    scene.world.faults.delay = (0.001, 0.001)
    assert await search == {"a": "1"}


@simulated()
async def test_a_copy_below_the_cookie_is_refused(scene: Scene) -> None:
    """R16: only copies older than the client's last answer are alive."""
    await scene.leave_an_old_copy()
    with pytest.raises(StaleSession):
        await scene.see("n2")


@simulated()
async def test_what_was_forgotten_is_given_up_and_counted(scene: Scene) -> None:
    """R18: the newest copy at hand is adopted, and the cookie gets a new and higher position."""
    receipt = await scene.create("n1", a="1")
    newer = Position(receipt.position.epoch._replace(view=40, attempt=99), 70)
    await scene.crash("n1")
    with pytest.raises(StaleSession):
        await scene.see("n2", floor=newer)
    scene.world.forgotten.add("n1")
    assert await scene.see("n2", floor=newer) == {"a": "1"}
    held = scene.at("n2").held(GROUP, None)
    assert held is not None
    assert held.position > newer
    assert scene.at("n2").node.counters.rolled_back == 1


@simulated()
async def test_what_a_forgotten_node_brings_back_loses(scene: Scene) -> None:
    """R18: everything adopted since is newer."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await scene.put("n1", a="2")
    await scene.crash("n1")
    await scene.restart("n2", kept=True)
    await scene.crash("n3")
    scene.world.forgotten |= {"n1", "n3"}
    assert await scene.see("n2") == {"a": "1"}
    await scene.put("n2", a="3")
    await scene.restart("n1", "n3", kept=True)
    assert await scene.see("n1", floor=NO_POSITION) == {"a": "3"}


@simulated(nodes=2)
async def test_a_primary_below_the_cookie_asks_everybody(scene: Scene) -> None:
    """Section 3: primary, position below the floor: promote afresh, then serve."""
    await scene.create("n1", a="1")
    held = scene.at("n1").held(GROUP, None)
    assert held is not None
    above = Position(held.position.epoch, held.position.version + 1)
    assert await scene.see("n1", floor=above) == {"a": "1"}
    assert scene.at("n1").node.counters.rolled_back == 1
    assert await scene.see("n2", floor=above) == {"a": "1"}
