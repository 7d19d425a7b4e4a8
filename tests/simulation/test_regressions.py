"""What must hold besides the named hazards: idle groups, full stores, clocks that go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import pytest

from sessionha.errors import SessionUnavailable, StoreFull
from sessionha.identity import NO_VIEW
from sessionha.peer.messages import CannotHold
from sessionha.state.clock import NodeClock
from sessionha.state.node import Options
from sessionha.state.records import get_session
from sessionha.store.memory import Memory, MemoryReader, MemoryStore
from tests.simulation.scenes import GROUP, KEY, Scene, simulated

HEAL_AFTER = 30.0
"""Seconds; the default."""


async def look_after(scene: Scene, seconds: float) -> None:
    """What every node's leader does unasked, for a while; nobody sends requests."""
    end = scene.world.now + seconds
    while scene.world.now < end:
        await asyncio.gather(*(host.engines[0].upkeep.repair() for host in scene.world.living))
        await asyncio.sleep(0.25)


async def until(reached: Callable[[], bool]) -> None:
    """Let virtual milliseconds pass until something happened, at most ten seconds."""
    for _ in range(10_000):
        if reached():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("never reached")


def promised(scene: Scene, node: str) -> str:
    """Whom the node has promised the group to."""
    record = scene.world.hosts[node].record(GROUP)
    assert record is not None
    return record.promise.node


def in_sync(scene: Scene) -> set[str]:
    """The living nodes whose copy counts: the newest one, of their present membership."""
    view = scene.world.truth
    found = set()
    for host in scene.world.living:
        record, member = host.record(GROUP), view.member(host.name)
        if record is not None and member is not None and record.held:
            current = record.version == max(scene.copies().values())
            if current and record.synced == member.joined:
                found.add(host.name)
    return found


def primary(scene: Scene) -> str:
    """The only node that serves the group."""
    (name,) = [
        host.name
        for host in scene.world.living
        if scene.at(host.name).held(GROUP, scene.cookie) is not None
    ]
    return name


def idle_left(scene: Scene, node: str) -> int:
    """Milliseconds until the session ends, by the node's copy."""
    host = scene.world.hosts[node]
    with MemoryReader(host.memory) as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    return session.deadline - host.clock.now()


def fill(scene: Scene, node: str, share: float) -> None:
    """Let other data take the node's store up to a share of its size."""
    memory = scene.world.hosts[node].memory
    memory.size = max(memory.size, 1 << 30)
    with scene.at(node).node.store.write() as writer:
        writer.put(b"\x00ballast", b"x" * 20_000)
    memory.size = int(memory.used / share)


# --- groups that nobody asks for -----------------------------------------------------------------


@pytest.mark.parametrize("lost", ["primary", "backup"])
@pytest.mark.parametrize("kept", [True, False], ids=["with its store", "without its store"])
def test_an_idle_group_is_healed_when_its_primary_came_back_anew(kept: bool, lost: str) -> None:
    """R12, R13: without any request a group whose primary is a new member has all its copies
    again, and then one more crash of either holder takes nothing away."""

    @simulated()
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", a="1")
        await scene.crash("n1")
        await scene.restart("n1", kept=kept)
        await look_after(scene, 2 * HEAL_AFTER)
        copies = in_sync(scene)
        assert len(copies) == 2
        first = primary(scene)
        assert first in copies
        dead = first if lost == "primary" else (copies - {first}).pop()
        await scene.crash(dead)
        for host in scene.world.living:
            assert await scene.see(host.name) == {"a": "1"}

    scenario()


@simulated()
async def test_both_holders_that_were_excluded_and_are_back_are_holders_again(
    scene: Scene,
) -> None:
    """R1, R4: a read that promotes one of two copies in quarantine does not give the other up."""
    await scene.create("n1", a="1")
    await scene.crash("n1")
    await scene.crash("n2")
    await scene.restart("n1")
    await scene.restart("n2")
    assert await scene.see("n2") == {"a": "1"}
    assert in_sync(scene) == {"n1", "n2"}
    await look_after(scene, 2 * HEAL_AFTER)
    assert len(in_sync(scene)) == 2
    scene.world.forgotten.add("n2")
    await scene.crash("n2")
    assert await scene.see("n3") == {"a": "1"}


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_an_engine_that_started_after_a_failure_knows_the_delay_of_healing(
    scene: Scene,
) -> None:
    """System 7: how long a node is away belongs to the node, not to the engine that saw it go."""
    await scene.create("n1", a="1")
    (witness,) = scene.world.hosts["n1"].engines
    await scene.crash("n2")
    await asyncio.sleep(10)
    scene.world.start_engine("n1")
    scene.world.kill_engine(witness)
    await look_after(scene, 15)
    assert in_sync(scene) == {"n1"}, "n2 may still come back"
    await look_after(scene, 10)
    assert in_sync(scene) == {"n1", "n3"}
    await scene.crash("n1")
    assert await scene.see("n3") == {"a": "1"}


