"""What the leader of a node does unasked: sweeping what ended, restoring missing copies."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.identity import NO_POSITION, Epoch
from sessionha.peer.base import Sender
from sessionha.peer.messages import Batch, Create, Promise, SessionChange
from sessionha.state import copies
from sessionha.state.copies import EXPIRY_SKEW
from sessionha.state.node import Options
from sessionha.state.records import GroupRecord, get_group, get_session, groups, rows
from sessionha.state.replication import PROMISE_TTL
from sessionha.state.upkeep import LATE, ROWS_AT_ONCE, Upkeep, grace
from sessionha.store.memory import MemoryReader
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene, simulated

IDLE = LIFETIMES.idle_timeout / 1000
GRACE = grace(LIFETIMES.idle_timeout) / 1000
LIFETIME = LIFETIMES.lifetime / 1000
MOMENT = (EXPIRY_SKEW + 100) / 1000
HEAL_AFTER = 30.0


def upkeep(scene: Scene, node: str) -> Upkeep:
    return scene.world.hosts[node].engines[0].upkeep


def row_count(scene: Scene, node: str) -> int:
    """Session and element rows of the group on a node."""
    with MemoryReader(scene.world.hosts[node].memory) as reader:
        return len(list(rows(reader, GROUP)))


async def repair_everywhere(scene: Scene) -> int:
    done = [await upkeep(scene, host.name).repair() for host in scene.world.living]
    return sum(done)


# --- a long absence ------------------------------------------------------------------------------


async def log_out_and_forget(scene: Scene, away: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """n2 is away for so many seconds of virtual time; the session that it holds is destroyed
    meanwhile, the log-out is forgotten, and those who knew of it are gone when it returns."""
    monkeypatch.setattr(copies, "TOMBSTONE_TTL", 60_000)
    create = SessionChange(KEY, create=Create(3_600_000, 0), puts=(("a", "value", b"1"),))
    receipt = await scene.at("n1").commit(Batch(GROUP, (create,)), fresh=True)
    assert receipt.holders == ("n1", "n2")
    upkeep(scene, "n2").keep_time()
    await scene.exclude("n2")
    await scene.log_out("n1")
    await asyncio.sleep(away)
    for node in ("n1", "n3"):
        await upkeep(scene, node).sweep()
    scene.world.resume("n2")
    await scene.members("n2")
    upkeep(scene, "n2").keep_time()


@simulated()
async def test_what_outlasted_the_memory_of_its_log_out_does_not_come_back(scene: Scene) -> None:
    """G6, R11: a store out of the view for longer than tombstones are kept is emptied."""
    with pytest.MonkeyPatch.context() as patch:
        await log_out_and_forget(scene, 70.0, patch)
        record = scene.world.hosts["n2"].record(GROUP)
        assert record is not None
        assert not record.held
        assert await scene.see("n2", floor=NO_POSITION) is None


@simulated()
async def test_a_shorter_absence_drops_nothing(scene: Scene) -> None:
    """R6: and the log-out is still remembered."""
    with pytest.MonkeyPatch.context() as patch:
        await log_out_and_forget(scene, 20.0, patch)
        record = scene.world.hosts["n2"].record(GROUP)
        assert record is not None
        assert record.held
        assert await scene.see("n2", floor=NO_POSITION) is None


# --- sweeping ------------------------------------------------------------------------------------


@simulated(nodes=2)
async def test_an_expired_session_goes_when_touches_cannot_be_missing_any_more(
    scene: Scene,
) -> None:
    """G10: it is not served after its deadline, and kept for a grace besides."""
    await scene.create("n1", a="1")
    await asyncio.sleep(IDLE + 0.1)
    assert scene.at("n1").load(GROUP, KEY) is None
    for node in ("n1", "n2"):
        assert await upkeep(scene, node).sweep() == 0
    await asyncio.sleep(GRACE)
    for node in ("n1", "n2"):
        assert await upkeep(scene, node).sweep() == 2, "the session and its element"
        assert row_count(scene, node) == 0
        assert scene.at(node).node.counters.swept == 2
    await asyncio.sleep(LATE / 1000)
    for node in ("n1", "n2"):
        await upkeep(scene, node).sweep()
        assert scene.world.hosts[node].record(GROUP) is None, "nothing is left of its group"


@simulated()
async def test_a_copy_from_which_a_session_was_swept_gets_everything_again(scene: Scene) -> None:
    """R8: it was cut off, and did not hear that the session was used; what it swept lies below the
    position that it had, so a difference to that would leave the session without its elements."""
    other = SessionChange(b"\x02" * 16, create=Create(3_600_000, 0), puts=(("b", "value", b"1"),))
    await scene.create("n1", a="1")
    await scene.at("n1").commit(Batch(GROUP, (other,)), fresh=False)
    scene.cookie = None
    await scene.exclude("n2")
    for _ in range(4):
        await asyncio.sleep(IDLE / 2)
        scene.at("n1").touch(GROUP, KEY)
    await upkeep(scene, "n2").sweep()
    scene.world.resume("n2")
    await scene.members("n2")
    assert await scene.see("n2", floor=NO_POSITION) == {"a": "1"}


@simulated(nodes=2)
async def test_a_change_that_comes_after_the_sweep_begins_no_session_again(scene: Scene) -> None:
    """G10, R11: the times that travel are remaining ones, so what was under way for long would
    bring an ended session back, with a life of its own."""
    pushes = scene.overhear_pushes("n2")
    await scene.create("n1", a="1")
    await asyncio.sleep(IDLE + GRACE + 0.1)
    await upkeep(scene, "n2").sweep()
    known = Sender("n1", scene.world.hosts["n1"].incarnation)
    scene.at("n2").replication.accept(known, pushes[0])
    assert row_count(scene, "n2") == 0
    assert scene.copies().keys() == {"n1"}


@simulated(nodes=2)
async def test_a_session_in_use_is_never_swept_before_its_lifetime_ends(scene: Scene) -> None:
    await scene.create("n1", a="1")
    for _ in range(int(LIFETIME / IDLE * 2) - 1):
        await asyncio.sleep(IDLE / 2)
        scene.at("n1").touch(GROUP, KEY)
        assert await upkeep(scene, "n1").sweep() == 0
    await asyncio.sleep(IDLE / 2 + MOMENT)
    assert await upkeep(scene, "n1").sweep() == 2


@simulated(nodes=2)
async def test_a_tombstone_stays_until_no_copy_can_have_the_session(scene: Scene) -> None:
    """R11: until the latest deadline that any copy can have, and ε."""
    await scene.create("n1", a="1")
    await scene.log_out("n1")
    await asyncio.sleep(LIFETIME)
    assert await upkeep(scene, "n2").sweep() == 0
    with MemoryReader(scene.world.hosts["n2"].memory) as reader:
        session = get_session(reader, GROUP, KEY)
    assert session is not None
    assert session.destroyed
    await asyncio.sleep(MOMENT)
    assert await upkeep(scene, "n2").sweep() == 1


@simulated(nodes=2)
async def test_other_sessions_of_the_group_stay(scene: Scene) -> None:
    await scene.create("n1", a="1")
    other = b"\x02" * 16
    short = SessionChange(other, create=Create(10_000, 0), puts=(("x", "value", b"1"),))
    await scene.at("n1").commit(Batch(GROUP, (short,)), fresh=False)
    await asyncio.sleep(10 + grace(10_000) / 1000 + 0.1)
    assert await upkeep(scene, "n1").sweep() == 2
    assert await scene.see("n1") == {"a": "1"}
    with MemoryReader(scene.world.hosts["n1"].memory) as reader:
        assert get_session(reader, GROUP, other) is None


@simulated(nodes=2)
async def test_a_promise_without_a_copy_is_kept_for_its_own_time(scene: Scene) -> None:
    """R3: also where nothing is held a lower epoch is refused."""
    state = scene.at("n2")
    epoch = Epoch(1, 7, "n1")
    held = scene.world.hosts["n1"].incarnation
    question = Promise((GROUP,), epoch)
    await state.node.peers.call("n1", question, 1.0)  # type: ignore[union-attr]
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert (record.promise, record.held, record.position) == (epoch, False, NO_POSITION)
    await asyncio.sleep(PROMISE_TTL / 1000 - 1)
    await upkeep(scene, "n1").sweep()
    assert scene.world.hosts["n1"].record(GROUP) is not None
    await asyncio.sleep(2)
    await upkeep(scene, "n1").sweep()
    assert scene.world.hosts["n1"].record(GROUP) is None
    assert scene.world.hosts["n1"].incarnation == held


@simulated(nodes=2)
async def test_a_sweep_deletes_few_rows_in_one_transaction(scene: Scene) -> None:
    """A full map cannot do more: what is left goes with the next sweeps."""
    await scene.create("n1", **{f"e{index}": "x" for index in range(2 * ROWS_AT_ONCE)})
    await asyncio.sleep(IDLE + GRACE + 0.1)
    before = row_count(scene, "n1")
    sweeps = 0
    while row_count(scene, "n1"):
        left = row_count(scene, "n1")
        _, swept = upkeep(scene, "n1").sweep_some(None)
        assert 0 < swept <= ROWS_AT_ONCE
        assert row_count(scene, "n1") == left - swept
        sweeps += 1
    assert sweeps == -(-before // ROWS_AT_ONCE)
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert not record.held


# --- restoring copies ----------------------------------------------------------------------------


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_nothing_is_copied_elsewhere_before_the_delay(scene: Scene) -> None:
    """System 7 (b): copying starts when the delay has ended, not earlier."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await asyncio.sleep(HEAL_AFTER - 1)
    assert await repair_everywhere(scene) == 0
    assert set(scene.copies()) == {"n1"}
    await asyncio.sleep(2)
    assert await repair_everywhere(scene) == 1
    assert set(scene.copies()) == {"n1", "n3"}
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.seats == ("n1", "n3"), "the seat goes to who has the copy now"


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_the_owner_of_a_seat_that_returns_takes_it_again(scene: Scene) -> None:
    """System 7 (a): it is brought up to date, and the temporary holder gives its copy up."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    assert (await scene.put("n1", b="2")).holders == ("n1", "n3")
    await scene.restart("n2", kept=True)
    assert await repair_everywhere(scene) >= 1
    assert set(scene.copies()) == {"n1", "n2"}
    assert scene.world.hosts["n2"].content(GROUP) == scene.world.hosts["n1"].content(GROUP)
    assert scene.at("n2").node.counters.pushes_full == 0, "system 7 (c): the difference is enough"
    record = scene.world.hosts["n1"].record(GROUP)
    assert record is not None
    assert record.leaving == ()


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_an_owner_that_returns_without_its_store_is_filled(scene: Scene) -> None:
    """System 7 (d)."""
    await scene.create("n1", a="1")
    await scene.crash("n2")
    await scene.restart("n2", kept=False)
    assert await repair_everywhere(scene) == 1
    assert set(scene.copies()) == {"n1", "n2"}
    await scene.crash("n1")
    assert await scene.see("n2") == {"a": "1"}


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_an_idle_group_whose_primary_died_is_promoted_by_its_first_holder(
    scene: Scene,
) -> None:
    """System 6 (a): without any request it has all its copies again, and survives another crash."""
    await scene.create("n1", a="1")
    await scene.crash("n1")
    await asyncio.sleep(HEAL_AFTER - 1)
    assert await repair_everywhere(scene) == 0
    await asyncio.sleep(2)
    assert await repair_everywhere(scene) == 1
    assert set(scene.copies()) == {"n2", "n3"}
    assert scene.at("n2").held(GROUP, scene.cookie) is not None
    scene.world.forgotten.add("n1")
    await scene.crash("n2")
    assert await scene.see("n3") == {"a": "1"}


@simulated(nodes=4, options=Options(backups=2, heal_after=HEAL_AFTER))
async def test_only_the_first_living_holder_promotes(scene: Scene) -> None:
    """R10: two holders do not heal one group."""
    await scene.create("n1", a="1")
    assert set(scene.copies()) == {"n1", "n2", "n3"}
    await scene.crash("n1")
    await asyncio.sleep(HEAL_AFTER + 1)
    assert await upkeep(scene, "n3").repair() == 0
    assert await upkeep(scene, "n2").repair() == 1
    assert set(scene.copies()) == {"n2", "n3", "n4"}


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_when_all_is_well_nothing_is_read_again(scene: Scene) -> None:
    """System 7 (i): a node that looked and found nothing to do looks again when things change."""
    await scene.create("n1", a="1")
    assert await upkeep(scene, "n1").repair() == 0
    before = len(scene.world.lines)
    for _ in range(100):
        assert await upkeep(scene, "n1").repair() == 0
    assert len(scene.world.lines) == before


@simulated(options=Options(backups=1, heal_after=HEAL_AFTER))
async def test_every_group_of_a_dead_backup_is_healed(scene: Scene) -> None:
    """System 6: more groups than are repaired side by side."""
    made = [bytes([0x80, number]) + bytes(10) for number in range(40)]
    for group in made:
        change = SessionChange(KEY, create=LIFETIMES, puts=(("a", "value", b"1"),))
        await scene.at("n1").commit(Batch(group, (change,)), fresh=True)
    await scene.crash("n3")
    await asyncio.sleep(HEAL_AFTER + 1)
    await repair_everywhere(scene)
    with MemoryReader(scene.world.hosts["n2"].memory) as reader:
        found: dict[bytes, GroupRecord] = dict(groups(reader))
        assert set(found) == set(made)
        for group in made:
            mine, theirs = get_group(reader, group), scene.world.hosts["n1"].record(group)
            assert mine is not None
            assert theirs is not None
            assert mine.position == theirs.position