# --- full stores ---------------------------------------------------------------------------------


@simulated(nodes=2)
async def test_a_full_backup_keeps_what_it_had_acknowledged(scene: Scene) -> None:
    """R1: it answers CannotHold and counts no more, but its copy stays until something newer is
    confirmed elsewhere: after one crash the acknowledged state is there."""
    receipt = await scene.create("n1", a="1")
    assert receipt.copies == 1
    fill(scene, "n2", 0.93)
    told: list[object] = []

    def loses(source: str, target: str, message: object) -> bool:
        if source == "n2":
            told.append(message)
        return source == "n2"

    scene.world.held_back = loses
    unconfirmed = scene.start(scene.write("n1", a="2"))
    await until(lambda: bool(told))
    assert isinstance(told[0], CannotHold)
    assert not unconfirmed.done()
    unconfirmed.cancel()
    left = scene.world.hosts["n2"].record(GROUP)
    assert left is not None
    assert (left.held, left.version, left.synced) == (True, 1, NO_VIEW)
    scene.world.held_back = None
    await scene.crash("n1")
    assert await scene.see("n2") == {"a": "1"}


@simulated()
async def test_a_full_claimant_is_unavailable_and_the_session_stays_elsewhere(
    scene: Scene,
) -> None:
    """Section 8: a node without room for a group answers 503, nothing else; others serve it."""
    await scene.create("n1", a="1" * 4_000)
    fill(scene, "n3", 0.93)
    with pytest.raises(SessionUnavailable) as refused:
        await scene.see("n3")
    assert not isinstance(refused.value, StoreFull)
    assert await scene.see("n2") == {"a": "1" * 4_000}
    assert await scene.see("n1") == {"a": "1" * 4_000}


@simulated(nodes=2)
async def test_a_full_primary_serves_reads_that_are_due_a_touch(scene: Scene) -> None:
    """G10, section 8: a touch needs no room of its own, and none is better than no answer."""
    await scene.create("n1", a="1")
    await asyncio.sleep(120)
    fill(scene, "n1", 0.93)
    scene.at("n1").touch(GROUP, KEY)
    assert idle_left(scene, "n1") == 1_800_000
    await asyncio.sleep(120)
    fill(scene, "n1", 0.99)
    scene.at("n1").touch(GROUP, KEY)
    assert await scene.see("n1") == {"a": "1"}


# --- touches -------------------------------------------------------------------------------------


@simulated(nodes=2)
async def test_a_backup_that_was_away_gets_the_touches_it_missed(scene: Scene) -> None:
    """G10: deadlines are outside the version, so a difference brings all of them."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    for _ in range(20):
        await asyncio.sleep(60)
        scene.at("n1").touch(GROUP, KEY)
    await scene.restart("n2")
    await look_after(scene, 1)
    assert in_sync(scene) == {"n1", "n2"}
    assert scene.at("n2").node.counters.pushes_full == 0, "a difference is enough"
    assert abs(idle_left(scene, "n2") - idle_left(scene, "n1")) < 5
    await scene.crash("n1")
    await asyncio.sleep(15 * 60)  # 35 minutes old, 15 of them idle; 30 are allowed
    assert await scene.see("n2") == {"a": "1"}


# --- hand-overs ----------------------------------------------------------------------------------


@simulated()
async def test_a_hand_over_whose_source_left_meanwhile_ends_in_a_full_promotion(
    scene: Scene,
) -> None:
    """R3, R5: the grant of a node that is no member any more does not make a primary by itself,
    and the claimant does not wait for the source to acknowledge."""
    await scene.create("n1", a="1")
    await asyncio.sleep(1)
    faults = scene.world.faults
    faults.delay, faults.detection, faults.learning = (0.05, 0.05), (0.0, 0.0), (0.0, 0.0)
    request = scene.start(scene.see("n3"))
    await until(lambda: promised(scene, "n1") == "n3")
    began = scene.world.now
    await scene.crash("n1")
    mine = scene.world.hosts["n3"].record(GROUP)
    assert mine is None or not mine.held, "the grant is still on its way"
    assert await request == {"a": "1"}
    assert scene.world.now - began < 1, "seconds"
    counters = scene.at("n3").node.counters
    assert (counters.handovers, counters.promotions) == (0, 1)
    assert in_sync(scene) == {"n2", "n3"}


# --- the clock -----------------------------------------------------------------------------------


class Machine:
    """A machine that can reboot: its boot, its uptime and its wall clock."""

    def __init__(self) -> None:
        self.boot = "first"
        self.up = 90 * 86_400_000
        self.wall = 1_800_000_000_000

    def passes(self, milliseconds: int) -> None:
        self.up += milliseconds
        self.wall += milliseconds

    def reboots(self, off: int) -> None:
        """Off for so many milliseconds by its wall clock; the uptime begins anew."""
        self.boot += "+"
        self.up = 20_000
        self.wall += off


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("sessionha.state.clock.boot_id", lambda: made.boot)
    monkeypatch.setattr("sessionha.state.clock.boottime", lambda: made.up)
    monkeypatch.setattr("sessionha.state.clock.time.time", lambda: made.wall / 1000)
    return made


class Run(NamedTuple):
    """The engines of one node between two reboots."""

    clocks: list[NodeClock]

    def now(self) -> int:
        (now,) = {clock.now() for clock in self.clocks}
        return now


def begun(memory: Memory, machine: Machine) -> Run:
    """Three engines that start one after the other."""
    clocks = []
    for _ in range(3):
        clocks.append(NodeClock(MemoryStore(memory).open()))
        clocks[-1].begin()
        machine.passes(7_000)
    return Run(clocks)


def test_the_clock_goes_on_by_the_wall_clock_after_a_reboot(machine: Machine) -> None:
    """Contract, lifetimes: what a store holds ends when it would have ended without the reboot,
    whatever the uptime was, and all engines of a run say the same instant."""
    memory = Memory()
    first = begun(memory, machine)
    machine.passes(3_600_000)
    before = first.now()
    first.clocks[1].mark()
    machine.passes(4_000)
    memory.restart(rebooted=True)
    machine.reboots(off=600_000)
    second = begun(memory, machine)
    assert second.now() == before + 4_000 + 600_000 + 3 * 7_000
    machine.passes(1_000)
    second.clocks[2].mark()
    at_mark = second.now()
    memory.restart(rebooted=True)
    machine.reboots(off=60_000)
    assert begun(memory, machine).now() == at_mark + 60_000 + 3 * 7_000


def test_the_clock_never_goes_back(machine: Machine) -> None:
    """A wall clock that was set back during a reboot makes no deadline later than it was."""
    memory = Memory()
    first = begun(memory, machine)
    first.clocks[0].mark()
    before = first.now()
    memory.restart(rebooted=True)
    machine.reboots(off=-86_400_000)
    assert begun(memory, machine).now() == before + 3 * 7_000


def test_a_restart_without_a_reboot_leaves_the_clock_alone(machine: Machine) -> None:
    """The marks are for reboots: within one boot the uptime alone counts."""
    memory = Memory()
    machine.reboots(off=0)
    begun(memory, machine)
    memory.restart()
    machine.reboots(off=5_000)
    first = begun(memory, machine)
    before = first.now()
    memory.restart()
    machine.passes(50_000)
    machine.wall += 86_400_000  # somebody corrected it
    assert begun(memory, machine).now() == before + 50_000 + 3 * 7_000


# --- hand-overs ----------------------------------------------------------------------------------


@simulated()
async def test_a_hand_over_by_an_excluded_primary_undoes_nothing(scene: Scene) -> None:
    """R3, R4: a claimant whose own copy is newer than what it is given knows that the giver was
    deposed. Here neither of the two has learned yet that the giver is excluded."""
    await scene.create("n1", a="1")
    old = scene.cookie
    scene.world.faults.learning = (1.0, 1.0)
    scene.world.expel("n1")
    scene.world.hosts["n3"].membership.install(scene.world.truth)
    receipt = await scene.put("n3", a="2")
    assert receipt.holders == ("n3", "n2")
    assert await scene.see("n2", floor=old) == {"a": "2"}
    assert await scene.see("n3") == {"a": "2"}
